"""Fixtures: hosts with the package and trading on them, on both Debian releases.

    host        a fresh host: the .deb installed, four normal stand-ins and the kept units running
    bare_host   a fresh host without the package
    make_host   makes hosts with the package, for tests that want them otherwise

Each test gets hosts of its own; they boot in a third of a second. Only the package's installation
is shared: done once a release by apt in a real host, whose disk the others stand on.
"""

import contextlib
import os
import random
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Protocol

import pluggy
import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

import remains
from host import Host, installed, lean
from roots import RELEASES, root_tree
from trading import Trading

Prepare = Callable[[Host], object]


class HostMaker(Protocol):
    """Makes a running host with the package; `prepare` may write files before it boots."""

    def __call__(self, prepare: Prepare | None = None) -> Host: ...


CHECKOUT = Path(__file__).parent.parent

# One for all processes of a run, which inherit it.
os.environ.setdefault("SEED", str(random.randrange(1 << 32)))


def package() -> Path:
    """The .deb under test: QUANTUM_ESS_DEB, or the newest in dist/; a failure if there is none."""
    if named := os.environ.get("QUANTUM_ESS_DEB"):
        return Path(named).resolve(strict=True)
    built = sorted(CHECKOUT.glob("dist/quantum-ess_*.deb"), key=lambda deb: deb.stat().st_mtime)
    if not built:
        pytest.fail("no dist/quantum-ess_*.deb: run `make deb`, or name one in QUANTUM_ESS_DEB")
    return built[-1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """An option of its own, so that -k and -m are left to whoever runs the tests."""
    parser.addoption("--alone", choices=("only", "not"), help="of those marked `alone`")


@pytest.hookimpl(trylast=True)  # what is below may have marked some
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is to run by itself, or all else."""
    wanted = config.getoption("--alone")
    if not wanted:
        return
    kinds: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        kinds[item.get_closest_marker("alone") is not None].append(item)
    items[:] = kinds[wanted == "only"]
    config.hook.pytest_deselected(items=kinds[wanted == "not"])


@pytest.fixture(scope="session")
def deb() -> Path:
    """The .deb under test."""
    return package()


@pytest.fixture(scope="session", autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """No process, mount, cgroup or directory of a host may outlive the session that made it.

    What an earlier run left when it was killed is removed first.
    """
    if not any("release" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield
        return
    if os.geteuid() != 0:
        pytest.exit("tests on hosts need root: they mount and boot", returncode=1)
    remains.remove_all()
    # What a shell starts with & ignores SIGINT: Ctrl-C on `make test` would leave it running.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    yield
    assert remains.remove_all() == [], "hosts were left behind"
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    assert [mount for mount in mounts if f"/{remains.PREFIX}{os.getpid()}-" in mount] == []


@pytest.fixture(scope="session", params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """Each Debian release in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def layers(release: str, deb: Path) -> list[Path]:
    """Disk layers of a host of `release` on which apt has installed the .deb.

    And what QUANTUM_ESS_MORE_DEBS names: newer versions of what it depends on.
    """
    more = os.environ.get("QUANTUM_ESS_MORE_DEBS", "").split(":")  # newer dependencies
    return installed(release, [*map(Path, filter(None, more)), deb])


@pytest.fixture
def bare_host(release: str, request: pytest.FixtureRequest) -> Iterator[Host]:
    """A running host without the package."""
    with (
        Host(release, [root_tree(release)], prepare=lean) as host,
        _journal_on_failure(host, request),
    ):
        yield host


@pytest.fixture
def make_host(
    release: str, layers: list[Path], request: pytest.FixtureRequest
) -> Iterator[HostMaker]:
    """Makes running hosts with the package installed; they end with the test."""
    with contextlib.ExitStack() as stack:

        def make(prepare: Prepare | None = None) -> Host:
            host = stack.enter_context(Host(release, layers, prepare=prepare))
            stack.enter_context(_journal_on_failure(host, request))
            return host

        yield make


@pytest.fixture
def host(make_host: HostMaker, request: pytest.FixtureRequest) -> Host:
    """A running host with the package installed; no trading yet unless `trading` is asked for."""
    return make_host(Trading if "trading" in request.fixturenames else None)


@pytest.fixture
def trading(host: Host) -> Trading:
    """Four normal stand-ins and the kept units, running on `host`."""
    trading = Trading(host)
    trading.start()
    return trading


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Each test to whoever is free first; those that share a host or a build stay together."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        text = (CHECKOUT / file).read_text()
        if 'scope="module"' not in text and "built: Path" not in text:
            return nodeid
        return f"{file} {[release for release in RELEASES if release in nodeid]}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling:
    """How pytest-xdist spreads the tests, whatever --dist says."""
    return Scheduling(config, log)


# What tests have counted, as a line each.

COUNTS = "counts"


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes a line that the end of the run shows, whichever process runs the test."""
    return lambda line: request.node.user_properties.append((COUNTS, line))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The counts, in the order of the tests' ends."""
    reports = [report for several in terminalreporter.stats.values() for report in several]
    calls = [r for r in reports if isinstance(r, pytest.TestReport) and r.when == "call"]
    lines = [row[1] for report in calls for row in report.user_properties if row[0] == COUNTS]
    if lines:
        terminalreporter.section("counts")
    for line in lines:
        terminalreporter.write_line(str(line))


# The journal of a test's hosts, read before they end and shown if the test failed.

FAILED = pytest.StashKey[bool]()


@contextlib.contextmanager
def _journal_on_failure(host: Host, request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if request.node.stash.get(FAILED, False):
        try:
            said = host.journal("-n", "80", "-o", "short-precise")
        except Exception as error:
            said = f"(no journal: {error})"
        print(f"\n--- journal of {host.release}, last 80 lines\n{said}\n--- console\n")
        print(host.console()[-2000:])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, "pluggy.Result[pytest.TestReport]", None]:  # no such name in Debian 12
    """Remember a failure, for the fixtures that end after it."""
    outcome = yield
    if outcome.get_result().failed:
        item.stash[FAILED] = True
