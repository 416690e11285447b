"""SBOM of the package on each Debian release, by CycloneDX's own tool: sbom.py DEB OUT.

cyclonedx-py asks a Python where its packages are, and reads them there. Here that is a copy of what
apt has installed with the .deb in a minimal Debian: what is listed is what a host gets, in Debian's
versions, and nothing of the machine that makes the list.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chroot import Chroot
from roots import RELEASES, root_tree

CHECKOUT = Path(__file__).resolve().parents[2]


def make(deb: Path, release: str, out: Path) -> Path:
    """The SBOM for that release of Debian."""
    bom = out / f"quantum-ess-{release}.cdx.json"
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        shutil.copy(deb, place)
        with Chroot(root_tree(release), {place: "/in"}) as chroot:
            chroot.run(
                f"apt-get -y --no-install-recommends install /in/{deb.name};"
                "cp -r /usr/lib/python3/dist-packages /in/packages"
            )
        python = place / "python3"  # asked for its sys.path, and for nothing else
        python.write_text(f"#!/bin/sh\necho '{json.dumps([str(place / 'packages')])}'\n")
        python.chmod(0o755)
        tool = (str(Path(sys.executable).with_name("cyclonedx-py")), "environment")
        options = ("--output-reproducible", "--pyproject", str(CHECKOUT / "pyproject.toml"))
        subprocess.run((*tool, *options, "--output-file", bom, str(python)), check=True)
    # pyproject.toml takes the version from the module, so the tool does not know it.
    text = json.loads(bom.read_text())
    text["metadata"]["component"]["version"] = deb.name.split("_")[1]
    bom.write_text(json.dumps(text, indent=2) + "\n")
    return bom


def main(deb: str, out: str) -> None:
    """Make one for each release of Debian."""
    for release in RELEASES:
        print(make(Path(deb).resolve(strict=True), release, Path(out)))


if __name__ == "__main__":
    main(*sys.argv[1:])
