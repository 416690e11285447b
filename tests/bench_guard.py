"""How long from a breach that is written to Redis to the last sign of life, pushed and polled.

The time begins right before the write, on a connection that is there already, inside the host.
"""

import statistics
from pathlib import Path

from guarding import Guarded, condition
from host import Host
from kinds import FOUR
from roots import root_tree
from trading import Trading
from waiting import SOON, wait_until

PUSHED, POLLED = "breach, pushed", "breach, polled"
POLL = 0.1  # seconds between two polls, where there is nothing but polls
MOST = {PUSHED: 0.010, POLLED: POLL + 0.010}  # seconds that the median may take

MOST_CORE, MOST_MEMORY = 0.5, 30.0  # percent; MB

WRITE = """
import socket, time
s = socket.create_connection(("127.0.0.1", 6379))
s.sendall(b"PING\\r\\n")
s.recv(100)
now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
s.sendall(b"SET bench:risk 2\\r\\n")
s.recv(100)
print(now)
"""


def report(release: str, deb: Path, rounds: int) -> list[str]:
    """Measure `rounds` breaches each way on an own host; print; name what is late."""
    with Host(release, [root_tree(release)]) as host:
        host.install(deb)
        trading = Trading(host, beat=500_000)
        trading.start()
        times = measure(host, trading, max(2, rounds))
        core, memory = idle(Guarded(host))
    print(f"{release}, guard\n{table(times)}")
    print(f"{'guard, 50 conditions':22} {core:6.2f} % of a core, {memory:.1f} MB", end="\n\n")
    bad = [
        f"{release}, {way}: median later than {most:g} s"
        for way, most in MOST.items()
        if statistics.median(times[way]) > most
    ]
    if core >= MOST_CORE or memory >= MOST_MEMORY:
        bad.append(f"{release}: an idle guard takes {core:.2f} % of a core and {memory:.1f} MB")
    return bad


def measure(host: Host, trading: Trading, count: int) -> dict[str, list[float]]:
    """Seconds of `count` breaches each way, on a host with the four running."""
    guard = Guarded(host)
    host.write_file("/usr/local/bin/breach.py", WRITE)
    times: dict[str, list[float]] = {PUSHED: [], POLLED: []}
    for way in times:
        guard.redis("SET", "bench:risk", 0)
        user = "ACL SETUSER default {}client|tracking".format("+" if way == PUSHED else "-")
        host.run("redis-cli", *user.split())
        host.run("systemctl", "restart", "quantum-ess-guard")
        poll = "1s" if way == PUSHED else f"{int(1000 * POLL)}ms"
        rule = condition("bench", redis="bench:risk", limit="> 1", samples=1)
        guard.configure(rule, poll=poll)
        wait_until(
            lambda w=way: guard.state()["redis"]["push"] == (w == PUSHED),  # type: ignore[misc]
            20,
            f"{way}: {guard.state()['redis']}",
        )
        times[way] = [once(guard, trading) for _ in range(count)]
    host.run("redis-cli", "ACL", "SETUSER", "default", "+client|tracking")
    return times


def once(guard: Guarded, trading: Trading) -> float:
    """One breach, from the write to the last sign of life; everything runs again afterwards."""
    trading.all_running()
    guard.ess.wait_idle()
    guard.wait("bench", state="fine", armed=True)
    written = int(guard.host.run("python3", "/usr/local/bin/breach.py").stdout)
    wait_until(lambda: guard.latched() and not trading.remaining(), SOON, "the end of the four")
    took = (trading.last_sign_of_life() - written) / 1e9
    guard.redis("SET", "bench:risk", 0)
    guard.wait("bench", state="fine", tripped=True)
    guard.ess.wait_idle()
    guard.ess("deactivate", "--no-start")
    guard.host.run("systemctl", "start", *FOUR)
    return took


def table(times: dict[str, list[float]]) -> str:
    """The times in ms, a line a way."""
    lines = []
    for way, values in times.items():
        worst = sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]
        median = statistics.median(values)
        lines.append(f"{way:22} {median * 1e3:6.1f} ms {worst * 1e3:6.1f} ms")
    return "\n".join(lines)


def idle(guard: Guarded, seconds: float = 20) -> tuple[float, float]:
    """Share of a core, in percent, and resident memory, in MB, of the guard with 50 conditions."""
    for number in range(50):
        guard.redis("HSET", f"idle:{number}", "risk", 0, "timestamp", 0)
    rules = (
        condition(f"c{n}", redis=f"idle:{n}", field="risk", limit="> 1", timestamp="timestamp")
        for n in range(50)
    )
    guard.configure(*rules, poll="1s", repeat="5s")
    pid = guard.host.main_pid("quantum-ess-guard.service")

    def ticks() -> tuple[int, int]:
        stat = guard.host.read_file(f"/proc/{pid}/stat").rpartition(")")[2].split()
        uptime = guard.host.read_file("/proc/uptime").split()[0]
        return int(stat[11]) + int(stat[12]), int(100 * float(uptime))

    begun, since = ticks()
    wait_until(lambda: ticks()[1] - since >= 100 * seconds, seconds + 10, "time to pass")
    used, now = ticks()
    status = guard.host.read_file(f"/proc/{pid}/status")
    rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return 100 * (used - begun) / (now - since), rss / 1024
