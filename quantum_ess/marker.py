"""The Redis marker: `quantum:ess:active` and the `quantum:event:ess` message. Best effort, bounded.

Redis is asked after the stop. The key has no expiry: it must not vanish while latched, and where it
has vanished all the same (a restart, a failover), `renew` brings it back.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from quantum_ess import latch, worker
from quantum_ess import record as records
from quantum_ess.errors import passing, shown
from quantum_ess.group import Group
from quantum_ess.plan import Plan

KEY, CHANNEL = "quantum:ess:active", "quantum:event:ess"
Ask = Callable[..., list[Any]]  # redisclient.Client.ask
LOADING = 3.0  # seconds for the import of redis-py


class Marker:
    """What Redis should say: since (ISO-8601 UTC) while active, None while not."""

    def __init__(self, since: str | None, event: dict[str, Any]) -> None:
        self.since = since
        self.event = event


def want(group: Group, since: str | None, timestamp: float, incident: str, reason: str) -> None:
    """Note what Redis should say from now on; `settle` makes it so, now or later.

    timestamp: epoch seconds of the transition. Raises OSError.
    """
    data = _data(since, timestamp, incident, reason)
    try:
        records.write(group.pending_marker, data)
        records.remove(group.pending_marker_volatile)
    except OSError:  # a disk that can't be written is no reason to leave Redis wrong
        records.write(group.pending_marker_volatile, data)


def _data(since: str | None, timestamp: float, incident: str, reason: str) -> bytes:
    event = {
        "event": "ess_activated" if since else "ess_deactivated",
        "timestamp": int(timestamp),
        "incident": incident,
        "reason": reason,
    }
    return json.dumps({"since": since, "event": event}).encode()


def _forget(group: Group) -> None:
    """Nothing is wanted any more. What can't be removed is said again: that does no harm."""
    for path in (group.pending_marker_volatile, group.pending_marker):
        with suppress(OSError):
            records.remove(path)


def settle(group: Group, plan: Plan) -> tuple[str, str | None]:
    """Make Redis say what it should, if it does not yet: write or delete the key and publish.

    Returns what was wanted ("SET", "CLEARED" or "" for nothing) and what went wrong, None if
    nothing did. What went wrong stays noted, and the watch timer tries again.
    """
    with records.lock(group.run + "/marker.lock", 2.0) as locked:
        try:
            marker = _wanted(group) if locked else None
        except OSError as error:
            return "SET" if group.latched() else "CLEARED", f"{error.filename}: {error.strerror}"
        if marker is None:
            return "", None
        if plan.options.get("redis.enabled", "yes") != "yes":
            _forget(group)
            return "", None
        if marker.since and not group.latched():  # a release has another word, or will have
            if not records.under_way(group):
                _forget(group)
            return "", None
        problem = _bounded(plan.options, plan.duration("redis.timeout_ms", 500), marker)
        if problem is None:
            _forget(group)
        return "SET" if marker.since else "CLEARED", problem


def _wanted(group: Group) -> Marker | None:
    """What Redis should say, None if nothing is owed. Raises OSError."""
    volatile = os.path.lexists(group.pending_marker_volatile)  # then it is the newer one
    path = group.pending_marker_volatile if volatile else group.pending_marker
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        since, event = data["since"], data["event"]
        if not isinstance(event, dict) or not (since is None or latch.is_time(since)):
            raise ValueError("not what `want` writes")
        return Marker(since, event)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        if isinstance(error, OSError) and passing(error):
            raise
        with suppress(OSError):
            records.remove(path)  # garbage: the next transition writes it anew
        return None


def look(plan: Plan) -> tuple[str | None, str]:
    """What Redis says now: the marker, None if there is none; and why it could not be asked, ""."""
    found: list[str | None] = []

    def run() -> None:
        from quantum_ess import redisclient

        (value,) = redisclient.exchange(plan.options, ("GET", KEY))
        found.append(value.decode("utf-8", "replace") if isinstance(value, bytes) else None)

    problem = _in_time(plan.options, plan.duration("redis.timeout_ms", 500), run)
    return (found[0] if found else None), problem or ""


def renew(group: Group, ask: Ask) -> str:
    """Look whether Redis still says what it was told, and tell it again if it does not.

    Returns "SET", "CLEARED", "NOT SET: why" (from now on it is owed, and `settle` sees to it) or
    "" (nothing to do, or somebody else is at it). `ask` may raise what redisclient.Client.ask
    raises. Under the lock of `settle`, so that no release is overtaken.
    """
    from quantum_ess.redisclient import Refused

    with records.lock(group.run + "/marker.lock", 0.0) as locked:
        owed = (group.pending_marker, group.pending_marker_volatile)
        if not locked or any(map(os.path.lexists, owed)):
            return ""
        if records.under_way(group) and not group.latched():
            return ""
        known = records.load(group.record if group.latched() else group.released) or {}
        since = known.get("since")
        if since is None:
            return ""
        (value,) = ask(("GET", KEY))
        if isinstance(value, Exception):
            raise value
        said = value.decode("ascii", "replace") if isinstance(value, bytes) else None
        if group.latched():
            try:
                return "" if said == since else _told("SET", ask(("SET", KEY, since)))
            except Refused as error:  # a replica, no memory, no right to
                if not _owe(group, since):
                    raise
                return f"NOT SET: {error}"
        # Not ours: another host that shares this Redis may be active.
        return _told("CLEARED", ask(("DEL", KEY))) if said == since else ""


def _owe(group: Group, since: str) -> bool:
    """Note that Redis should say so; not if the account, or a release, has another word meanwhile.

    Else nobody would know: neither the metrics nor the trail.
    """
    with records.lock(group.lock, 0.0) as locked:
        known = records.load(group.record) or {}
        if not locked or known.get("since") != since:
            return False
        about = (str(known.get("incident", "")), str(known.get("reason", "")))
        data = _data(since, known.get("epoch", latch.epoch(since)), *about)
        try:  # not on the disk, for which the guard must not wait: a boot finds it out again
            records.write(group.pending_marker_volatile, data)
        except OSError:
            return False
        return True


def news(done: str) -> str:
    """The trail's text of what `renew` has done."""
    return f"ESS REDIS MARKER {done}" + ("" if done.startswith("NOT") else " AGAIN")


def _told(what: str, replies: list[Any]) -> str:
    """What was done, if the first reply says so. Raises Refused, Unavailable."""
    from quantum_ess.redisclient import Unavailable

    reply = replies[0]
    if isinstance(reply, Exception):
        raise reply
    if not (reply == b"OK" if what == "SET" else isinstance(reply, int)):
        raise Unavailable(f"not the answer of a Redis: {str(reply)[:40]!r}")
    return what


def tell_again(group: Group, plan: Plan) -> tuple[str, str | None]:
    """`renew` on a connection of its own, within bounds; what was done and what went wrong."""
    if plan.options.get("redis.enabled", "yes") != "yes":
        return "", None
    done: list[str] = []

    def run() -> None:
        from quantum_ess.redisclient import Client, Settings

        client = Client(Settings(plan.options))
        try:
            done.append(renew(group, client.ask))
        finally:
            client.close()

    problem = _in_time(plan.options, plan.duration("redis.timeout_ms", 500), run)
    return (done[0] if done else ""), problem


def _bounded(options: Mapping[str, str], seconds: float, marker: Marker) -> str | None:
    def run() -> None:
        from quantum_ess.redisclient import Client, Settings

        change = ("SET", KEY, marker.since) if marker.since else ("DEL", KEY)
        client = Client(Settings(options))
        try:  # a Redis that may not be written to still publishes: at each attempt
            _told("SET" if marker.since else "CLEARED", client.ask(change))
            client.ask(("PUBLISH", CHANNEL, json.dumps(marker.event)))
        finally:
            client.close()

    return _in_time(options, seconds, run)


def _in_time(options: Mapping[str, str], seconds: float, action: Callable[[], None]) -> str | None:
    """Run it in a thread of its own: name resolution has no time limit to set. What went wrong."""
    result: list[str | None] = []
    loaded = threading.Event()

    def load() -> None:
        from quantum_ess import redisclient, redisload

        with suppress(Exception):  # the client says what is wrong with redis-py
            redisload.load(redisclient.Settings(options).tls)

    def run() -> None:
        try:
            try:
                load()
            finally:
                loaded.set()
            action()
            result.append(None)
        except Exception as error:  # whatever redis-py raises, the stop is already done
            result.append(shown(" ".join(str(error).split())) or type(error).__name__)

    try:
        ended = worker.start(run)
    except RuntimeError as error:  # no more threads to be had
        return str(error)
    loaded.wait(LOADING)  # on a busy machine that takes longer than Redis may
    ended.wait(2 * seconds + 0.5)
    return result[0] if result else f"no answer within {2 * seconds + 0.5:g} s"
