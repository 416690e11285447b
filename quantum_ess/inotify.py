"""inotify(7) by ctypes: the standard library has no binding. The only module that imports ctypes."""

import ctypes
import os
import struct

ATTRIB, MOVED_FROM, MOVED_TO, CREATE = 0x4, 0x40, 0x80, 0x100
DELETE, DELETE_SELF, MOVE_SELF, ONLYDIR = 0x200, 0x400, 0x800, 0x1000000
IGNORED = 0x8000
_EVENT = struct.Struct("iIII")


class Inotify:
    """One inotify instance; non-blocking, closed on exec. fd is good for poll(2)."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def watch(self, path: str, mask: int) -> int:
        """Watch a path; returns the watch descriptor. Raises OSError."""
        return self._checked(self._libc.inotify_add_watch(self.fd, os.fsencode(path), mask))

    def read(self) -> list[tuple[int, int]]:
        """What has happened: (watch descriptor, mask) an event; [] if nothing."""
        try:
            data = os.read(self.fd, 65536)
        except BlockingIOError:
            return []
        events, offset = [], 0
        while offset < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, offset)
            events.append((watch, mask))
            offset += _EVENT.size + length
        return events

    def lock_memory(self) -> None:
        """Keep every page of this process in memory, now and later (mlockall(2)).

        Raises OSError.
        """
        self._checked(self._libc.mlockall(3))  # MCL_CURRENT | MCL_FUTURE

    def _checked(self, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "inotify")
        return result
