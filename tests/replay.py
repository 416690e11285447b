"""A day of portfolio states, what three conditions come to by plain arithmetic, and its replay.

A state every 5 s: a random walk with a bad tick, a time in which the writer hangs, and a crash.
"""

import json
import math
import random

from host import Host

STEP, BEGAN = 5, 1.77e9  # seconds between two states; epoch seconds of the first
CRASH, TICK, GAP = range(9000, 9012), 4000, range(12000, 12040)
WINDOW, STALE, DOUBT = 300, 60, 30  # seconds

State = dict[str, str]
Due = dict[str, list[int]]  # condition -> the states at which it is due

CONDITIONS = f"""
[guard]
unknown = warn
unknown_for = {DOUBT}s
[condition drop]
redis = day
field = equity_usd
measure = drop
limit = >= 3%
window = {WINDOW}s
samples = 2
[condition stale]
redis = day
field = timestamp
measure = age
limit = > {STALE}s
samples = 1
[condition doubt]
redis = day
field = drawdown
timestamp = timestamp
max_age = {STALE}s
limit = > 0.9
"""


def day(seed: int) -> list[State]:
    """The states of one day; the same for the same seed."""
    dice = random.Random(seed)
    equity, peak, states = 1e5, 1e5, []
    for step in range(86400 // STEP):
        equity *= 1 + dice.gauss(0, 2e-5) - (0.004 if step in CRASH else 0)
        peak = max(peak, equity)
        shown = equity if step != TICK else equity * 0.4
        states.append(
            {
                "timestamp": str(BEGAN + STEP * (step if step not in GAP else GAP.start - 1)),
                "equity_usd": f"{shown:.2f}",
                "drawdown": f"{1 - shown / peak:.6f}",
            }
        )
    return states


def expected(states: list[State]) -> Due:
    """When each condition is due, as plainly as it can be said."""
    equity = [float(state["equity_usd"]) for state in states]
    ages = [BEGAN + STEP * n - float(state["timestamp"]) for n, state in enumerate(states)]
    falls = [_fall(equity, n) >= 3 for n in range(len(states))]
    stale = [n for n, age in enumerate(ages) if age > STALE]
    doubtful = [n for n in stale if n - DOUBT // STEP in stale]
    return {
        "drop": [n for n in range(1, len(states)) if falls[n] and falls[n - 1]],
        "stale": stale,
        "doubt": doubtful,
    }


def _fall(equity: list[float], now: int) -> float:
    """Percent below the highest of the window; what only one state shows is no peak.

    The window is kept in thousandths: a state counts while it is within that of its end.
    """
    first = now - WINDOW // STEP
    while math.floor(STEP * first * 1000 / WINDOW) <= math.floor(STEP * now * 1000 / WINDOW) - 1000:
        first += 1
    twice = (min(equity[n - 1], equity[n]) for n in range(max(first, 1), now + 1))
    peak = max([equity[now], *twice])
    return 100 * (peak - equity[now]) / peak


# The product's own reader and judgement, in a host with a real Redis; only the clock is ours.
REPLAY = """
import json, sys
from quantum_ess.guard import keyreader, rules
from quantum_ess.guard.evaluate import Evaluator
from quantum_ess.redisclient import Client, Settings

class Clock:
    now = 0.0
    def monotonic(self): return self.now
    def time(self): return began + self.now

began, step, as_hash = float(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "hash"
clock = keyreader.time = Clock()
found = rules.read("/var/tmp/replay.rules")
client = Client(Settings({}))
reader = keyreader.Reader(found, client)
judges = {rule.name: Evaluator(rule, found.repeat) for rule in found.rules}
due = {name: [] for name in judges}
client.ask(("DEL", "day"))
for number, state in enumerate(json.load(open("/var/tmp/replay.day"))):
    clock.now = step * number
    if as_hash:
        client.ask(("HSET", "day", *(text for pair in state.items() for text in pair)))
    else:
        client.ask(("SET", "day", json.dumps({k: float(v) for k, v in state.items()})))
    for name, reading in reader.read(reader.keys):
        if judges[name].take(reading):
            due[name].append(number)
print(json.dumps(due))
"""


def replay(host: Host, states: list[State], kind: str) -> Due:
    """Write each state to the host's Redis, as a `hash` or `json`, and have it read and judged.

    The rules are those in force there.
    """
    host.sh("cp /run/quantum-ess/guard-plan /var/tmp/replay.rules")
    host.write_file("/var/tmp/replay.day", json.dumps(states))
    host.write_file("/var/tmp/replay.py", REPLAY)
    done = host.run("python3", "/var/tmp/replay.py", str(BEGAN), str(STEP), kind, timeout=180)
    found: Due = json.loads(done.stdout)
    return found
