"""Too little memory, process numbers, processor time: how the last sign of life spreads."""

import contextlib

import pytest

from faults.conftest import Table
from faults.fault import Fault
from faults.matrix import KINDS, Measured, Trigger
from faults.pressure import PRESSURE_FAULTS
from faults.services import SENTRY_STOPPED
from host import Host
from product import Ess
from trading import WAYS, Trading

STOPS = 10


CELLS = [
    pytest.param(fault, way, id=f"{fault.name}-{way}")
    for fault in PRESSURE_FAULTS
    for way in WAYS
    if way not in fault.impossible
]


@pytest.mark.parametrize(("fault", "way"), CELLS)
@pytest.mark.parametrize("more", [(), (SENTRY_STOPPED,)], ids=["sentry", "no sentry"])
def test_under_pressure(
    host: Host, table: Table, fault: Fault, way: str, more: tuple[Fault, ...]
) -> None:
    """Ten stops in a row of the same services; each within the limit."""
    trading = Trading(host, KINDS)
    name = " + ".join((fault.name, *(other.name for other in more), f"{STOPS} stops"))
    with contextlib.ExitStack() as stack:
        for other in more:
            stack.enter_context(other.made(host))
        for _ in range(STOPS):
            table.add(name, way, one(trading, fault, way))


def one(trading: Trading, fault: Fault, way: str) -> Measured:
    """One stop under it, released again without a restart."""
    host, ess = trading.host, Ess(trading.host)
    trading.start()
    trigger = Trigger(trading, *WAYS[way])
    with fault.made(host):
        trigger.begin()
        pull = trigger.end()
        trading.assert_stopped(pull.time, watch=0.3)
    life = max(0, trading.last_sign_of_life() - pull.time) / 1e6
    ess.wait_idle()
    ess("deactivate", "--no-start")
    ess.wait_idle()
    return Measured(life, pull.status)
