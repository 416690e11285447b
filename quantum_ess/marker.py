"""The Redis marker: `quantum:ess:active` and the `quantum:event:ess` message. Best effort, bounded.

The only module that imports redis, and it is imported after the stop. The key has no expiry: it
must not vanish while latched.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from quantum_ess import latch
from quantum_ess import record as records
from quantum_ess.group import Group
from quantum_ess.plan import Plan

KEY, CHANNEL = "quantum:ess:active", "quantum:event:ess"
DEFAULT_URL = "redis://127.0.0.1:6379/0"


class Marker:
    """What Redis should say: since (ISO-8601 UTC) while active, None while not."""

    def __init__(self, since: str | None, event: dict[str, Any]) -> None:
        self.since = since
        self.event = event


def want(group: Group, since: str | None, timestamp: float, incident: str, reason: str) -> None:
    """Note what Redis should say from now on; `settle` makes it so, now or later.

    timestamp: epoch seconds of the transition. Raises OSError.
    """
    event = {
        "event": "ess_activated" if since else "ess_deactivated",
        "timestamp": int(timestamp),
        "incident": incident,
        "reason": reason,
    }
    data = json.dumps({"since": since, "event": event}).encode()
    try:
        records.write(group.pending_marker, data)
        records.remove(group.pending_marker_volatile)
    except OSError:  # a disk that can't be written is no reason to leave Redis wrong
        records.write(group.pending_marker_volatile, data)


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
        marker = _wanted(group) if locked else None
        if marker is None:
            return "", None
        if plan.options.get("redis.enabled", "yes") != "yes":
            _forget(group)
            return "", None
        url = plan.options.get("redis.url", DEFAULT_URL)
        seconds = plan.duration("redis.timeout_ms", 500)
        problem = _bounded(url, seconds, marker)
        if problem is None:
            _forget(group)
        return "SET" if marker.since else "CLEARED", problem


def _wanted(group: Group) -> Marker | None:
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
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        with suppress(OSError):
            records.remove(path)  # garbage: the next transition writes it anew
        return None


def look(plan: Plan) -> tuple[str | None, str]:
    """What Redis says now: the marker, None if there is none; and why it could not be asked, ""."""
    url = plan.options.get("redis.url", DEFAULT_URL)
    seconds = plan.duration("redis.timeout_ms", 500)
    found: list[str | None] = []
    problem = _within(seconds, lambda: _read(url, seconds, found))
    return (found[0] if found else None), problem or ""


def _read(url: str, seconds: float, found: list[str | None]) -> str | None:
    try:
        import redis

        client = redis.Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds)
        value = client.get(KEY)
        found.append(value.decode("utf-8", "replace") if isinstance(value, bytes) else None)
        client.close()
    except Exception as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _within(seconds: float, exchange: Callable[[], str | None]) -> str | None:
    """Run it in a thread of its own: name resolution has no time limit to set."""
    result: list[str | None] = []
    thread = threading.Thread(target=lambda: result.append(exchange()), daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # no more threads to be had
        return str(error)
    thread.join(2 * seconds + 0.5)
    return result[0] if result else f"no answer within {2 * seconds + 0.5:g} s"


def _bounded(url: str, seconds: float, marker: Marker) -> str | None:
    return _within(seconds, lambda: _exchange(url, seconds, marker))


def _exchange(url: str, seconds: float, marker: Marker) -> str | None:
    try:
        import redis

        client = redis.Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds)
        if marker.since:
            client.set(KEY, marker.since)
        else:
            client.delete(KEY)
        client.publish(CHANNEL, json.dumps(marker.event))
        client.close()
    except Exception as error:  # whatever redis-py raises, the stop is already done
        return " ".join(str(error).split()) or type(error).__name__
    return None
