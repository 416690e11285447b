"""One version and one description, wherever they are written: all places are held together here."""

import re
import tomllib
from pathlib import Path

import pytest

import quantum_ess
from quantum_ess.cli import build

CHECKOUT = next(
    place for place in Path(__file__).resolve().parents if (place / "debian/changelog").exists()
)
MAN_PAGES = sorted((CHECKOUT / "man").glob("*.[1-9]"))


def project() -> dict[str, str]:
    """What pyproject.toml says of the project."""
    with (CHECKOUT / "pyproject.toml").open("rb") as file:
        loaded: dict[str, str] = tomllib.load(file)["project"]
    return loaded


def test_changelog_and_module_agree() -> None:
    """All other places have the version from one of these two."""
    written = re.match(r"quantum-ess \((.+?)\)", (CHECKOUT / "debian/changelog").read_text())
    assert written is not None
    assert written[1].partition("-")[0] == quantum_ess.__version__
    assert "version" in project()["dynamic"]


def test_version_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build().parse_args(["--version"])
    assert capsys.readouterr().out == f"quantum-ess {quantum_ess.__version__}\n"


def test_one_description() -> None:
    """pyproject.toml's is that of the package, of quantum-ess(8), of the module and of --help."""
    description = project()["description"]
    control = (CHECKOUT / "debian/control").read_text()
    assert f"\nDescription: {description}\n" in control
    assert f"\n.Nd {description}\n" in (CHECKOUT / "man/quantum-ess.8").read_text()
    assert (quantum_ess.__doc__ or "").rstrip(".") == f"quantum-ess: {description}"
    assert (build().description or "").rstrip(".").lower() == description


def test_one_long_description() -> None:
    """pyproject.toml's text is that of the package."""
    with (CHECKOUT / "pyproject.toml").open("rb") as file:
        text = tomllib.load(file)["project"]["readme"]["text"].strip()
    debian = "".join(f" {line or '.'}\n" for line in text.split("\n"))
    assert debian in (CHECKOUT / "debian/control").read_text()


@pytest.mark.parametrize("page", MAN_PAGES, ids=lambda page: page.name)
def test_man_pages_name_no_version(page: Path) -> None:
    """Not one that could be forgotten: mdoc's .Os is without an argument."""
    assert "\n.Os\n" in page.read_text()
    assert quantum_ess.__version__ not in page.read_text()
