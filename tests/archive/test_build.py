"""Build: offline in a minimal chroot, twice the same, with each profile; lintian has no word."""

import shutil
import subprocess
from pathlib import Path

import pytest

from archive.build import Builder
from archive.conftest import CHECKOUT
from chroot import Chroot
from host import CommandFailed
from roots import tools_root

# What a release's lintian can't know, with the reason; nothing else is suppressed.
SUPPRESSED = {
    "bookworm": {
        # Of a later lintian's release; the package follows the newest policy there is.
        "newer-standards-version",
        # Dropped from lintian since: Debian no longer asks for init scripts. An override would be
        # an unknown tag to Debian 13's.
        "package-supports-alternative-init-but-no-init.d-script",
    },
    "trixie": set[str](),
}


def only(directory: Path, pattern: str) -> Path:
    """The one file of that pattern."""
    (found,) = directory.glob(pattern)
    return found


def contents(deb: Path) -> str:
    """What differs in two packages, made readable: members, their modes, owners, sizes, times."""
    return subprocess.check_output(("dpkg-deb", "--contents", deb), text=True)


def test_a_build_reaches_no_network(builder: Builder) -> None:
    """The chroot that the builds are in has no way out; loopback is all that policy allows."""
    with pytest.raises(CommandFailed):
        builder.chroot.run(
            "python3 -c 'import socket; socket.create_connection((\"192.0.2.1\", 80), 5)'"
        )


def test_lintian(release: str, built: Path) -> None:
    """Not a word, pedantic and experimental tags included, from the release's own lintian."""
    with Chroot(tools_root(release), {built: "/built"}) as chroot:
        suppress = ",".join(sorted(SUPPRESSED[release]))
        option = f"--suppress-tags {suppress}" if suppress else ""
        said = chroot.run(
            f"lintian --allow-root --pedantic -E -I {option} /built/*.changes 2>&1 || :"
        )
    assert said == ""


SERVED = """
cp -r /source /tmp/source; cd /tmp/source
sed -i 's|https://[^/]*|http://127.0.0.1:8080|' debian/watch
mkdir -p /tmp/served/releases/old
touch /tmp/served/releases/quantum-ess_9.8.7.orig.tar.xz /tmp/served/releases/SHA256SUMS
cp /built/*.orig.tar.xz /tmp/served/releases/
python3 -m http.server --bind 127.0.0.1 -d /tmp/served 8080 >/dev/null 2>&1 & server=$!
timeout 60 sh -c 'until GET http://127.0.0.1:8080 >/dev/null; do sleep 0.1; done'
status=0; uscan --no-download --dehs || status=$?
kill $server
exit $status
"""


def test_watch_file(release: str, built: Path, tmp_path: Path) -> None:
    """uscan finds a newer release where `make release` would be served, and no other file of it."""
    shutil.copytree(CHECKOUT / "debian", tmp_path / "debian")
    with Chroot(tools_root(release), {built: "/built", tmp_path: "/source"}) as chroot:
        said = chroot.run(SERVED)
    version = only(built, "*.orig.tar.xz").name.removesuffix(".orig.tar.xz").partition("_")[2]
    assert f"<debian-uversion>{version}</debian-uversion>" in said
    assert "<upstream-version>9.8.7</upstream-version>" in said
    assert "<status>newer package available</status>" in said
    assert "<warnings>" not in said


def test_two_builds_are_the_same(builder: Builder, built: Path) -> None:
    """Another path, time zone, locale, umask and user name; and without the tests."""
    builder.chroot.run("dpkg --remove python3-pytest python3-hypothesis python3-prometheus-client")
    other = builder.build(
        "other",
        place="/srv/another-place/and/a/deeper/one",
        umask="0077",
        options="-Pnocheck",
        DEB_BUILD_OPTIONS="nocheck parallel=2",
        TZ="Pacific/Kiritimati",
        LC_ALL="tr_TR.UTF-8",
        LANG="tr_TR.UTF-8",
        HOME="/nonexistent",
        USER="somebody",
    )
    one, two = only(built, "*.deb"), only(other, "*.deb")
    assert contents(one) == contents(two)
    assert one.read_bytes() == two.read_bytes()
    assert only(built, "*.dsc").read_bytes() == only(other, "*.dsc").read_bytes()


def test_without_documentation(builder: Builder, built: Path) -> None:
    """The profile nodoc leaves out the documentation, and nothing else."""
    options = {"DEB_BUILD_OPTIONS": "nodoc nocheck"}
    bare = builder.build("nodoc", place="/build/nodoc", options="-Pnodoc,nocheck -b", **options)

    def files(directory: Path) -> set[str]:
        rows = contents(only(directory, "*.deb")).splitlines()
        return {row.split(maxsplit=5)[5] for row in rows if row[0] != "d"}

    assert {name for name in files(built) if "/man/man" in name}
    left_out = files(built) - files(bare)
    assert files(bare) < files(built)
    documentation = ("./usr/share/man/", "./usr/share/doc/")
    assert {name for name in left_out if not name.startswith(documentation)} == set()
    assert {name for name in files(bare) if "/man/man" in name} == set()
