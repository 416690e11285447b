"""PID 1 over D-Bus, by its private socket or the system bus. The only module with jeepney in it.

Every call is bounded. Interface: org.freedesktop.systemd1(5). The private socket
(/run/systemd/private, root only) needs no dbus-daemon; others ask the system bus.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from jeepney import DBusAddress, HeaderFields, Message, MessageType, Parser, new_method_call
from jeepney.io.blocking import prep_socket

from quantum_ess import cgroup
from quantum_ess.plan import Plan, is_own

PRIVATE = "/run/systemd/private"
SYSTEM_BUS = "/run/dbus/system_bus_socket"
DESTINATION = "org.freedesktop.systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"


class Unreachable(Exception):
    """PID 1 could not be asked, or did not answer in time."""


class Late(Unreachable):
    """PID 1 did not answer in time."""


class Lost(Unreachable):
    """PID 1 closed the connection: it executes itself anew, or has gone."""


class Refused(Exception):
    """PID 1 answered with an error: D-Bus error name, then its text."""


# Of a job: its end is not heard of yet, or was to be, by a connection that was lost.
PENDING, LOST = "", "lost"
KINDS_IN_SLICES = ("service", "scope", "socket", "mount", "swap")  # systemd.resource-control(5)


class Unit(NamedTuple):
    """One row of ListUnitsByPatterns."""

    name: str
    load: str
    active: str
    sub: str
    path: str
    job: int

    @property
    def at_rest(self) -> bool:
        """Not running, not about to run, not about to be started."""
        return self.active in ("inactive", "failed") and not self.job


class Manager:
    """A connection to PID 1. Not thread-safe. Close it, or use it as a context manager."""

    @classmethod
    def lasting(cls) -> Manager:
        """One that survives a daemon-reexec: for work that is long, and that nothing waits for.

        Raises Unreachable.
        """
        return cls(timeout=5.0, again=lambda: None)

    def __init__(
        self, timeout: float = 0.5, bus: bool = False, again: Callable[[], object] | None = None
    ) -> None:
        """Connect. timeout: seconds for connecting and for each call.

        again: a call whose connection is lost is made once more, on a new one, after this. So a
        daemon-reexec is survived; only for calls that do no harm if they are made twice.

        Raises Unreachable.
        """
        self.timeout = timeout
        self.ended: dict[str, str] = {}  # start job of ours: its result
        self._peer: str | None = None  # who answers: no name on PID 1's own socket
        self._again = again
        self._connect((SYSTEM_BUS,) if bus else (PRIVATE, SYSTEM_BUS))

    def _connect(self, addresses: tuple[str, ...]) -> None:
        self._serial = 0
        self._parser = Parser()
        errors = []
        for address in addresses:
            sock = None
            try:
                self._socket = sock = prep_socket(address, timeout=self.timeout)
                self._greet() if address == PRIVATE else self._hello()
                return
            except Exception as error:  # also whatever jeepney makes of a bad authentication
                errors.append(f"{address}: {error}")
                if sock is not None:
                    sock.close()
        raise Unreachable("; ".join(errors))

    def _greet(self) -> None:
        """Ping until PID 1 answers, and only then ask it anything.

        sd-bus (seen in systemd 252 and 257) that reads the end of the authentication and the first
        message in one go leaves that message lying until more bytes come: the next ping wakes it.
        """
        address = DBusAddress("/org/freedesktop/systemd1", DESTINATION, "org.freedesktop.DBus.Peer")
        deadline, patience = time.monotonic() + self.timeout, 0.02
        while True:
            try:
                self.call(new_method_call(address, "Ping"), patience)
                return
            except Late:
                if time.monotonic() >= deadline:
                    raise
            patience = min(2 * patience, max(deadline - time.monotonic(), 0.001))

    def _hello(self) -> None:
        driver = DBusAddress(
            "/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus"
        )
        self.call(new_method_call(driver, "Hello"))
        # What PID 1 says by itself on its own socket, here it has to be asked for.
        rule = f"type='signal',sender='{DESTINATION}',interface='{MANAGER}',member='JobRemoved'"
        with suppress(Refused):
            self.call(new_method_call(driver, "AddMatch", "s", (rule,)))
            self._manager("Subscribe")

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _connect_again(self) -> None:
        """PID 1 is there again in some tenths of a second. Raises Unreachable."""
        self.close()
        self.ended = {job: result or LOST for job, result in self.ended.items()}
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                return self._connect((PRIVATE,))
            except Unreachable:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(0.02)

    def call(self, message: Message, timeout: float | None = None) -> tuple[Any, ...]:
        """Send one call and return the reply's body.

        Raises Unreachable (no answer within the timeout) or Refused (an error came back).
        """
        try:
            return self._call(message, timeout or self.timeout)
        except Lost:
            if self._again is None:
                raise
        again, self._again = self._again, None  # not while it connects
        try:
            self._connect_again()
        finally:
            self._again = again
        again()
        return self._call(message, timeout or self.timeout)

    def _call(self, message: Message, timeout: float) -> tuple[Any, ...]:
        deadline = time.monotonic() + timeout
        method = message.header.fields.get(HeaderFields.member)
        late = f"PID 1 did not answer {method} within {timeout:g} s"
        self._serial += 1
        try:
            data = message.serialise(serial=self._serial)
        except Exception as error:  # an object path or text that D-Bus can't carry
            raise Refused(f"{method}: {error!r}") from error
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(data)
            while True:
                reply = self._next()
                if reply is None:
                    self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
                    data = self._socket.recv(65536)
                    if not data:
                        raise Lost("PID 1 closed the connection")
                    self._parser.add_data(data)
                elif reply.header.fields.get(HeaderFields.reply_serial) == self._serial:
                    self._peer = reply.header.fields.get(HeaderFields.sender)
                    return _body(reply)
                if time.monotonic() > deadline:
                    raise Late(late)
        except TimeoutError as error:
            raise Late(late) from error
        except ConnectionError as error:
            raise Lost(f"PID 1: {error.strerror or error}") from error
        except OSError as error:
            raise Unreachable(f"PID 1: {error.strerror or error}") from error

    def _next(self) -> Message | None:
        """The next whole message that has come, None if there is none yet. Raises Unreachable."""
        try:
            message = self._parser.get_next_message()
            if message:
                self._note(message)
            return message
        except Exception as error:  # jeepney trusts its peer: garbage raises whatever comes first
            raise Unreachable(f"PID 1 sent what is not D-Bus: {error!r}") from error

    def _note(self, message: Message) -> None:
        """Take in the end of a job of ours; on a bus anybody may say so of one."""
        fields, body = message.header.fields, message.body
        if fields.get(HeaderFields.member) != "JobRemoved" or len(body) != 4:
            return
        if fields.get(HeaderFields.sender) == self._peer and body[1] in self.ended:
            self.ended[body[1]] = str(body[3])

    def wait(self, seconds: float) -> bool:
        """Wait until PID 1 says anything (it signals every job and state change), or time is up.

        Returns False if the connection is no good for waiting.
        """
        try:
            self._socket.settimeout(max(seconds, 0.001))
            data = self._socket.recv(65536)
            self._parser.add_data(data)
            while self._next() is not None:
                pass
        except TimeoutError:
            return True
        except (OSError, Unreachable):
            return False
        return bool(data)

    def _manager(self, method: str, signature: str = "", *body: object) -> tuple[Any, ...]:
        address = DBusAddress("/org/freedesktop/systemd1", DESTINATION, MANAGER)
        return self.call(new_method_call(address, method, signature or None, body))

    def units(self, patterns: list[str]) -> list[Unit]:
        """Loaded units that match any of those names or patterns (fnmatch(3))."""
        return self._units("ListUnitsByPatterns", "asas", [], patterns)

    def _units(self, method: str, signature: str, *body: object) -> list[Unit]:
        reply = self._manager(method, signature, *body)
        try:
            (rows,) = reply
            units = [Unit(r[0], r[2], r[3], r[4], r[6], r[7]) for r in rows]
        except (ValueError, LookupError, TypeError) as error:
            raise Unreachable("PID 1 sent no list of units") from error
        texts = all(isinstance(text, str) for unit in units for text in unit[:5])
        if not texts or not all(unit.path.startswith("/") for unit in units):
            raise Unreachable("PID 1 sent no list of units")
        return units

    def busy(self) -> tuple[list[Unit], dict[str, str]]:
        """All units that are not at rest, and the kind of job of each that has one.

        For many names: to compare each of its units with each of them takes PID 1 too long.
        """
        states = ["active", "reloading", "activating", "deactivating", "maintenance"]
        rows = self._units("ListUnitsFiltered", "as", states)
        try:
            (listed,) = self._manager("ListJobs")
            jobs = {str(job[1]): (str(job[2]), str(job[5])) for job in listed}
        except (ValueError, LookupError, TypeError) as error:
            raise Unreachable("PID 1 sent no list of jobs") from error
        known = {unit.name for unit in rows}
        rows += [
            Unit(name, "", "inactive", "", path, 1)
            for name, (_, path) in jobs.items()
            if name not in known
        ]
        return rows, {name: kind for name, (kind, _) in jobs.items()}

    def stop(self, unit: str, mode: str = "replace-irreversibly") -> None:
        """Queue a stop job; by default one that no start job can replace."""
        self._manager("StopUnit", "ss", unit, mode)

    def start(self, unit: str, mode: str = "replace") -> str:
        """Queue a start job; its object path, by which `ended` has its result."""
        reply = self._manager("StartUnit", "ss", unit, mode)
        job = str(reply[0]) if reply else ""
        self.ended[job] = PENDING
        return job

    def restart(self, unit: str) -> None:
        """Queue a job that starts the unit afresh, also if it is just being started."""
        self._manager("RestartUnit", "ss", unit, "replace")

    def reset_failed(self, unit: str) -> None:
        """Forget that the unit failed, and its restart counter."""
        self._manager("ResetFailedUnit", "s", unit)

    def load(self, unit: str) -> str:
        """Load a unit and return its object path. Raises Refused if there is no such unit."""
        reply = self._manager("LoadUnit", "s", unit)
        if not reply or not isinstance(reply[0], str) or not reply[0].startswith("/"):
            raise Unreachable("PID 1 sent no object path")
        return reply[0]

    def get(self, path: str, interface: str, name: str) -> Any:
        """One property; interface is the last part of its name, e.g. `Unit` or `Service`."""
        address = DBusAddress(path, DESTINATION, "org.freedesktop.DBus.Properties")
        full = f"{DESTINATION}.{interface}"
        reply = self.call(new_method_call(address, "Get", "ss", (full, name)))
        if not reply or not isinstance(reply[0], tuple) or len(reply[0]) != 2:
            raise Unreachable("PID 1 sent no property")
        return reply[0][1]

    def get_all(self, path: str, interface: str) -> dict[str, Any]:
        """All properties of one interface, as `get`."""
        address = DBusAddress(path, DESTINATION, "org.freedesktop.DBus.Properties")
        reply = self.call(new_method_call(address, "GetAll", "s", (f"{DESTINATION}.{interface}",)))
        try:
            return {str(name): value for name, (_, value) in reply[0].items()}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise Unreachable("PID 1 sent no properties") from error


def _body(reply: Message) -> tuple[Any, ...]:
    if reply.header.message_type is MessageType.error:
        name = str(reply.header.fields.get(HeaderFields.error_name, "error"))
        raise Refused(f"{name}: {reply.body[0] if reply.body else ''}")
    return tuple(reply.body)


def outsider(manager: Manager, unit: Unit) -> int:
    """The main process of that service if it lives outside of the unit's own cgroup, else 0.

    Raises Unreachable, Refused.
    """
    if not unit.name.endswith(".service"):
        return 0
    pid = int(manager.get(unit.path, "Service", "MainPID"))
    places = cgroup.of(pid) if pid > 1 else []
    inside = any(unit.name in path.replace("/_", "/").split("/") for path in places)
    return pid if places and not inside else 0


def covered(manager: Manager, plan: Plan) -> list[Unit]:
    """Loaded units that the plan protects, those inside a protected slice included.

    Raises Unreachable, Refused.
    """
    units = [u for u in manager.units([e.name for e in plan.protect]) if plan.match(u.name)]
    slices = tuple(u.name.removesuffix(".slice") for u in units if u.name.endswith(".slice"))
    if slices:
        for unit in manager.units([f"*.{kind}" for kind in KINDS_IN_SLICES]):
            kind = unit.name.rpartition(".")[2].capitalize()
            try:
                inside = str(manager.get(unit.path, kind, "Slice")).removesuffix(".slice")
            except Refused:
                continue  # at rest and forgotten since it was listed
            if any(inside == s or inside.startswith(s + "-") for s in slices) and not (
                plan.keeps(unit.name) or is_own(unit.name) or plan.match(unit.name)
            ):
                units.append(unit)
    return units
