"""Release: what `make release` puts together once all checks have passed."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from archive.conftest import CHECKOUT
from chroot import Chroot
from conftest import package
from debs import field
from roots import RELEASES, root_tree

DEPENDENCIES = {"jeepney": "jeepney", "python-daemon": "daemon", "redis": "redis"}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What archive/release makes of dist/, in another directory than the checkout's."""
    place = tmp_path_factory.mktemp("release")
    for name in (".venv", "debian", "pyproject.toml", "tests"):
        (place / name).symlink_to(CHECKOUT / name)
    (place / "dist").mkdir()
    for file in (CHECKOUT / "dist").glob("quantum-ess_*"):
        shutil.copy(file, place / "dist")
    environment = {k: v for k, v in os.environ.items() if k != "QUANTUM_ESS_APT_KEY"}
    for command in (("apt-repo", "dist/apt", f"main={package()}"), ("release", "dist/release")):
        program = (CHECKOUT / "archive" / command[0], *command[1:])
        subprocess.run(program, cwd=place, env=environment, check=True)
    return place / "dist/release"


def test_all_is_there(released: Path) -> None:
    """Both packages, the repository, notes; and the checksums name every file but their own."""
    version = field(package(), "Version")
    upstream = version.rpartition("-")[0]
    for name in (
        *(f"quantum-ess_{version}{end}" for end in ("_all.deb", ".dsc", ".debian.tar.xz")),
        f"quantum-ess_{upstream}.orig.tar.xz",
        *(f"apt/quantum-ess-{release}.sources" for release in RELEASES),
        *(f"apt/dists/{release}/InRelease" for release in RELEASES),
    ):
        assert (released / name).exists(), name
    listed = re.findall("^[0-9a-f]{64}  (.*)$", (released / "SHA256SUMS").read_text(), re.M)
    files = [path for path in released.rglob("*") if path.is_file()]
    assert sorted(listed) == sorted(
        str(path.relative_to(released)) for path in files if path.name != "SHA256SUMS"
    )
    subprocess.run(("sha256sum", "--quiet", "--check", "SHA256SUMS"), cwd=released, check=True)
    notes = (released / "RELEASE-NOTES").read_text()
    entry = (CHECKOUT / "debian/changelog").read_text().split("\n\n")[1]
    assert notes.split() == ["quantum-ess", version, *entry.split()]


@pytest.mark.parametrize("debian", RELEASES, ids=("12", "13"))  # both beside 13's tests
def test_sbom(released: Path, debian: str) -> None:
    """It has what a host of that release gets, in its versions, and nothing of this machine."""
    bom = json.loads((released / f"quantum-ess-{debian}.cdx.json").read_text())
    assert bom["metadata"]["component"]["name"] == "quantum-ess"
    assert bom["metadata"]["component"]["version"] == field(package(), "Version")
    listed = {component["name"]: component["version"] for component in bom["components"]}
    with Chroot(root_tree(debian)) as chroot:
        for name, suffix in DEPENDENCIES.items():
            shown = chroot.run(f"apt-cache show python3-{suffix} | sed -n 's/^Version: //p'")
            assert shown.startswith(listed[name]), name
    assert not {"pip", "pytest", "mypy", "ruff", "devscripts", "debhelper"} & listed.keys()
