"""Imports redis-py with no more than is needed of it.

redis-py imports asyncio and OpenSSL whether they are used or not: 6 MB and a tenth of a second.
Both are optional to it or can be: without TLS they are kept out while it is imported.
"""

from __future__ import annotations

import sys
import threading
import types
from typing import Any

_ASYNCIO = "redis.asyncio"
_OPENSSL = ("ssl", "_ssl", "_hashlib")


class _Nothing(types.ModuleType):
    """A module that has any name in it, as long as nobody uses it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


def _has_tls() -> bool:
    return sys.modules.get("ssl") is not None


_loading = threading.Lock()


def load(tls: bool) -> None:
    """Import redis-py, unless that is done: without TLS if it is not needed."""
    with _loading:
        if "redis.client" not in sys.modules:
            _load_redis(tls)


def _load_redis(tls: bool) -> None:
    if not tls and not _has_tls():
        try:
            _load_slim()
            return
        except Exception:  # a version of redis-py that does need them
            for name in [name for name in sys.modules if name.partition(".")[0] == "redis"]:
                del sys.modules[name]
    import redis  # noqa: F401


def _load_slim() -> None:
    blocked: dict[str, Any] = {name: None for name in _OPENSSL if name not in sys.modules}
    blocked[_ASYNCIO] = _Nothing(_ASYNCIO)
    sys.modules.update(blocked)
    try:
        import redis  # noqa: F401
    finally:
        for name, placed in blocked.items():
            if sys.modules.get(name, 0) is placed:
                del sys.modules[name]
