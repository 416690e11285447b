"""SBOM of the package on each Debian release, by CycloneDX's own tool: sbom.py DEB OUT.

cyclonedx-py asks a Python for what is installed for it. Here that Python is the one of a minimal
Debian in which apt has installed the .deb: so what is listed is what a host gets, in Debian's
versions.
"""

import json
import re
import shlex
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
    with tempfile.TemporaryDirectory() as place:
        shutil.copy(deb, place)
        with Chroot(root_tree(release), {Path(place): "/in"}) as chroot:
            chroot.run(f"apt-get -y --no-install-recommends install /in/{deb.name}")
            python = Path(place) / "python3"
            python.write_text(f'#!/bin/sh\nexec {shlex.join(chroot.command("python3"))} "$@"\n')
            python.chmod(0o755)
            tool = (str(Path(sys.executable).with_name("cyclonedx-py")), "environment")
            options = ("--output-reproducible", "--pyproject", str(CHECKOUT / "pyproject.toml"))
            subprocess.run((*tool, *options, "--output-file", bom, str(python)), check=True)
    listed = {component["name"] for component in json.loads(bom.read_text())["components"]}
    depends = subprocess.check_output(("dpkg-deb", "--field", deb, "Depends"), text=True)
    wanted = set(re.findall(r"python3-(jeepney|redis)", depends))
    if not wanted <= listed:
        sys.exit(f"{bom}: {sorted(wanted - listed)} missing; listed: {sorted(listed)}")
    return bom


def main(deb: str, out: str) -> None:
    """Make one for each release of Debian."""
    for release in RELEASES:
        print(make(Path(deb).resolve(strict=True), release, Path(out)))


if __name__ == "__main__":
    main(*sys.argv[1:])
