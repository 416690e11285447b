"""Redis in high availability: three real Sentinels, a master, a replica; the master dies."""

from guarding import Guarded, condition
from kinds import REDIS
from trading import Trading
from waiting import SOON, hold, wait_until

KEY = "quantum:ess:active"
MASTER, REPLICA = 6379, 6380
SENTINELS = (26379, 26380, 26381)
FAILOVER = 60.0  # seconds: five to notice, an election, and a busy machine

DOWN = 5000  # ms; a busy machine may keep a master off the processor for a second

SERVICE = """[Service]
ExecStart=/usr/bin/redis-server {arguments}
Restart=no
"""
SENTINEL = """port {port}
bind 127.0.0.1
dir /tmp
sentinel monitor trading 127.0.0.1 6379 2
sentinel down-after-milliseconds trading {down}
sentinel failover-timeout trading 3000
"""


def start(trading: Trading) -> None:
    """A replica and three Sentinels beside the host's own redis-server."""
    host = trading.host
    replica = f"--port {REPLICA} --bind 127.0.0.1 --replicaof 127.0.0.1 {MASTER} --dir /tmp"
    host.write_file("/etc/systemd/system/replica.service", SERVICE.format(arguments=replica))
    for port in SENTINELS:
        path = f"/var/tmp/sentinel-{port}.conf"
        host.write_file(path, SENTINEL.format(port=port, down=DOWN))
        unit = f"/etc/systemd/system/sentinel-{port}.service"
        host.write_file(unit, SERVICE.format(arguments=f"{path} --sentinel"))
    units = [f"sentinel-{port}" for port in SENTINELS]
    host.sh(f"systemctl daemon-reload; systemctl start replica {' '.join(units)}")

    def ready() -> bool:
        told = cli(trading, SENTINELS[0], "SENTINEL", "CKQUORUM", "trading")
        found = cli(trading, SENTINELS[0], "SENTINEL", "REPLICAS", "trading")
        return told.startswith("OK 3") and str(REPLICA) in found

    wait_until(ready, FAILOVER, "three Sentinels that know the replica")


def cli(trading: Trading, port: int, *words: object) -> str:
    """What `redis-cli` says to a command, on that port; "" if nobody answers."""
    command = ("redis-cli", "-p", str(port), *map(str, words))
    return trading.host.run(*command, check=False).stdout.strip()


def master(trading: Trading) -> int:
    """The port of the master that the Sentinels agree on."""
    said = {
        cli(trading, p, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "trading").split()[-1]
        for p in SENTINELS
    }
    return int(said.pop()) if len(said) == 1 else 0


def test_the_master_is_killed(trading: Trading) -> None:
    host = trading.host
    start(trading)
    guard = Guarded(host)
    guard.redis("SET", "risk", 1)
    addresses = " ".join(f"127.0.0.1:{port}" for port in SENTINELS)
    guard.configure(
        f"[redis]\nsentinel = {addresses}\nmaster = trading\n",
        condition("risk", redis="risk", limit="> 10", samples=1),
        condition("there", redis="risk", measure="missing", lasting="1s"),
    )
    assert guard.state()["redis"]["server"] == f"127.0.0.1:{MASTER}"

    assert guard.redis("WAIT", 1, 10000) == "1"  # the replica has it all

    # While armed: nothing stops, and the guard goes to the new master by itself.
    host.sh(f"systemctl kill -s KILL {REDIS}; systemctl stop {REDIS}")
    wait_until(lambda: master(trading) == REPLICA, FAILOVER, "a failover")

    def moved(port: int) -> bool:
        redis = guard.state()["redis"]
        return bool(redis["state"] == "up" and redis["server"].endswith(f":{port}"))

    wait_until(lambda: moved(REPLICA), FAILOVER, "the guard at the new master")
    guard.wait("risk", state="fine")
    hold(guard.latched, 1, "an activation by a failover")
    cli(trading, REPLICA, "SET", "risk", 11)
    guard.wait_fired("risk")
    since = guard.ess.status()["since"]
    wait_until(lambda: cli(trading, REPLICA, "GET", KEY) == since, SOON, "the marker")

    # While latched: the old master has come back as a replica, and is the master again.
    host.run("systemctl", "start", REDIS)
    synced = "master_link_status:up"
    wait_until(lambda: synced in cli(trading, MASTER, "INFO", "replication"), FAILOVER, "a replica")
    host.sh("systemctl kill -s KILL replica; systemctl stop replica")
    wait_until(lambda: master(trading) == MASTER, FAILOVER, "a second failover")
    wait_until(lambda: cli(trading, MASTER, "GET", "risk") == "11", SOON, "the data")
    cli(trading, MASTER, "DEL", KEY)  # as if it had died before it was told
    wait_until(lambda: moved(MASTER), FAILOVER, "the guard at the master")
    wait_until(lambda: cli(trading, MASTER, "GET", KEY) == since, SOON, "the marker, renewed")
    cli(trading, MASTER, "SET", "risk", 1)
    guard.calm("risk")
    wait_until(lambda: cli(trading, MASTER, "EXISTS", KEY) == "0", SOON, "no marker")
