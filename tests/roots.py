"""Debian root trees for the test hosts, made once by mmdebstrap and kept.

A tree is only ever the lower layer of an overlay, so nothing that a host does changes it. It is
stored under a name that contains the hash of its recipe: another recipe is another tree.
"""

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

RELEASES = ("bookworm", "trixie")  # Debian 12 with systemd 252, Debian 13 with systemd 257

INCLUDE = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "python3",
    "redis-server",  # a kept unit, and the marker's home
    "procps",
    "strace",  # to make a system call fail where a test wants it
    "stress-ng",  # more work than the machine can do
    "sudo",  # the audit trail names who stood behind it
    "apt-utils",
)
DEPENDENCIES = (
    "python3-jeepney",
    "python3-daemon",
    "python3-redis",
    "apprise",
    "python3-prometheus-client",
)

# A host has no network: apt finds the dependencies of the .deb in its own cache or not at all.
# They are downloaded, not installed: that they get installed is the package's to declare.
# With logrotate beside them, which those tests install that have it rotate.
DOWNLOAD = "apt-get -y -d --no-install-recommends install logrotate " + " ".join(DEPENDENCIES)
# Of all others it need not know: to read Debian's whole list takes apt two seconds of processor
# time, each time that it is run.
FORGET = r"""
{ dpkg-query -Wf '${Package}\n'; ls /var/cache/apt/archives | sed 's/_.*//'; } >/tmp/known
for list in /var/lib/apt/lists/*_Packages; do
    awk 'NR == FNR {known[$1]; next} /^Package: / {keep = $2 in known} keep' \
        /tmp/known "$list" >/tmp/list
    cat /tmp/list >"$list"
done
rm /tmp/known /tmp/list /var/cache/apt/*.bin
apt-cache gencaches
"""
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def cache_directory() -> Path:
    """Where trees and built tools are kept: QUANTUM_ESS_TEST_CACHE, or a place under /var/cache."""
    return Path(os.environ.get("QUANTUM_ESS_TEST_CACHE", "/var/cache/quantum-ess-tests"))


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One builder at a time in `directory`; the lock goes with the process that holds it."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _recipe(extra: Sequence[str]) -> tuple[str, ...]:
    """mmdebstrap's options for a tree with these packages beside the usual ones."""
    return (
        "--variant=minbase",
        "--include=" + ",".join((*INCLUDE, *extra)),
        "--skip=cleanup/apt/lists",
        "--skip=cleanup/apt/cache",
        f'--customize-hook=chroot "$1" {DOWNLOAD}',
        f'--customize-hook=chroot "$1" sh -ec {shlex.quote(FORGET)}',
    )


def root_tree(release: str, extra: Sequence[str] = ()) -> Path:
    """The root tree of `release`, built now if it is not there (20 s); raises CalledProcessError.

    `extra` names packages that it holds beside the usual ones: another tree for each such list.
    An interrupted build leaves only a `making.*` directory, which the next build removes.
    """
    return tree(release, _recipe(extra))


def build_root(release: str, control: Path) -> Path:
    """The minimal tree that builds the package of this debian/control: nothing but what it names.

    With locales for the second of two builds that must be the same, and eatmydata for speed.
    """
    field = re.search(r"^Build-Depends:((?:\n .*)+)", control.read_text(), re.M)
    assert field is not None
    wanted = re.sub(r" *<[^>]*>", "", " ".join(field[1].split())).rstrip(",")
    install = "apt-get -y --no-install-recommends satisfy"
    return tree(
        release,
        (
            "--variant=buildd",
            "--include=locales,fakeroot,eatmydata",
            f'--customize-hook=chroot "$1" {install} {shlex.quote(wanted)}',
            '--customize-hook=chroot "$1" localedef -i tr_TR -f UTF-8 tr_TR.UTF-8',
        ),
    )


def piuparts_root(release: str) -> Path:
    """The tree in which piuparts installs and purges; in its cache what is installed there.

    That is what the package depends on, and logrotate. With systemd: what that makes at its own
    installation, and leaves, is not the package's.
    """
    needed = [name for name in DEPENDENCIES if name.startswith("python3-")]
    download = f"apt-get -y -d --no-install-recommends install logrotate {' '.join(needed)}"
    return tree(
        release,
        (
            *("--variant=minbase", "--include=systemd", "--skip=cleanup/apt/cache"),
            f'--customize-hook=chroot "$1" sh -ec "apt-get clean; {download}"',
        ),
    )


def tools_root(release: str) -> Path:
    """The tree with what judges packages (lintian, uscan), and what makes them of PyPI's sdists."""
    tools = "lintian devscripts libwww-perl fakeroot eatmydata debhelper pybuild-plugin-pyproject"
    stdeb = "python3-stdeb python3-all flit python3-hatchling python3-packaging python3-docutils"
    needed = [name for name in DEPENDENCIES if name.startswith("python3-")]
    include = ",".join((*tools.split(), *stdeb.split(), *needed))
    return tree(release, ("--variant=buildd", f"--include={include}"))


def tree(release: str, recipe: Sequence[str]) -> Path:
    """The root tree that mmdebstrap makes with these options, built if it is not there."""
    key = hashlib.sha256("\n".join((release, *recipe)).encode()).hexdigest()[:12]
    place = cache_directory() / f"{release}-{key}"
    if place.is_dir():  # it is renamed into place whole: nobody need wait for another's build
        return place
    with locked(cache_directory() / "locks" / place.name):  # several trees may be built at once
        if not place.is_dir():
            _build(release, recipe, place)
    return place


def _build(release: str, recipe: Sequence[str], tree: Path) -> None:
    prefix = f"making.{tree.name}."
    for left in tree.parent.glob(prefix + "*"):
        shutil.rmtree(left)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=tree.parent))
    # In a mount namespace of its own no mount of an interrupted build can stay behind.
    command = ("unshare", "--mount", "--propagation=private", "mmdebstrap", *recipe)
    subprocess.run(
        (*command, "--format=directory", release, str(temporary / "root")),
        check=True,
        env=os.environ | {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8"},
    )
    (temporary / "root").rename(tree)
    temporary.rmdir()


def standin_binary() -> Path:
    """The stand-in for a trading service, compiled static so that it runs on every release."""
    source = Path(__file__).with_name("standin.c")
    key = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    binary = cache_directory() / f"standin-{key}"
    if binary.exists():
        return binary
    with locked(cache_directory()):
        if not binary.exists():
            temporary = binary.with_suffix(".tmp")
            options = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static")
            command = ("gcc", *options, "-o", str(temporary), str(source))
            subprocess.run(command, check=True)
            temporary.rename(binary)
    return binary
