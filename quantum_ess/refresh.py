"""Have the metrics written anew: PID 1 starts the unit that does, and nobody waits for it."""

from __future__ import annotations

import os
from contextlib import suppress

DIRECTORY = "/var/lib/prometheus/node-exporter"  # Debian's node_exporter reads *.prom there
UNIT = "quantum-ess-metrics.service"
SECONDS = 2.0  # only a PID 1 that hangs takes as long; the transition is over by now


def metrics() -> None:
    """After a transition. Restarts the unit, since one that runs may have seen the host before it.

    Where no node_exporter is, nothing is done. Raises nothing: the timer will do it too.
    """
    if not os.path.isdir(DIRECTORY):
        return
    with suppress(Exception):  # also whatever a broken module raises on import
        from quantum_ess.systemd import Manager

        with Manager(timeout=SECONDS) as manager:
            manager.restart(UNIT)
