"""The command line: arguments, output, exit status."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from quantum_ess import __version__
from quantum_ess.errors import Failed, Incomplete, NotPermitted, NotVerified, Usage, shown
from quantum_ess.group import DRILL, TRADING, Group

if TYPE_CHECKING:
    from quantum_ess.activate import Outcome, Request

DESCRIPTION = "Emergency stop for the trading services of a systemd host."


class Parser(argparse.ArgumentParser):
    """One whose exit status does not depend on whether its words can be written."""

    def error(self, message: str) -> NoReturn:
        """As argparse has it. Raises SystemExit."""
        usage = self.format_usage().removesuffix("\n")
        complain(message, before=usage)
        raise SystemExit(Usage.status)


def build() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = Parser(prog="quantum-ess", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"quantum-ess {__version__}")
    parser.add_argument("--group", choices=("drill",), help=argparse.SUPPRESS)  # `drill` gives it
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    stop = commands.add_parser("activate", help="stop all protected units now, and hold them down")
    stop.add_argument("--reason", metavar="TEXT", default="", help="why, for the audit trail")
    stop.add_argument(
        "--trigger", choices=("command", "unit", "flag"), default="command", help=argparse.SUPPRESS
    )
    stop.add_argument("--created", type=int, help=argparse.SUPPRESS)
    go = commands.add_parser("deactivate", help="release, and restart what ran before, in order")
    go.add_argument("--reason", metavar="TEXT", default="", help="why, for the audit trail")
    go.add_argument("--no-start", action="store_true", help="only release; start nothing")
    go.add_argument(
        "--override", action="store_true", help="although the guard objects; needs --reason"
    )
    go.add_argument(
        "--trigger", choices=("command", "flag"), default="command", help=argparse.SUPPRESS
    )
    go.add_argument("--only", type=int, nargs=2, help=argparse.SUPPRESS)
    show = commands.add_parser(
        "status", help="is ESS active, since when, by whom; also with no command"
    )
    show.add_argument("--json", action="store_true", help="for programs; see the man page")
    show.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="print nothing; exit status 0: active, 3: inactive",
    )
    show.add_argument("-w", "--watch", action="store_true", help="again every second, in place")
    doctor = commands.add_parser("check", help="find what would make a stop fail or leak")
    doctor.add_argument("--json", action="store_true", help="for programs; see the man page")
    past = commands.add_parser("history", help="list all incidents, or tell one; check the file")
    past.add_argument("incident", nargs="?", metavar="ID", help="tell this one (last: the latest)")
    past.add_argument("--json", action="store_true", help="for programs; see the man page")
    past.add_argument("--verify", action="store_true", help="find missing and altered records")
    past.add_argument("--report", metavar="FILE", help="write a report, as HTML")
    log = commands.add_parser("log", help="show the audit trail")
    log.add_argument("-f", "--follow", action="store_true", help="and go on with what comes")
    log.add_argument("-n", "--lines", type=_count, default=50, metavar="N", help="the last N (50)")
    guard = commands.add_parser("guard", help="activate by itself on the configured conditions")
    guard.add_argument("--check", action="store_true", help="evaluate once and print a table")
    guard.add_argument("--daemon", action="store_true", help="detach from the terminal")
    commands.add_parser("config", help="check the configuration on disk and print its plan")
    metrics = commands.add_parser("metrics", help="print metrics for Prometheus")
    metrics.add_argument(
        "--write", action="store_true", help="write them where node_exporter reads them instead"
    )
    for name, text in (
        ("drill", "prove the stop on canaries, while trading goes on"),
        ("proof", "prove the stop on the real units: STOPS TRADING"),
    ):
        trial = commands.add_parser(name, help=text)
        trial.add_argument("--json", action="store_true", help="for programs; see the man page")
        trial.add_argument("--report", metavar="FILE", help="write a report, as HTML")
        more = ("--yes", "do not ask first") if name == "proof" else ("--clean", argparse.SUPPRESS)
        trial.add_argument(more[0], action="store_true", help=more[1])
    owed = commands.add_parser("work", description="Do what a transition owes (its services do).")
    owed.add_argument("kind", choices=("hooks", "notify"))
    old = commands.add_parser("migrate", help="take over from an older, hand-copied installation")
    how = old.add_mutually_exclusive_group()
    how.add_argument("--apply", action="store_true", help="do what is shown without it")
    how.add_argument("--undo", action="store_true", help="put back what --apply took away")
    commands.add_parser("tend", description="Deliver what is still owed (the watch timer does).")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of lines, not {text!r}")
    return int(text)


def main(argv: list[str]) -> int:
    """Run one command line; returns the exit status. Raises EssError."""
    args = build().parse_args(argv)
    if "reason" in args:  # bytes that are no UTF-8 (lone surrogates) nobody could send on
        args.reason = args.reason.encode("utf-8", "replace").decode()
    group = DRILL if args.group else TRADING
    if args.command == "activate":
        return activate(group, args.trigger, args.reason, args.created)
    if args.command == "deactivate":
        return deactivate(group, args)
    if args.command == "guard":
        return guard(TRADING, args.check, args.daemon)
    if args.command == "config":
        return show_config()
    if args.command == "metrics":
        return show_metrics(args.write)
    if args.command in ("drill", "proof"):
        need_root(args.command)
        from quantum_ess import trials

        return trials.command(args)
    if args.command == "migrate":
        return take_over(args.apply, args.undo)
    if args.command == "tend":
        return tend(group)
    if args.command == "work":
        return work(group, args.kind)
    if args.command == "check":
        return show_check(group, args.json)
    if args.command in ("history", "log"):
        from quantum_ess import historycommand

        if args.command == "history":
            return historycommand.show_history(group, args)
        return historycommand.show_log(group, args.follow, args.lines)
    if getattr(args, "watch", False):
        return watch_status(group, args.json or args.quiet)
    return show_status(group, getattr(args, "json", False), getattr(args, "quiet", False))


def need_root(what: str) -> None:
    """Raises NotPermitted unless the caller is root."""
    if os.geteuid() != 0:
        raise NotPermitted(f"only root may {what}", hint=f"sudo quantum-ess {what}")


def activate(
    group: Group, trigger: str = "command", reason: str = "", created: int | None = None
) -> int:
    """Stop, print what came of it, account for it. Raises NotPermitted, NotVerified, Incomplete."""
    if os.geteuid() != 0 and trigger == "command":
        from quantum_ess import ask
        from quantum_ess.progress import Progress

        ask.activate(group)
        Progress().line("ESS Status: ACTIVE")  # that nobody reads it is no failure of the stop
        return 0
    need_root("activate")
    from quantum_ess import activate as stop

    request = stop.Request(trigger, reason, created)
    return report(group, request, stop.activate(group, request))


def report(group: Group, request: Request, outcome: Outcome) -> int:
    """Print an activation's outcome at once, then write record, trail and marker."""
    from quantum_ess import account
    from quantum_ess.progress import Progress
    from quantum_ess.trail import short

    say = Progress().line
    if outcome.verified:
        again = "" if outcome.flag.created else ", was active already"
        say(f"{_title(group, 'ACTIVE')}\nverified stopped in {outcome.seconds:.3f} s{again}")
    try:
        result = account.settle(group, request, outcome)
    except Exception as error:  # the stop stands, whatever the bookkeeping ran into
        result = account.Account()
        result.incident = "unknown"
        result.problems.append(f"record and trail: {type(error).__name__}: {error}")
    for note in result.notes:
        complain(f"note: {note}")
    if outcome.verified:
        if result.stopped is None:
            say("stopped: what ran is not known")
        else:
            stopped = " ".join(map(short, result.stopped))
            say(f"stopped: {stopped or 'nothing was running'}")
        say(f"incident {result.incident}; to resume: quantum-ess deactivate")
    problems = outcome.problems + result.problems
    if not outcome.verified:
        alive = " ".join(outcome.living) or "nothing found alive, but the latch could not be shut"
        raise NotVerified(
            f"NOT VERIFIED STOPPED: {'; '.join([alive, *problems])}",
            hint="run quantum-ess activate again; by hand: systemctl kill -s KILL UNIT",
        )
    if problems:
        raise Incomplete(f"stopped and verified, but: {'; '.join(problems)}")
    return 0


def deactivate(group: Group, args: argparse.Namespace) -> int:
    """Release and restart. Raises NotPermitted, Usage, StillBreached, NotReleased."""
    trigger, reason = args.trigger, args.reason
    if args.override and not reason.strip():
        raise Usage("--override needs a reason", hint='--override --reason "why"')
    need_root("deactivate")
    import signal

    from quantum_ess import release
    from quantum_ess.guard import veto
    from quantum_ess.progress import Progress

    # Neither a lost connection nor Ctrl-Z must leave it half done.
    for number in (signal.SIGHUP, signal.SIGTSTP, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    if trigger == "command":
        for note in veto.ask(group, args.override, reason):
            complain(f"note: {note}")
    with Progress(patience=0.5) as progress:  # the latch is open halfway
        start = not args.no_start
        only = tuple(args.only) if args.only else None
        released = release.deactivate(group, trigger, reason, start, progress, only)
        if released:
            progress.line(_title(group, "INACTIVE"))
        elif trigger == "command":
            progress.line(f"{_title(group, 'INACTIVE')}\nwas not active; nothing was started")
    return 0


def _title(group: Group, status: str) -> str:
    """The first line: a drill must not be taken for the emergency stop."""
    return f"DRILL Status: {status} (canaries only)" if group.drill else f"ESS Status: {status}"


def show_status(group: Group, as_json: bool, quiet: bool) -> int:
    """Print the status; with quiet only the exit status tells (0 active, 3 inactive)."""
    if quiet:
        return 0 if group.latched() else 3
    from quantum_ess import status

    data = status.collect(group)
    paint = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(json.dumps(data, indent=2) if as_json else status.render(data, paint))
    return 0


def watch_status(group: Group, other: bool) -> int:
    """Show the status until interrupted: in place on a terminal, elsewhere whenever it changes."""
    if other:
        raise Usage("--watch goes with neither --json nor --quiet")
    from quantum_ess import live, status

    live.run(lambda paint: status.render(status.collect(group), paint))
    return 0


def show_check(group: Group, as_json: bool) -> int:
    """Print what is not as it should be; 0, or 9 with warnings, 10 with errors."""
    need_root("check")
    from quantum_ess import check, findings

    found = check.run(group)
    paint = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(json.dumps(check.document(found), indent=2) if as_json else check.render(found, paint))
    return findings.status(found)


def guard(group: Group, check: bool, daemon: bool) -> int:
    """Guard until told to end; with check look once. Raises NotPermitted, ConfigError, Failed."""
    need_root("guard")
    from quantum_ess.guard import command

    return command.check() if check else command.run(group, daemon)


def show_config() -> int:
    """Print the plan that a daemon-reload would make of what is on disk. Raises ConfigError."""
    from quantum_ess import config, gate
    from quantum_ess.compiler import Compiled
    from quantum_ess.unitfiles import UnitFiles

    print(Compiled(config.load(), UnitFiles(known=gate.held_now())).plan(), end="")
    return 0


def show_metrics(write: bool) -> int:
    """Print the metrics, or write them for node_exporter. Raises NotPermitted, Failed."""
    try:
        from quantum_ess import metrics, refresh
    except ImportError as error:
        raise Failed(f"no metrics: {error}", hint="apt install python3-prometheus-client") from None
    groups = {"trading": TRADING, "drill": DRILL}
    if not write:
        print(metrics.text(groups), end="")
        return 0
    need_root("metrics --write")
    import signal

    # A transition restarts the unit: that must not leave half a file behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if not metrics.write(groups):
            complain(f"note: {refresh.DIRECTORY} is not there: no node_exporter reads any metrics")
    except OSError as error:
        raise Failed(f"metrics not written: {error.filename}: {error.strerror}") from None
    return 0


def take_over(apply: bool, undo: bool) -> int:
    """Show what an older installation has left; move it away or back. Raises EssError."""
    if apply or undo:
        need_root(f"migrate {'--apply' if apply else '--undo'}")
    from quantum_ess import migrate

    return migrate.run(apply, undo)


def tend(group: Group) -> int:
    """Complete what an activation or release still owes: trail, audit entries, marker."""
    need_root("tend")
    from quantum_ess import account, history, latch, marker, plan, record, stage, trail
    from quantum_ess import activate as stop  # now: after the look at the flag it may take too long

    history.fold(group)
    if os.path.lexists(group.flag):
        known = record.load(group.record) or {}
        incident = str(known.get("incident") or latch.incident(latch.inode(group)))
        volatile = os.path.lexists(group.logged_volatile)
        whole = "stop_ms" in known and "incident" in known and not volatile
        if stage.of(group, incident) != stage.COMPLETE or not whole:
            request = stop.Request("flag")
            return report(group, request, stop.activate(group, request))
    with record.lock(group.lock, account.LOCK_SECONDS):
        trail.flush(group)
        history.flush(group)
        known = record.load(group.record) or record.load(group.released) or {}
        entries = trail.Trail(group, str(known.get("incident", "")), known)
        account.tell_redis(entries, plan.read(group), account.Account(), again=True)
    busy = record.under_way(group)
    done, problem = marker.tell_again(group, plan.read(group))
    if done:
        event = "marker-pending" if done.startswith("NOT") else "marker-renewed"
        entries.log(event, marker.news(done), priority=trail.NOTICE)
    if problem is None and not (busy or group.latched() or record.under_way(group)):
        with suppress(OSError), open(group.marker_told, "a"):
            pass
    return 0


def work(group: Group, kind: str) -> int:
    """Run the hooks, or send the notifications, that a transition owes."""
    need_root("work")
    from quantum_ess import hooks, notify

    if kind == "hooks":
        hooks.work(group)
    else:
        notify.work(group)
    return 0


def complain(text: str, before: str = "") -> None:
    """One line on stderr, with the program's name; nothing depends on its being read."""
    try:
        said = f"{before}\n" * bool(before) + f"quantum-ess: {text}"
        print(shown(said), file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # for the flush at the exit
