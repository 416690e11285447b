"""What is wrong with a condition as a whole: above all that it could never come true, or always."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from quantum_ess import unitnames
from quantum_ess.errors import ConfigError
from quantum_ess.guard.condition import PRESSURE, REDIS, UNIT, Condition

if TYPE_CHECKING:
    from quantum_ess.config import Config

OWN = "redis-down"  # the name of [guard] redis_down among the conditions
_ALWAYS = {"mode", "unknown", "unknown_for", "rearm_after", "for", "measure"}
_SOURCES = {"redis": REDIS, "unit": UNIT, "pressure": PRESSURE}
_DATA = {"redis", "type", "field", "timestamp", "max_age"}


class Keys(NamedTuple):
    """The keys of one measure: those that have an effect, and those that it needs."""

    known: set[str]
    needed: tuple[str, ...] = ()


_KEYS = {
    "value": Keys(_DATA | {"limit", "samples"}, ("limit",)),
    "drop": Keys(_DATA | {"limit", "samples", "window"}, ("limit",)),
    "rise": Keys(_DATA | {"limit", "samples", "window"}, ("limit",)),
    "age": Keys({"redis", "type", "field", "limit", "samples"}, ("limit",)),
    "missing": Keys({"redis", "type", "field"}, ("for",)),
    "unchanged": Keys({"redis", "type", "field", "limit"}, ("limit",)),
    "failed": Keys({"unit"}, ("for",)),
    "down": Keys({"unit"}, ("for",)),
    "restarts": Keys({"unit", "limit", "window"}, ("limit", "window")),
    "pressure": Keys({"pressure", "share", "average", "limit"}, ("limit", "for")),
}


def errors(config: Config) -> Iterator[ConfigError]:
    """Every error of [guard], of [redis] as the guard uses it, and of the conditions."""
    yield from _redis(config)
    for condition in config.conditions:
        yield from _condition(config, condition)


def _redis(config: Config) -> Iterator[ConfigError]:
    def given(key: str) -> bool:
        return ("redis", key, "") in config.origins and bool(getattr(config, f"redis_{key}"))

    def error(key: str, message: str) -> ConfigError:
        return config.origin("redis", key, "").error(f"{key}: {message}")

    if given("sentinel") and not given("master"):
        yield error("sentinel", "needs the name of the master: master = NAME")
    if given("master") and not given("sentinel"):
        yield error("master", "needs the Sentinels to ask: sentinel = HOST:PORT ...")
    if given("username") and not given("password_file") and "@" not in config.redis_url:
        yield error("username", "needs a password_file")
    for key in ("ca_file", "cert_file", "key_file"):
        if given(key) and not config.redis_url.startswith("rediss:"):
            yield error(key, "has an effect only with url = rediss://...")
    if given("cert_file") != given("key_file"):
        key = "cert_file" if given("cert_file") else "key_file"
        yield error(key, "cert_file and key_file need each other")


def _condition(config: Config, condition: Condition) -> Iterator[ConfigError]:
    def error(key: str, message: str) -> ConfigError:
        place = config.origin("condition", key, condition.name)
        if not place.line:
            place = config.origin("condition", "", condition.name)
        return place.error(f"[condition {condition.name}] {message}")

    source = condition.source
    if condition.name == OWN:
        yield error("", f"{OWN!r} is the name of [guard] redis_down; choose another")
    if not source:
        yield error("", "needs exactly one of redis, unit and pressure")
        return
    what = condition.what
    if what not in _SOURCES[source]:
        known = ", ".join(_SOURCES[source])
        yield error("measure", f"measure = {what} is not possible with {source}; expected {known}")
        return
    keys = _KEYS[what]
    given = {
        key
        for section, key, name in config.origins
        if (section, name) == ("condition", condition.name) and key and _has(condition, key)
    }
    for key in sorted(given - keys.known - _ALWAYS):
        yield error(key, f"{key} has no effect with measure = {what}")
    yield from _unknown(config, condition, error)
    lacking = [key for key in keys.needed if key not in given]
    for key in lacking:
        yield error("measure", f"needs {key} (measure = {what})")
    if not lacking:
        for key, message in (*_limit(condition), *_data(condition), *_unit(config, condition)):
            yield error(key, message)


def _unknown(
    config: Config, condition: Condition, error: Callable[[str, str], ConfigError]
) -> Iterator[ConfigError]:
    act = (condition.unknown or config.guard_unknown) == "activate"
    span = config.guard_unknown_for if condition.unknown_for is None else condition.unknown_for
    if act and not span:
        message = "unknown_for = 0 would act on a single look; unknown = activate needs some time"
        yield error("unknown_for", message)


def _has(condition: Condition, key: str) -> bool:
    attribute = "lasting" if key == "for" else key
    return getattr(condition, attribute) is not None


def _limit(condition: Condition) -> Iterator[tuple[str, str]]:
    """Limits that nothing can break, or that everything does."""
    limit, what = condition.limit, condition.what
    if condition.lasting == 0 and "for" in _KEYS[what].needed:
        yield "for", f"for = 0 would act on a single look; measure = {what} needs some time"
    if limit is None:
        return
    if what == "value" and limit.kind:
        yield (
            "limit",
            f"limit of a value is a number without {'%' if limit.kind == '%' else 'unit'}",
        )
    if what in ("age", "unchanged") and limit.kind != "s" and limit.number:
        yield "limit", f"limit of measure = {what} is a time span such as > 30s"
    if what in ("drop", "rise", "restarts", "pressure") and limit.kind == "s":
        yield "limit", f"limit of measure = {what} is not a time span"
    if what == "restarts" and limit.kind == "%":
        yield "limit", "limit of measure = restarts is a number"
    if what != "value" and limit.operator.startswith("<"):
        yield "limit", f"measure = {what} is never negative and small is good: use > or >="
    elif what != "value" and (limit.number < 0 or (limit.operator, limit.number) == (">=", 0)):
        yield "limit", f"{limit} is always true"
    if what == "pressure" and (limit.number > 100 or (limit.operator, limit.number) == (">", 100)):
        yield "limit", f"{limit} can never be true: pressure is 0 to 100 %"
    if (condition.pressure, condition.share) == ("cpu", "full"):
        yield "share", "full can never be true for the processor of a host (proc(5))"


def _data(condition: Condition) -> Iterator[tuple[str, str]]:
    """What is read from Redis."""
    if condition.source != "redis":
        return
    if condition.max_age is not None and condition.timestamp is None:
        yield "max_age", "max_age needs timestamp, the field that says when"
    if condition.type == "plain" and (condition.field or condition.timestamp):
        yield "type", "type = plain has no fields"
    if condition.type in ("hash", "json") and not condition.field and condition.what != "missing":
        yield "type", f"type = {condition.type} needs field"
    if condition.timestamp and not condition.field:
        yield "timestamp", "timestamp needs field: both are in the hash or JSON text"


def _unit(config: Config, condition: Condition) -> Iterator[tuple[str, str]]:
    name = condition.unit
    if name is None:
        return
    if unitnames.is_pattern(name):
        yield "unit", f"{name} is a pattern; name one unit"
    elif condition.what == "down" and config.covers(name) and not config.kept(name):
        yield "unit", f"{name} is protected: once stopped it would be down, and never released"
    elif condition.what == "restarts" and not name.endswith(".service"):
        yield "unit", f"{name}: only a service restarts"
