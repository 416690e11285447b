"""Building the source package as the archive's machines do: unpacked from the .dsc, offline."""

import shlex
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from chroot import Chroot


class Builder:
    """A minimal chroot, and a directory `out` with one directory for each build made in it."""

    def __init__(self, tree: Path, dist: Path, out: Path) -> None:
        self.out = out
        for file in (*dist.glob("*.dsc"), *dist.glob("*.tar.*")):
            shutil.copy(file, out)
        self.chroot = Chroot(tree, {out: "/out"})

    def __enter__(self) -> Self:
        self.chroot.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.chroot.__exit__(kind, error, trace)

    def build(
        self, name: str, place: str, umask: str = "022", options: str = "", **env: str
    ) -> Path:
        """Build in the directory `place` of the chroot; a directory with what came of it."""
        directory = shlex.quote(place)
        # eatmydata would be seen by the tests of the build, so it is only for unpacking.
        self.chroot.run(
            f"rm -rf {directory}; mkdir -p {directory} /out/{name}; cd {directory};"
            "cp /out/*.orig.tar.* .;"
            "eatmydata dpkg-source --no-check -x /out/*.dsc tree >/dev/null;"
            f"cd tree; umask {umask};"
            f"dpkg-buildpackage -us -uc {options} || exit 1;"
            f"cp ../*.* /out/{name}/",
            env=env,
        )
        return self.out / name
