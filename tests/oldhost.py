"""A replica of the installation that this package takes over from, on a host for tests.

A bash controller in a user's checkout and five units copied by hand, with the behaviour that was
measured on the real thing: a flag that is there makes the controller do nothing, while the path
unit starts it again and again.
"""

from collections.abc import Mapping

from host import Host
from kinds import FOUR

CHECKOUT = "/home/qt/quantum_trader"
CONTROLLER = f"{CHECKOUT}/ops/ess_controller.sh"
UNITS_OF = "/etc/systemd/system"
SCRIPTS = {
    "/etc/cron.d/quantum": f"# {CONTROLLER} is run by hand\n0 3 * * * root {CONTROLLER} status\n",
    "/usr/local/bin/panic": f"#!/bin/sh\nexec bash {CONTROLLER} activate\n",
    "/home/qt/bin/check.sh": "#!/bin/sh\ncd ~/quantum_trader/ops && ./ess_controller.sh status\n",
}

_CONTROLLER = f"""\
#!/bin/bash
flag=/var/run/quantum/ESS_ON
say() {{ logger -t quantum-ess -p crit "[ESS AUDIT] $1"; }}
case ${{1-}} in
activate)
    if [[ -f $flag ]]; then say "already active"; exit 0; fi
    mkdir -p "${{flag%/*}}"; date -u +%FT%TZ >"$flag"; say "ESS LATCH FLAG SET"
    for unit in {" ".join(FOUR)}; do systemctl stop "$unit"; done ;;
deactivate)
    rm -f "$flag"
    for unit in {" ".join(FOUR)}; do systemctl start "$unit"; done ;;
status) if [[ -f $flag ]]; then echo "ESS Status: ACTIVE"; else echo "ESS Status: INACTIVE"; fi ;;
watch) if [[ -f $flag ]]; then "$0" activate; fi ;;
*) echo "usage: $0 activate|deactivate|status" >&2; exit 2 ;;
esac
"""

UNITS: Mapping[str, str] = {
    "quantum-ess.service": f"""\
[Unit]
Description=Emergency Stop System
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={CONTROLLER} activate
ExecStop={CONTROLLER} deactivate
[Install]
WantedBy=multi-user.target
""",
    "quantum-ess.path": """\
[Unit]
Description=ESS flag file monitor
[Path]
PathExists=/var/run/quantum/ESS_ON
Unit=quantum-ess-trigger.service
[Install]
WantedBy=paths.target
""",
    "quantum-ess-trigger.service": f"""\
[Unit]
Description=ESS trigger
[Service]
Type=oneshot
ExecStart={CONTROLLER} activate
""",
    "quantum-ess-watch.service": f"""\
[Unit]
Description=ESS fallback watcher
[Service]
Type=oneshot
ExecStart={CONTROLLER} watch
""",
    "quantum-ess-watch.timer": """\
[Unit]
Description=ESS fallback watcher, every 5 s
[Timer]
OnBootSec=5s
OnUnitActiveSec=5s
[Install]
WantedBy=timers.target
""",
}


def install(host: Host, *, enable_stop: bool = True) -> None:
    """What its manual says to do; `enable_stop`: also the unit that stops trading at every boot."""
    host.sh("useradd --create-home qt 2>/dev/null || :")
    host.write_file(CONTROLLER, _CONTROLLER, 0o755)
    for name, text in UNITS.items():
        host.write_file(f"{CHECKOUT}/deploy/systemd/{name}", text)
    for path, text in SCRIPTS.items():
        host.write_file(path, text, 0o755)
    host.sh(
        f"chown -R qt: /home/qt; cp {CHECKOUT}/deploy/systemd/quantum-ess*.* {UNITS_OF}/;"
        "systemctl daemon-reload; mkdir -p /run/quantum;"
        "systemctl enable --now quantum-ess.path quantum-ess-watch.timer"
    )
    if enable_stop:
        host.sh("systemctl enable quantum-ess.service")
