"""Decisions, pure: readings in, states out. No input or output, no clock but the readings' own.

A reading that is not known neither ends a breach nor counts towards it: the time that a breach has
lasted is the sum of the times between two readings that both showed it, one right after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from quantum_ess.guard.condition import number
from quantum_ess.guard.rules import Rule
from quantum_ess.guard.windows import Count, Extreme

SHADOW, WARNED = "guard-shadow", "guard-warning"  # entries of what may flicker
LACKS = ("age", "missing", "unchanged")  # breached if nobody writes
HISTORY = ("drop", "rise", "restarts", "unchanged")  # measured against what was before
TOLD_APART = 60.0  # seconds between two entries of a kind about a condition that flickers
STARTING, FINE, BREACHED, UNKNOWN = "starting", "fine", "breached", "unknown"


class Reading(NamedTuple):
    """One look at what a rule watches.

    time: seconds, monotonic. value: None if unknown, and `problem` says why. fresh: the data were
    written since the last look. first: of a connection. text: as it was read. age: of the data, in
    seconds. reachable: whether the source answered at all.
    """

    time: float
    value: float | None = None
    problem: str = ""
    fresh: bool = True
    first: bool = False
    text: str = ""
    age: float | None = None
    reachable: bool = True


class Evaluator:
    """What the readings of one rule come to."""

    def __init__(self, rule: Rule, repeat: float) -> None:
        self.rule = rule
        self.state = STARTING
        self.value: float | None = None
        self.problem = ""
        self.reading: Reading | None = None
        self.breached_since: float | None = None
        self.unknown_since: float | None = None
        self.due = ""  # "breach" or "unknown": what would have to be acted upon now
        self.lasted = 0.0
        self.samples = 0
        self.extreme = Extreme(rule.window, -1 if rule.what == "rise" else 1)
        self._repeat = repeat
        self._count = Count(rule.window)
        self._counted: float | None = None  # when the last sample was
        self._doubt: float | None = None  # unknown, though the source answers, since then
        self._changed: tuple[str, float] | None = None
        self._read: float | None = None  # when its source last answered
        self.pardoned: float | None = None  # until then old data do not count, nor for samples
        self._text = ""  # of the last value
        self.lost = False  # what it was measured against: then it only seems fine
        self._begun: float | None = None  # when it first seemed so

    def take(self, reading: Reading) -> str:
        """Take one reading; what is due with it."""
        if reading.first and reading.reachable and self._changed and self._read is not None:
            text, since = self._changed  # who writes it could not reach the source either
            self._changed = (text, since + reading.time - self._read)
        # Fresh is also what others write, into other fields: not so a text that differs.
        written = reading.value is not None and not reading.first and reading.text != self._text
        before = self.state if self.pardoned is None else ""  # what was pardoned lasts from now on
        if self.pardoned is not None and (written or reading.time >= self.pardoned):
            self.pardoned = None
        sample = self._is_sample(reading)
        self.value, self.problem = self._measure(reading, sample)
        if self.value is None:
            self._unknown(reading)
        elif self._broken(self.value):
            self._breached(reading, before, sample)
        elif self._seems_fine(reading.time):
            self.value, self.problem = None, "its history is lost"
            self._unknown(reading._replace(reachable=False))  # not for `unknown` to act upon
        else:
            self._fine()
        self.reading = reading
        self._text = self._text if reading.value is None else reading.text
        self._read = reading.time if reading.reachable else self._read
        self.due = self._due(reading)
        return self.due

    def pardon(self, time: float) -> None:
        """Count anew from that time on what says no more than that nobody writes."""
        if self._doubt is not None:
            self._doubt = time
        if self.rule.what in LACKS:
            self.lasted, self.samples = 0.0, 0
        if self.rule.what in LACKS or self.due == "unknown":
            self.due = ""
        if self.rule.what == "age":
            self.pardoned = time + self.rule.limit.number
        if self._changed is not None:
            self._changed = (self._changed[0], time)

    def go_on(self, before: Evaluator) -> None:
        """Measure against the same peak as an evaluator before this one."""
        self.extreme, self.lost, self._begun = before.extreme, before.lost, before._begun

    def _seems_fine(self, time: float) -> bool:
        """Whether it is not known yet again what this value is to be measured against."""
        if self.lost and self._begun is None:
            self._begun = time
        unchanged = self.rule.what == "unchanged"
        return self.lost and (unchanged or time - (self._begun or 0.0) < self.rule.window)

    def _is_sample(self, reading: Reading) -> bool:
        if reading.first:
            self._counted = reading.time
            return False
        since = self._counted
        if reading.fresh or since is None or reading.time - since >= self._repeat:
            if reading.value is not None:
                self._counted = reading.time
            return True
        return False

    def _measure(self, reading: Reading, sample: bool) -> tuple[float | None, str]:
        value, what = reading.value, self.rule.what
        if value is None:
            return None, reading.problem or "not known"
        if not math.isfinite(value):
            return None, f"{value} is no number to go by"
        if what == "restarts":
            return self._count.add(reading.time, value), ""
        if what == "unchanged":
            if self._changed is None or self._changed[0] != reading.text:
                self.lost = self.lost and self._changed is None
                self._changed = (reading.text, reading.time)
            return reading.time - self._changed[1], ""
        if what in ("drop", "rise"):
            return self._change(reading.time, value, sample)
        return value, ""

    def _change(self, time: float, value: float, sample: bool) -> tuple[float | None, str]:
        extreme = self.extreme.add(time, value, sample)
        change = abs(extreme - value)
        if self.rule.limit.kind != "%":
            return change, ""
        if extreme <= 0:
            return None, f"no percentage of {number(extreme)}"
        return 100 * change / extreme, ""

    def _broken(self, value: float) -> bool:
        if self.rule.what in ("missing", "failed", "down", "redis-down"):
            return value > 0
        return self.rule.limit.broken_by(value)

    def _unknown(self, reading: Reading) -> None:
        self.state = UNKNOWN
        if self.unknown_since is None:
            self.unknown_since = reading.time
        if not reading.reachable:
            self._doubt = None  # what can't be read is not for `unknown` to act upon
        elif self._doubt is None:
            self._doubt = reading.time

    def _known(self, state: str) -> None:
        self.state = state
        self.unknown_since = self._doubt = None

    def _fine(self) -> None:
        self._known(FINE)
        self.breached_since = None
        self.lasted, self.samples = 0.0, 0

    def _breached(self, reading: Reading, before: str, sample: bool) -> None:
        self._known(BREACHED)
        if self.breached_since is None:
            self.breached_since = reading.time
            sample = not reading.first  # data that get worse by themselves (age) begin here
        elif before == BREACHED and not reading.first and self.reading:
            self.lasted += reading.time - self.reading.time
        if sample and self.pardoned is None:
            self.samples += 1
            self._counted = reading.time

    def _due(self, reading: Reading) -> str:
        rule = self.rule
        if self.state == BREACHED:
            enough = self.samples >= rule.samples and self.lasted >= rule.lasting
            return "breach" if enough else ""
        if self.state == UNKNOWN and self._doubt is not None and rule.unknown != "ignore":
            return "unknown" if reading.time - self._doubt >= rule.unknown_for else ""
        return ""


class Watch:
    """An evaluator that can trip: once an incident, and not again before it is armed again."""

    def __init__(
        self, rule: Rule, repeat: float, before: Watch | None = None, same_redis: bool = True
    ) -> None:
        """before: what this condition was until its rule, or which Redis it is about, changed."""
        self.rule = rule
        self.evaluator = Evaluator(rule, repeat)
        self.tripped = False
        self.excused = False  # it only lacks data, while those who write them may be stopped
        self.disarmed: float | None = None  # since a release, until seen healthy
        self.warned = False
        self._told: dict[str, float] = {}  # entry -> when it was last written
        self._untold: set[str] = set()  # entries that wait until the last one is long enough ago
        if before:
            self._go_on(before, same_redis)

    def _go_on(self, before: Watch, same_redis: bool) -> None:
        rule, old = self.rule, before.rule
        if old.mode == rule.mode == "enforce":
            self.tripped, self.excused = before.tripped, before.excused
            self.disarmed = before.disarmed
        self._miss_history()
        same = (old.what, old.source) == (rule.what, rule.source) and same_redis
        if same:
            self.evaluator.pardoned = before.evaluator.pardoned
        if rule.what in ("drop", "rise") and same and old.window == rule.window:
            self.evaluator.go_on(before.evaluator)

    def _miss_history(self) -> None:
        """What was not fine does not become so by nobody knowing what was before."""
        # A peak of all time will never be known again: that of after the release has to do.
        waits = self.disarmed is not None and not self._ever
        self.evaluator.lost = self.rule.what in HISTORY and (self.tripped or waits)

    @property
    def _ever(self) -> bool:
        """Whether it is measured against a peak that no window ends."""
        return self.rule.what in ("drop", "rise") and math.isinf(self.rule.window)

    @property
    def armed(self) -> bool:
        """Whether it may act."""
        return not self.tripped and self.disarmed is None

    @property
    def objects(self) -> bool:
        """Whether it must be fine before a release."""
        return self.tripped and not self.excused

    def trip(self, due: str, latched: bool) -> None:
        """It has acted, would have, or has come true while others had."""
        lacks = due == "unknown" or self.rule.what in LACKS
        self.tripped, self.excused = True, latched and lacks

    def take(self, reading: Reading) -> str:
        """Take a reading; "breach" or "unknown" if that is due, and it may act or warn."""
        self.evaluator.take(reading)
        fine = self.evaluator.state == FINE
        waited = self.disarmed is not None and reading.time - self.disarmed
        if fine or (waited is not False and waited >= self.rule.rearm_after):
            self.disarmed = None
        if fine:
            self.warned = False
            self._untold.clear()
            if self.rule.mode != "enforce":
                self.tripped = False
        return self.due

    @property
    def due(self) -> str:
        """What is due with the last reading, if it may act or warn."""
        return self.evaluator.due if self.armed or SHADOW in self._untold else ""

    def tell(self, event: str, news: bool) -> bool:
        """Whether to write that entry, now that this is due; news: it was not due before.

        One that comes too soon is written later if it is due by then: what comes and goes many
        times a second must not flood the trail.
        """
        if not news and event not in self._untold:
            return False
        now = self.evaluator.reading.time if self.evaluator.reading else 0.0
        if now - self._told.get(event, -math.inf) < TOLD_APART:
            self._untold.add(event)
            return False
        self._told[event] = now
        self._untold.discard(event)
        return True

    def released(self, time: float) -> bool:
        """No incident is under way; whether that was news."""
        news = self.tripped and self.rule.mode == "enforce"
        if news:
            self.tripped, self.disarmed = False, time
            self.evaluator.lost = self.evaluator.lost and not self._ever
        return news

    def pardon(self, time: float) -> None:
        """A release, just now: who writes the data may have been stopped, and begins anew.

        What waits to be seen healthy would only seem so.
        """
        lacks = self.rule.what in LACKS or self.rule.unknown == "activate"
        if self.rule.redis and lacks and (self.armed or self.evaluator.state == FINE):
            self.evaluator.pardon(time)

    def recall(
        self, row: Mapping[str, Any], now: float, age: float, same_redis: bool = True
    ) -> None:
        """Go on from what a guard before this one wrote, that many seconds ago.

        same_redis: it read from this Redis. The peak of other data is none of these.
        """
        since = row.get("disarmed_seconds")
        if isinstance(since, int | float):
            self.disarmed = now - since - age
        self.tripped = row.get("tripped") is True and self.rule.mode == "enforce"
        self.excused = self.tripped and row.get("objects") is False
        self._miss_history()
        read = (row.get("what"), row.get("source")) == (self.rule.what, self.rule.source)
        pardoned = row.get("pardoned_seconds")
        if isinstance(pardoned, int | float) and read:
            self.evaluator.pardoned = now + pardoned - age
        if isinstance(row.get("extreme"), int | float) and read and same_redis and self._ever:
            self.evaluator.extreme.recall(row["extreme"])
            self.evaluator.lost = False

    def acts(self, due: str) -> bool:
        """Whether it is more than a warning."""
        return self.rule.mode != "warn" and (due == "breach" or self.rule.unknown == "activate")

    def reason(self) -> str:
        """For the reason of an activation: name, value and limit."""
        return f"{self.rule.name}: {self.finding()}"

    def finding(self) -> str:
        """What is the matter: value and limit, or why the value is unknown."""
        rule, value = self.rule, self.evaluator.value
        if value is None:
            return f"{rule.source} is unknown: {self.evaluator.problem}"
        if rule.what in ("missing", "failed", "down", "redis-down"):
            return f"{rule.source} {shown(rule, value)} for {self.evaluator.lasted:.1f} s"
        return f"{rule.source} {shown(rule, value)} {rule.bound}"


def shown(rule: Rule, value: float) -> str:
    """A value with its unit; of what is only so or not, how it should be or how it is."""
    if rule.what in ("missing", "failed", "down", "redis-down"):
        return {"redis-down": "no answer"}.get(rule.what, rule.what) if value > 0 else "ok"
    if rule.what in ("age", "unchanged"):
        return f"{value:.1f} s"
    return number(value) + ("%" if rule.what == "pressure" or rule.limit.kind == "%" else "")
