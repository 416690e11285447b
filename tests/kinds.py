"""What kinds of services the stop has to end, as unit files around the stand-in.

A kind is the text of a unit file. `%n`, the unit's full name, names its file of stamps too; every
process of a unit stamps, control processes (`ExecStop=` and its like) included.
"""

FOUR = (
    "quantum-ai-engine.service",
    "quantum-execution.service",
    "quantum-apply-layer.service",
    "quantum-governor.service",
)
KEPT = ("grafana-server.service", "quantum-rl-monitor.service", "prometheus.service")
REDIS = "redis-server.service"  # also kept, and the real one

LONG = 60  # seconds: whatever takes this long was not waited for


def standin(mode: str, seconds: int | str = "") -> str:
    """The stand-in's command line in a unit file."""
    return f"/usr/local/bin/standin {mode} /run/standin/%n {seconds}".rstrip()


def service(command: str, *lines: str) -> str:
    """The unit file of a service that runs `command`, with further lines for [Service]."""
    head = ("[Unit]", "StartLimitIntervalSec=0", "[Service]", f"ExecStart={command}")
    return "\n".join((*head, *lines, "[Install]", "WantedBy=multi-user.target", ""))


NORMAL = standin("normal")
DEAF = standin("ignore-term")
SLEEP = standin("sleep", LONG)

# A delegated service that has moved its process into a cgroup of its own below the unit's.
_OWN = "/sys/fs/cgroup/system.slice/%n/own"
_MOVED = f"/bin/sh -ec 'mkdir -p {_OWN}; echo $$$$ >{_OWN}/cgroup.procs; exec {DEAF}'"

KINDS = {
    "normal": service(NORMAL, "User=daemon"),
    "ignores-sigterm": service(DEAF),
    "slow-to-shut-down": service(standin("slow-term", LONG)),
    "forks-with-setsid": service(standin("fork")),
    "restarts-at-once": service(NORMAL, "Restart=always", "RestartSec=0"),
    "restarts-after-1s": service(NORMAL, "Restart=always", "RestartSec=1"),
    "kill-mode-process": service(standin("fork"), "KillMode=process"),
    "kill-mode-none": service(DEAF, "KillMode=none"),
    "sends-no-sigkill": service(DEAF, "SendSIGKILL=no"),
    "exec-stop-sleeps": service(NORMAL, f"ExecStop={SLEEP}"),
    "exec-stop-post-sleeps": service(NORMAL, f"ExecStopPost={SLEEP}"),
    "never-ready": service(NORMAL, "Type=notify", "TimeoutStartSec=infinity"),
    "still-starting": service(NORMAL, f"ExecStartPre={SLEEP}", "TimeoutStartSec=infinity"),
    "reloading": service(NORMAL, f"ExecReload={SLEEP}"),  # once `Trading.start` has reloaded it
    "spawns-all-the-time": service(standin("spawn")),
    "own-cgroup": service(_MOVED, "Delegate=yes"),
    "cannot-start": service(standin("fail"), "Type=oneshot"),
}

# All kinds under the four names that the product protects as shipped, four at a time.
ROUNDS = tuple(
    dict(zip(FOUR, names, strict=True))
    for names in (
        ("normal", "ignores-sigterm", "slow-to-shut-down", "forks-with-setsid"),
        ("restarts-at-once", "kill-mode-process", "sends-no-sigkill", "exec-stop-sleeps"),
        ("never-ready", "restarts-after-1s", "kill-mode-none", "exec-stop-post-sleeps"),
        ("still-starting", "reloading", "spawns-all-the-time", "own-cgroup"),
    )
)
