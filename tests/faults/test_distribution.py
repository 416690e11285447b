"""Eight times more work than the machine can do: how the time to the last sign of life spreads."""

import contextlib

import pytest

from faults.conftest import Table
from faults.fault import Fault
from faults.matrix import KINDS, Measured, Trigger
from faults.pressure import OVERLOAD
from faults.services import SENTRY_STOPPED
from host import Host
from product import Ess
from trading import WAYS, Trading

STOPS = 10


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("more", [(), (SENTRY_STOPPED,)], ids=["sentry", "no sentry"])
def test_under_overload(host: Host, table: Table, way: str, more: tuple[Fault, ...]) -> None:
    """Ten stops in a row of the same services; each within the limit."""
    trading = Trading(host, KINDS)
    name = " + ".join((OVERLOAD.name, *(fault.name for fault in more), f"{STOPS} stops"))
    with contextlib.ExitStack() as stack:
        for fault in more:
            stack.enter_context(fault.made(host))
        for _ in range(STOPS):
            table.add(name, way, one(trading, way))


def one(trading: Trading, way: str) -> Measured:
    """One stop under load, released again without a restart."""
    host, ess = trading.host, Ess(trading.host)
    trading.start()
    trigger = Trigger(trading, *WAYS[way])
    with OVERLOAD.made(host):
        trigger.begin()
        pull = trigger.end()
        trading.assert_stopped(pull.time, watch=0.1)
    life = max(0, trading.last_sign_of_life() - pull.time) / 1e6
    ess.wait_idle()
    ess("deactivate", "--no-start")
    ess.wait_idle()
    return Measured(life, pull.status)
