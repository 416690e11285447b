"""The guard in a host, as tests see it: rules in force, what it says of each, what it did."""

import json
import os
import signal
from typing import Any

from host import Host
from product import Ess
from trading import FLAG
from waiting import SOON, wait_until

STATE = "/run/quantum-ess/guard.json"
UNIT, WATCHER = "quantum-ess-guard.service", "quantum-ess-guard.path"
QUICK = "[resume]\nsettle = 0\n"
WATCHDOG = 5.0  # seconds, as the unit has it
NOTICED = WATCHDOG + 3  # and until a busy machine has got round to it


def condition(name: str, **keys: object) -> str:
    """A section of the configuration; `lasting` stands for the key `for`."""
    lines = [f"{'for' if key == 'lasting' else key} = {value}" for key, value in keys.items()]
    return "\n".join([f"[condition {name}]", *lines, ""])


class Guarded:
    """One host with a guard on it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.ess = Ess(host)

    def configure(self, *sections: str, mode: str = "enforce", **guard: object) -> None:
        """Put these sections in force and wait until the guard follows them."""
        head = {"mode": mode, "poll": "200ms", "repeat": "1s", **guard}
        text = "\n".join(["[guard]", *(f"{k} = {v}" for k, v in head.items()), QUICK, *sections])
        self.ess.configure(text)
        names = [
            line.split()[1].rstrip("]") for line in text.splitlines() if line[:10] == "[condition"
        ]

        def followed() -> bool:
            rows = self.rows()
            return [n for n in rows if n != "redis-down"] == names and all(
                row["state"] != "starting" for row in rows.values()
            )

        wait_until(followed, SOON, f"a guard of {names}")

    def alive(self) -> None:
        """Wait until what is read is the word of the guard that runs, and not of the one before."""

        def look() -> bool:
            state = self.state()
            return state.get("stopped") is False and state.get("pid") == self.host.main_pid(UNIT)

        wait_until(look, SOON, "a guard that is alive")

    def kill(self) -> None:
        """Kill its process, as the kernel would, or a person in haste."""
        for pid in self.host.processes(UNIT):
            os.kill(pid, signal.SIGKILL)

    def redis(self, *words: object) -> str:
        """What `redis-cli` says to a command."""
        return self.host.run("redis-cli", *map(str, words)).stdout.strip()

    def state(self) -> dict[str, Any]:
        """What guard.json holds; {} if there is none."""
        text = self.host.run("cat", STATE, check=False).stdout
        found: dict[str, Any] = json.loads(text or "{}")
        return found

    def rows(self) -> dict[str, dict[str, Any]]:
        """Its conditions by name."""
        return {row["name"]: row for row in self.state().get("conditions", [])}

    def wait(self, name: str, timeout: float = SOON, **wanted: object) -> dict[str, Any]:
        """Wait until a condition's members are like that."""

        def look() -> dict[str, Any] | None:
            row = self.rows().get(name, {})
            return row if all(row.get(k) == v for k, v in wanted.items()) else None

        found = wait_until(look, timeout, f"{name} with {wanted}: {self.rows().get(name)}")
        assert found is not None
        return found

    def wait_fired(self, name: str, timeout: float = SOON) -> str:
        """Wait for an activation by that condition; the incident's reason."""
        wait_until(lambda: self.host.exists(FLAG), timeout, f"{name} to act: {self.rows()}")
        self.ess.wait_idle()
        wait_until(lambda: self.ess.status().get("reason"), SOON, "the record")
        status = self.ess.status()
        assert status["trigger"] == "guard", status
        assert status["reason"].startswith(f"condition {name}: "), status
        return str(status["reason"])

    def calm(self, name: str) -> None:
        """Wait until the condition is fine and armed, and release."""
        self.wait(name, state="fine")
        self.ess("deactivate", "--reason", "calm again")
        self.wait(name, armed=True, tripped=False)

    def latched(self) -> bool:
        """Whether ESS is active."""
        return self.host.exists(FLAG)
