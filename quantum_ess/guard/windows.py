"""What a window of time holds: the extreme of a value, the growth of a counter. Pure."""

from __future__ import annotations

import math
from collections import deque

SLOTS = 1000  # a window is kept in so many pieces, however often it is read


class Extreme:
    """The highest (sign 1) or lowest (sign -1) value of a window.

    What only one sample shows does not count: a bad tick must not become the peak.
    """

    def __init__(self, window: float, sign: int) -> None:
        self._window = window
        self._sign = sign
        self._kept: deque[tuple[int, float]] = deque()  # slot and value, values falling
        self._before: float | None = None

    def add(self, time: float, value: float, sample: bool) -> float:
        """Take one more value; the extreme with it, which is the value itself at first."""
        value *= self._sign
        slot = 0 if math.isinf(self._window) else math.floor(time * SLOTS / self._window)
        while self._kept and self._kept[0][0] <= slot - SLOTS:
            self._kept.popleft()
        if sample and self._before is not None:
            shown_twice = min(self._before, value)
            while self._kept and self._kept[-1][1] <= shown_twice:
                self._kept.pop()
            if not self._kept or self._kept[-1][0] != slot:
                self._kept.append((slot, shown_twice))
        if sample or self._before is None:
            self._before = value
        return self._sign * max(self._kept[0][1] if self._kept else value, value)

    def remembered(self) -> float | None:
        """The extreme, to outlive a restart of the guard; None if there is a window to it."""
        return self._sign * self._kept[0][1] if math.isinf(self._window) and self._kept else None

    def recall(self, value: float) -> None:
        """Set what was remembered."""
        if math.isinf(self._window):
            self._kept.append((0, self._sign * value))


class Count:
    """How much a counter has grown in a window; a counter that starts anew begins at 0."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._last: float | None = None
        self._grown: deque[tuple[int, float]] = deque()

    def add(self, time: float, value: float) -> float:
        """Take the counter's value; its growth."""
        slot = math.floor(time * SLOTS / self._window)
        growth = 0.0
        if self._last is not None:
            growth = value - self._last if value >= self._last else value
        self._last = value
        if growth:
            self._grown.append((slot, growth))
        while self._grown and self._grown[0][0] <= slot - SLOTS:
            self._grown.popleft()
        return sum(part for _, part in self._grown)
