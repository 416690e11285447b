"""The matrix's key cells, its record of measurements, and the table at the end of a run."""

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from faults.matrix import Measured
from faults.pressure import OVERLOAD
from roots import RELEASES
from trading import WAYS

Cell = tuple[str, str, str]  # fault, trigger, release
CELL = "cell"  # the property of a test's report: a Cell, and what was measured


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is here, so that `make test` leaves out all of it but the key cells."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker("smoke"):
            item.add_marker(pytest.mark.long)
        if OVERLOAD.name in item.nodeid:
            item.add_marker(pytest.mark.alone)


class Table:
    """Where a test writes what it measured; in its report, since it may be another process's."""

    def __init__(self, properties: list[tuple[str, object]], release: str) -> None:
        self.properties = properties
        self.release = release

    def add(self, fault: str, way: str, measured: Measured) -> None:
        """One stop; several of the same are shown as their range."""
        self.properties.append((CELL, (fault, way, self.release, *measured)))


@pytest.fixture
def table(request: pytest.FixtureRequest, release: str) -> Table:
    """The table that is printed at the end of the run."""
    return Table(request.node.user_properties, release)


def _measured(reports: Iterable[object]) -> dict[Cell, list[Measured]]:
    """What the tests have measured, by the reports of their calls."""
    cells: dict[Cell, list[Measured]] = {}
    calls = [r for r in reports if isinstance(r, pytest.TestReport) and r.when == "call"]
    rows: list[Any] = [value for r in calls for name, value in r.user_properties if name == CELL]
    for fault, way, release, life, status in rows:
        cells.setdefault((fault, way, release), []).append(Measured(life, status))
    return cells


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Fault by trigger: ms to the last sign of life and exit status, for each release."""
    cells = _measured(report for several in terminalreporter.stats.values() for report in several)
    if not cells:
        return
    releases = [name for name in RELEASES if any(name == release for _, _, release in cells)]
    columns = [(way, release) for release in releases for way in WAYS]
    faults = list(dict.fromkeys(fault for fault, _, _ in cells))
    width = max(map(len, faults))
    write = terminalreporter.write_line
    terminalreporter.section("faults: ms from trigger to last sign of life (exit status)")
    write(" " * width + "".join(f"  {release:^38}" for release in releases))
    write(f"{'fault':{width}}" + "".join(f"  {way:>11}" for way, _ in columns))
    for fault in faults:
        row = [_shown(cells.get((fault, *column), [])) for column in columns]
        write(f"{fault:{width}}" + "".join(f"  {text:>11}" for text in row))
    for (fault, way, release), several in cells.items():
        lives = sorted(measured.life for measured in several)
        if len(lives) > 1:
            tenths = statistics.quantiles(lives, n=10, method="inclusive")
            spread = " ".join(f"{ms:.1f}" for ms in (lives[0], *tenths, lives[-1]))
            write(f"{release}, {way}, {fault}: by tenths, ms: {spread}")
    every = sorted(measured.life for several in cells.values() for measured in several)
    write(
        f"{' and '.join(releases)}: {len(every)} stops under {len(faults)} faults and pairs: "
        f"median {every[len(every) // 2]:.1f} ms, longest {every[-1]:.1f} ms, allowed 2000 ms"
    )


def _shown(several: list[Measured]) -> str:
    if not several:
        return "-"
    lives = [measured.life for measured in several]
    statuses = "/".join(map(str, sorted({measured.status for measured in several})))
    span = f"{min(lives):.0f}" if len(lives) == 1 else f"{min(lives):.0f}-{max(lives):.0f}"
    return f"{span} ({statuses})"
