"""The package as installed: its own autopkgtest on booted hosts, and piuparts."""

import os
import subprocess
from pathlib import Path

from archive.conftest import CHECKOUT
from chroot import ENCLOSED
from conftest import package
from debs import previous
from roots import SYSTEM_PATH, piuparts_root

EXTRA = ("dpkg-dev",)  # of autopkgtest, not of the package
TESTS = ("smoke", "stop", "latch", "reboot")


def test_autopkgtest(release: str, tmp_path: Path) -> None:
    """Every test of debian/tests passes, the one with a reboot too."""
    server = Path(__file__).with_name("virt-booted")
    output = tmp_path / "output"
    (source,) = (CHECKOUT / "dist").glob("*.dsc")
    done = subprocess.run(
        (
            *(*ENCLOSED, "autopkgtest", "--no-built-binaries", f"--output-dir={output}"),
            *(str(package()), str(source), "--", str(server), release, *EXTRA),
        ),
        env=os.environ
        | {"PATH": SYSTEM_PATH, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    print(done.stdout[-6000:])
    summary = (output / "summary").read_text()
    assert {line.split()[0]: line.split()[1] for line in summary.splitlines()} == dict.fromkeys(
        TESTS, "PASS"
    )
    assert done.returncode == 0


def test_piuparts(release: str, deb: Path, tmp_path: Path) -> None:
    """Install, upgrade from the previous version, remove, purge: nothing is left behind."""
    # A mirror with the previous version, what it depends on, and logrotate, for piuparts rotates
    # when the package is gone; there is no other.
    minimal = piuparts_root(release)
    debs = [previous(deb, tmp_path), *minimal.glob("var/cache/apt/archives/*.deb")]
    mirror = tmp_path / "mirror"
    places = [f"{release}/main={file}" for file in debs]
    subprocess.run((CHECKOUT / "archive/apt-repo", mirror, *places), check=True)
    key = tmp_path / "key/etc/apt/trusted.gpg.d/quantum-ess.asc"
    key.parent.mkdir(parents=True)
    key.write_bytes((mirror / "quantum-ess.asc").read_bytes())
    base, work = tmp_path / "base", tmp_path / "work"
    subprocess.run(("chmod", "-R", "a+rX", tmp_path), check=True)
    base.mkdir(mode=0o755)
    work.mkdir()
    # In memory: half of the time would be fsync's.
    mounts = (
        f"mount -t overlay overlay -o lowerdir={tmp_path / 'key'}:{minimal} {base};"
        f'mount -t tmpfs tmpfs {work}; "$@"'
    )
    done = subprocess.run(
        (
            *(*ENCLOSED, "sh", "-ec", mounts, "sh", "piuparts", f"--tmpdir={work}"),
            *("--no-eatmydata", f"--existing-chroot={base}", f"--distribution={release}"),
            *(f"--mirror=file:{mirror} main", f"--bindmount={mirror}"),
            # debconf's own, on Debian 13: made once a package may have questions.
            "--ignore-regex=^/var/cache/debconf/tmp.ci/?$",
            str(deb),
        ),
        env=os.environ | {"PATH": SYSTEM_PATH},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    print(done.stdout[-6000:])
    assert done.returncode == 0
