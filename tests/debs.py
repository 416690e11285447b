"""Other versions of the package under test: the same .deb, taken apart and put together again."""

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path


def field(deb: Path, name: str) -> str:
    """A field of the .deb's control file."""
    return subprocess.check_output(("dpkg-deb", "--field", deb, name), text=True).strip()


def repack(
    deb: Path, version: str, into: Path, edit: Callable[[Path], None] = lambda root: None
) -> Path:
    """The package as another version, below `into`; `edit` may change the unpacked tree."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "root"
        subprocess.run(("dpkg-deb", "--raw-extract", deb, root), check=True)
        control = root / "DEBIAN/control"
        text = re.sub("^Version: .*", f"Version: {version}", control.read_text(), flags=re.M)
        control.write_text(text)
        edit(root)
        command = ("dpkg-deb", "--build", "-Znone", "--root-owner-group", root, into)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return into / f"{field(deb, 'Package')}_{version}_all.deb"


def previous(deb: Path, into: Path) -> Path:
    """A version that this one upgrades: with another conffile, another generator, a file less."""

    def edit(root: Path) -> None:
        for file in (root / "DEBIAN/conffiles").read_text().split():
            conffile = root / file.lstrip("/")
            conffile.write_text("# As the previous version shipped it.\n" + conffile.read_text())
        for script in (root / "usr/lib/systemd/system-generators").iterdir():
            script.write_text(script.read_text() + "# previous\n")
        (root / "usr/lib/quantum-ess/of-the-previous-version").write_text("dropped since\n")

    return repack(deb, f"{field(deb, 'Version')}~previous", into, edit)
