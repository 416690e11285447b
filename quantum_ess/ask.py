"""An activation by a member of the stop group: the flag is theirs to set, the rest is done by root.

libexec/quantum-ess has set it already, with the reason in it. What is left is to look.
"""

from __future__ import annotations

import os
import time

from quantum_ess import cgroup, plan, record
from quantum_ess.errors import NotPermitted, NotVerified
from quantum_ess.group import Group

LIMIT = 2.0  # seconds until nothing may live
SETTLED = 5.0  # seconds that the record may take


def activate(group: Group) -> None:
    """Wait until nothing protected lives. Raises NotPermitted, NotVerified."""
    if not (group.latched() and os.access(os.path.dirname(group.flag), os.W_OK)):
        raise NotPermitted("only root may activate", hint="sudo quantum-ess activate")
    the_plan = plan.read(group)
    deadline = time.monotonic() + LIMIT
    while living := _living(the_plan):
        if time.monotonic() > deadline:
            raise NotVerified(f"STILL ALIVE: {' '.join(living)}", hint="tell whoever is root")
        time.sleep(0.005)
    if os.path.exists(group.plans[0]) and the_plan.source != group.plans[0]:
        raise NotVerified("only root can read which units are protected: look at status")
    deadline = time.monotonic() + SETTLED
    while "stop_ms" not in (record.load(group.record) or {}) and time.monotonic() < deadline:
        time.sleep(0.02)


def _living(the_plan: plan.Plan) -> list[str]:
    return [found.unit for found in cgroup.find(the_plan) if cgroup.populated(found.path)]
