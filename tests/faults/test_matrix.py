"""The matrix: each fault alone, chosen pairs, the key ones without the sentry; every trigger."""

import pytest

from faults.conftest import Table
from faults.fault import Fault
from faults.files import FILE_FAULTS
from faults.matrix import stop
from faults.pressure import PRESSURE_FAULTS
from faults.services import SERVICE_FAULTS
from faults.software import SOFTWARE_FAULTS
from host import Host
from trading import WAYS

ALL = (*SERVICE_FAULTS, *FILE_FAULTS, *SOFTWARE_FAULTS, *PRESSURE_FAULTS)


def cells() -> list[object]:
    """Each fault with each trigger that can be pulled under it."""
    return [
        pytest.param(
            fault,
            way,
            id=f"{fault.name}-{way}",
            marks=pytest.mark.smoke if way in fault.smoke else (),
        )
        for fault in ALL
        for way in WAYS
        if way not in fault.impossible
    ]


@pytest.mark.parametrize(("fault", "way"), cells())
def test_one_fault(host: Host, table: Table, fault: Fault, way: str) -> None:
    table.add(fault.name, way, stop(host, way, fault))
