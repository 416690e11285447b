"""Builds of the source package, for the tests of what the archive would ask of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from archive.build import Builder
from roots import build_root

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def builder(release: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """Builds the source package of dist/ in a minimal chroot of the release, without network."""
    tree = build_root(release, CHECKOUT / "debian/control")
    with Builder(tree, CHECKOUT / "dist", tmp_path_factory.mktemp("built")) as builder:
        yield builder


@pytest.fixture(scope="session")
def built(builder: Builder) -> Path:
    """A directory with what the plain build makes: .deb, .dsc, .changes, .buildinfo."""
    return builder.build("plain", place="/build/first")
