"""stdeb: what the sdist says, debian/control must say; and newer dependencies, to test against."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from archive.conftest import CHECKOUT
from chroot import Chroot
from conftest import package
from debs import field
from roots import cache_directory, locked, tools_root

# Newer than the release has: package -> how it is built, name on PyPI, version. On trixie, with its
# own jeepney and python-daemon, these are the newest that there are. On bookworm redis is the last
# that stdeb can build.
NEXT = {
    "bookworm": {
        "python3-redis": ("stdeb", "redis", "5.0.8"),
        "python3-jeepney": ("plain", "jeepney", "0.9.0"),
        "python3-daemon": ("plain", "python_daemon", "3.1.2"),
    },
    "trixie": {"python3-redis": ("plain", "redis", "8.1.0")},
}
# Tests on hosts of what these libraries do: the marker, the guard, and what PID 1 answers.
FILES = tuple(f"tests/host/test_{name}.py" for name in ("marker", "status", "guard"))
CHOSEN = (
    "(key_and_event and command) or last_word or test_json or (without_d_bus and None)"
    " or pid_1_hung or daemon or password"
)
Chroots = tuple[Chroot, Path]


@pytest.fixture(scope="module")
def chroot(release: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chroots]:
    """Where stdeb is installed; what goes in and comes out lies in the directory beside it."""
    place = tmp_path_factory.mktemp("stdeb")
    binds = {place: "/place", CHECKOUT / "archive": "/archive"}
    with Chroot(tools_root(release), binds) as chroot:
        yield chroot, place


def debianize(chroot: Chroots, how: str, name: str, sdist: Path) -> Path:
    """The .deb of an sdist that lies in the chroot's directory."""
    inside, place = chroot
    inside.run(f"/archive/debianize {how} {name} /place/{sdist.name} /place/{name}")
    (deb,) = (place / name).glob("*.deb")
    return deb


def names(depends: str) -> set[str]:
    """The packages of a Depends field that a Python project can ask for."""
    found = {re.split(r"[ :(]", name.strip())[0] for name in depends.split(",")}
    return {name for name in found if name.startswith("python3-")}


def modules(deb: Path) -> set[str]:
    """The Python modules that a package installs."""
    listed = subprocess.check_output(("dpkg-deb", "--contents", deb), text=True)
    return set(re.findall(r"\./usr/lib/python3/dist-packages/(quantum_ess/\S+\.py)$", listed, re.M))


def test_control_says_what_the_sdist_says(chroot: Chroots) -> None:
    """Depends, version, description and modules of our .deb are those that stdeb derives."""
    _, place = chroot
    subprocess.run((CHECKOUT / "archive/sdist", place), check=True)
    (sdist,) = place.glob("quantum*ess-*.tar.gz")
    derived = debianize(chroot, "stdeb", "quantum-ess", sdist)
    ours = package()
    by_hand = re.search(
        r"^Package: quantum-ess\n(?:.+\n)*?Depends:((?:\n? .*)+)",
        (CHECKOUT / "debian/control").read_text(),
        re.M,
    )
    assert by_hand is not None
    assert names(by_hand[1]) == names(field(derived, "Depends"))
    assert names(field(ours, "Depends")) == names(by_hand[1])
    assert field(derived, "Version").rpartition("-")[0] == field(ours, "Version").split("-")[0]

    def text(deb: Path) -> str:
        return re.sub(r"(\n \.)+$", "", field(deb, "Description"))

    assert text(derived) == text(ours)
    assert modules(derived) == modules(ours)


def download(name: str, version: str) -> Path:
    """An sdist of PyPI, by pip; kept where the root trees are."""
    place = cache_directory() / "sdists"
    with locked(cache_directory()):
        found = list(place.glob(f"{name}-{version}.tar.gz"))
        if not found:
            pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
            wanted = ("--no-binary", ":all:", "--dest", str(place), f"{name}=={version}")
            subprocess.run((*pip, *wanted), check=True)
            found = list(place.glob(f"{name}-{version}.tar.gz"))
    return found[0]


def test_with_newer_dependencies(release: str, chroot: Chroots, tmp_path: Path) -> None:
    """They go into the repository's component `next`, and the package works with them."""
    debs = []
    for name, (how, project, version) in NEXT[release].items():
        sdist = download(project, version)
        (chroot[1] / sdist.name).write_bytes(sdist.read_bytes())
        debs.append(debianize(chroot, how, name, chroot[1] / sdist.name))
        assert field(debs[-1], "Version").startswith(version)
    places = [f"{release}/next={deb}" for deb in debs]
    repository = tmp_path / "apt"
    subprocess.run(
        (CHECKOUT / "archive/apt-repo", repository, f"main={package()}", *places), check=True
    )
    listed = (repository / f"dists/{release}/next/binary-amd64/Packages").read_text()
    assert set(re.findall(r"^Package: (.*)$", listed, re.M)) == set(NEXT[release])
    tests = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *FILES)
    tests += ("-k", f"{release} and ({CHOSEN})")
    environment = os.environ | {"QUANTUM_ESS_MORE_DEBS": ":".join(map(str, debs))}
    done = subprocess.run(tests, cwd=CHECKOUT, env=environment, text=True, stdout=subprocess.PIPE)
    print(done.stdout[-6000:])
    assert done.returncode == 0
