"""Hooks and notifications: after the kill, once a transition, and never in anybody's way."""

import http.server
import json
import subprocess
import threading
from pathlib import Path
from typing import Any

from guarding import Guarded, condition
from host import Host
from kinds import FOUR
from product import Ess
from quantum_ess import hooks
from trading import Trading
from waiting import SOON, hold, wait_until

ACTIVATE, DEACTIVATE = "/etc/quantum-ess/activate.d", "/etc/quantum-ess/deactivate.d"
URLS = "/etc/quantum-ess/notify.urls"
EXAMPLE = Path(__file__).parents[2] / "debian/examples/cancel-open-orders"
TOLD = "/var/cache/told"  # what hooks and servers in the host have heard

SAY = f"""#!/bin/sh
echo "said by a hook"
mkdir -p {TOLD}
{{ env; echo "STATE=$(systemctl is-active {FOUR[-1]})"; }} >>{TOLD}/$ESS_TRANSITION
echo run >>{TOLD}/runs
"""
# One that takes whatever comes over HTTP or SMTP and writes it down, a file a message.
SERVER = f"""
import http.server, os, socketserver, sys, time
os.makedirs({TOLD!r}, exist_ok=True)
def note(kind, text):
    name = f"{TOLD}/{{kind}}.{{time.time_ns()}}"
    with open(name + ".new", "w") as file:
        file.write(text)
    os.rename(name + ".new", name)
class Web(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        note("http", self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()
class Mail(socketserver.StreamRequestHandler):
    def handle(self):
        say = lambda text: self.wfile.write(text.encode() + b"\\r\\n")
        say("220 here")
        while line := self.rfile.readline().decode():
            verb = line[:4].upper()
            if verb == "DATA":
                say("354 go on")
                rows = iter(self.rfile.readline, b".\\r\\n")
                note("smtp", b"".join(rows).decode())
            say("221 bye" if verb == "QUIT" else "250 well")
kind, port = sys.argv[1], int(sys.argv[2])
socketserver.TCPServer.allow_reuse_address = True
socketserver.TCPServer(("127.0.0.1", port), Web if kind == "http" else Mail).serve_forever()
"""


def put_hook(host: Host, path: str, text: str, mode: int = 0o755) -> None:
    host.write_file(path, text, mode)


def lines(host: Host, name: str) -> list[str]:
    """What was told under that name so far."""
    return host.sh(f"cat {TOLD}/{name} 2>/dev/null || true").splitlines()


def told_of(host: Host, transition: str) -> dict[str, str]:
    """What the hooks of that transition found in their environment: ESS_*, without that prefix."""
    rows = (row.split("=", 1) for row in lines(host, transition))
    return {name[4:]: value for name, value in rows if name.startswith("ESS_")}


def messages(host: Host, kind: str) -> list[str]:
    """Messages that a server has taken, oldest first."""
    names = host.sh(f"cd {TOLD} 2>/dev/null && ls | grep '^{kind}[.][0-9]*$' || true").split()
    return [host.read_file(f"{TOLD}/{name}") for name in sorted(names)]


def problems(ess: Ess) -> list[str]:
    found: list[str] = ess.status()["problems"]
    return found


def found_by_check(ess: Ess) -> list[str]:
    """The ids of what `check` finds."""
    findings = json.loads(ess("check", "--json", check=False).stdout)["findings"]
    return [finding["id"] for finding in findings]


def hooks_of(ess: Ess) -> dict[str, str]:
    """Hook to problem, of the latest transition in the history that had any."""
    records: list[dict[str, Any]] = json.loads(ess("history", "last", "--json").stdout)["records"]
    found = [entry for entry in records if entry["event"] == "hooks"]
    return {row["hook"]: row["problem"] for row in found[-1]["hooks"]} if found else {}


def test_hooks(trading: Trading) -> None:
    """Told everything, after the stop; what fails, hangs or is not root's is shown, no more."""
    host, ess = trading.host, Ess(trading.host)
    ess.configure("[hooks]\ntimeout = 8s\n")
    put_hook(host, f"{ACTIVATE}/10-say", SAY)
    put_hook(host, f"{ACTIVATE}/20-fail", "#!/bin/sh\nexit 3\n")
    put_hook(host, f"{ACTIVATE}/30-hang", "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n")
    put_hook(host, f"{ACTIVATE}/40-not-ours", SAY, 0o777)
    put_hook(host, f"{ACTIVATE}/50.sh", SAY)
    put_hook(host, f"{DEACTIVATE}/say", SAY)
    said = ess("activate", "--reason", "feed is\nstale $(touch /x)")
    assert "verified stopped" in said.stdout and said.stderr == ""
    wait_until(  # the command has ended, and waits for none of them
        lambda: host.run("pgrep", "-f", "30-hang", check=False).stdout, SOON, "a hook at work"
    )
    failed = {"activate.d/20-fail", "activate.d/30-hang", "activate.d/40-not-ours"}
    events = ess.wait_event("hook-failed", 3)
    assert {event["ESS_HOOK"] for event in events} == failed
    told = "\n".join(lines(host, "activate"))
    incident = ess.status()["incident"]
    for wanted in (f"ESS_INCIDENT={incident}", "ESS_TRIGGER=command", "ESS_ACTOR=root", "LIVING="):
        assert wanted in told
    assert "ESS_REASON=feed is\nstale $(touch /x)" in told and not host.exists("/x")
    assert f"ESS_UNITS={' '.join(FOUR)}" in told
    assert "STATE=inactive" in told  # not before the kill
    assert "said by a hook" in host.journal("-t", "quantum-ess-hook")
    wait_until(lambda: hooks_of(ess), SOON, "the history")
    assert hooks_of(ess) == {
        "activate.d/10-say": "",
        "activate.d/20-fail": "exit status 3",
        "activate.d/30-hang": "did not end within 8 s, and was killed",
        "activate.d/40-not-ours": f"refused: others than root may write to {ACTIVATE}/40-not-ours",
    }
    wait_until(  # written after the history
        lambda: len([line for line in problems(ess) if "hook failed" in line]) == 3, SOON, "status"
    )
    assert found_by_check(ess).count("hook-failed") == 3
    assert not host.run("pgrep", "-f", "30-hang", check=False).stdout
    ess("activate")
    hold(lambda: len(lines(host, "runs")) > 1, 1, "run again")
    ess("deactivate")
    wait_until(lambda: lines(host, "deactivate"), SOON, "the other hook")
    assert f"ESS_UNITS={' '.join(FOUR)}" in lines(host, "deactivate")
    wait_until(lambda: not problems(ess), SOON, "a status without problems")
    assert "hook deactivate.d/say done" in ess("history", "last").stdout

    # The same of a stop that nobody asked for.
    host.sh(f"rm {ACTIVATE}/[2-5]* {TOLD}/*")
    guard = Guarded(host)
    guard.redis("SET", "risk", 1)
    guard.configure(condition("risk", redis="risk", limit="> 10", samples=1))
    guard.redis("SET", "risk", 11)
    reason = guard.wait_fired("risk")
    wait_until(lambda: lines(host, "runs"), SOON, "the hook")
    assert told_of(host, "activate") == {
        "TRANSITION": "activate",
        "INCIDENT": ess.status()["incident"],
        "TRIGGER": "guard",
        "REASON": reason,
        "ACTOR": "root",
        "TIME": told_of(host, "activate")["TIME"],
        "UNITS": " ".join(FOUR),
        "LIVING": "",
    }
    assert reason == "condition risk: risk 11 > 10"
    guard.redis("SET", "risk", 1)
    guard.calm("risk")
    wait_until(lambda: len(lines(host, "runs")) > 1, SOON, "the other hook")
    after = told_of(host, "deactivate")
    assert (after["TRIGGER"], after["REASON"]) == ("command", "calm again")
    assert after["INCIDENT"] == told_of(host, "activate")["INCIDENT"]


def test_hooks_and_crashes(trading: Trading) -> None:
    """What a power cut came before is made up for; what a crash broke off is told, not repeated."""
    host, ess = trading.host, Ess(trading.host)
    ess.configure("[hooks]\ntimeout = 10min\n")
    put_hook(host, f"{ACTIVATE}/slow", SAY + "exec sleep 600\n")
    host.run("systemctl", "mask", "--runtime", "quantum-ess-hooks.service")
    ess("activate")
    ess.wait_complete()
    host.power_cut()
    wait_until(lambda: lines(host, "runs"), SOON, "the hook after the boot")
    host.run("systemctl", "kill", "--signal=KILL", "quantum-ess-hooks.service")
    (event,) = ess.wait_event("hook-failed")
    assert "activate.d/slow: was broken off" in event["MESSAGE"]
    hold(lambda: len(lines(host, "runs")) > 1, 6, "run again")
    assert "slow" in problems(ess)[0]


def test_notifications(trading: Trading) -> None:
    """By HTTP at once, by mail when the server is there again; each once; no secret gets out."""
    host, ess = trading.host, Ess(trading.host)
    host.apt("install", "--no-install-recommends", "apprise")
    host.write_file("/usr/local/bin/server.py", SERVER)
    run = "systemd-run --quiet --unit=taker-{0} python3 /usr/local/bin/server.py {0} {1}"
    host.sh(run.format("http", 8080))
    urls = "# two\njson://user:s3cret@127.0.0.1:8080/ess\n"
    urls += "mailto://127.0.0.1:2525?from=ess@example.org&to=ops@example.org\n"
    host.write_file(URLS, urls, 0o600)
    ess("activate", "--reason", "feed is stale")
    (first,) = wait_until(lambda: messages(host, "http"), SOON, "a POST")
    sent = json.loads(first)
    assert "ESS ACTIVATED, trading is stopped" in sent["title"]
    assert "Reason: feed is stale" in sent["message"] and sent["type"] == "failure"
    assert ess.status()["incident"] in sent["message"]
    wait_until(lambda: problems(ess), SOON, "the mail in status")
    assert "line 3 (mailto)" in problems(ess)[0] and "line 2" not in problems(ess)[0]
    assert len(ess.named("notify-failed")) == 1
    assert "notification-not-sent" in found_by_check(ess)
    host.sh(run.format("smtp", 2525))
    (mail,) = wait_until(lambda: messages(host, "smtp"), 60, "a mail")
    assert "ESS ACTIVATED" in mail
    wait_until(lambda: not problems(ess), SOON, "a status without problems")
    ess("deactivate")
    wait_until(lambda: len(messages(host, "smtp")) == 2, SOON, "a second mail")
    wait_until(lambda: len(messages(host, "http")) == 2, SOON, "a second POST")
    assert "ESS released" in json.loads(messages(host, "http")[1])["title"]
    told = ess("history", "last").stdout
    assert "notification of activate sent: line 2 (json)" in told
    assert "s3cret" not in host.journal() + host.sh("cat /var/lib/quantum-ess/*.jsonl") + told
    host.sh(f"chmod 644 {URLS}")
    ess("activate")
    wait_until(lambda: problems(ess), SOON, "the refusal in status")
    assert "is refused" in problems(ess)[0] and len(messages(host, "http")) == 2


def test_the_example_cancels_orders(tmp_path: Path) -> None:
    """As documented: a DELETE with the key, which no command line shows; tried again; or failed."""
    asked: list[tuple[str, str]] = []
    answers = [503, 200, 401]

    class Exchange(http.server.BaseHTTPRequestHandler):
        def do_DELETE(self) -> None:
            asked.append((self.path, self.headers["X-API-KEY"]))
            commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
            shown.append(any(b"s3cret" in command for command in commands))
            self.send_response(answers[len(asked) - 1])
            self.end_headers()

        def log_message(self, *said: object) -> None:
            pass

    shown: list[bool] = []
    header = tmp_path / "exchange.header"
    header.write_text("X-API-KEY: s3cret\n")
    with http.server.HTTPServer(("127.0.0.1", 0), Exchange) as server:
        text = EXAMPLE.read_text()
        url = f"http://127.0.0.1:{server.server_port}/v1/orders"
        for shipped, ours in (
            ("https://api.exchange.example/v1/orders", url),
            ("header=/etc/quantum-ess/exchange.header", f"header={header}"),
        ):
            assert text.count(shipped) == 1
            text = text.replace(shipped, ours)
        hook = tmp_path / "cancel-open-orders"
        hook.write_text(text)
        hook.chmod(0o755)
        assert hooks.NAME.fullmatch(hook.name)
        job = {"transition": "activate", "incident": "i-1", "trigger": "guard", "epoch": 0}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        runs = [
            subprocess.run(
                [hook],
                env=hooks.environment(job),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            for _ in range(2)
        ]
        server.shutdown()
    assert [run.returncode == 0 for run in runs] == [True, False], runs
    assert "incident i-1 (guard, ): cancelling open orders" in runs[0].stdout
    assert asked == [("/v1/orders", "s3cret")] * 3 and not any(shown)
    assert "401" in runs[1].stderr
