"""Checks of units: would each protected one be stopped and held, and nothing else be dragged down?

Each takes the facts and yields findings. Property names: org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from quantum_ess import gate, unitfiles
from quantum_ess.facts import SERVICE, Facts, Properties
from quantum_ess.findings import ERROR, NOTE, WARNING, Finding
from quantum_ess.plan import is_own

_FLAG = "it would not see the flag"
WATCHERS = {  # and what without it
    "quantum-ess.path": _FLAG,
    "quantum-ess-watch.timer": _FLAG,
    "quantum-ess-sentry.service": _FLAG,
    "quantum-ess-restore.service": "a flag that is set during a shutdown would be forgotten",
}
# Whom a stop of a unit takes along (systemd's UNIT_ATOM_PROPAGATE_STOP).
DRAGGED = ("RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo")
# Whom it wants, and who keeps it with StopWhenUnneeded= (systemd's
# UNIT_ATOM_PINS_STOP_WHEN_UNNEEDED).
WANTED = ("Requires", "Requisite", "Wants", "BindsTo", "Upholds")
WANTED_BY = ("RequiredBy", "RequisiteOf", "WantedBy", "BoundBy", "UpheldBy")
CONTAINERS = ("docker", "docker-compose", "podman", "nerdctl", "lxc", "incus")
SESSIONLESS = "User= and no PAMName= in the unit; setpriv or runuser -u in place of su"
NEEDRESTART = "/etc/needrestart"
BUS_SERVICES = tuple(
    f"{place}/dbus-1/system-services"
    for place in ("/usr/share", "/usr/local/share", "/etc", "/run", "/usr/lib")
)
DAEMON_RELOAD = "systemctl daemon-reload"


def watchers(facts: Facts) -> Iterator[Finding]:
    """What sees the flag."""
    for name, without in WATCHERS.items():
        known = facts.unit(name)
        state = known.get("ActiveState", "not there")
        if state != "active":
            text = f"{name} is {state}: {without}"
            yield Finding(ERROR, "watcher-down", text, f"systemctl enable --now {name}", name)
        elif known.get("UnitFileState") != "enabled":
            text = f"{name} runs but is not enabled: after a boot it would not"
            yield Finding(ERROR, "watcher-not-enabled", text, f"systemctl enable {name}", name)


def shadows(facts: Facts) -> Iterator[Finding]:
    """Hand-copied units that hide the package's."""
    for directory in unitfiles.SEARCH_PATH:
        if directory == "/usr/lib/systemd/system" or not os.path.isdir(directory):
            continue
        for name in sorted(os.listdir(directory)):
            path = f"{directory}/{name}"
            if is_own(name) and not os.path.isdir(path):
                text = f"{path} hides the package's unit: what it does is not what is documented"
                hint = f"rm {path}; {DAEMON_RELOAD}"
                yield Finding(ERROR, "unit-shadowed", text, hint, name)


def loadable(facts: Facts) -> Iterator[Finding]:
    """Protected units that are not what their names promise."""
    for name in dict.fromkeys((*(e.name for e in facts.plan.protect), *facts.protected)):
        known = {} if any(c in name for c in "*?[") else facts.unit(name)
        load, real = known.get("LoadState"), known.get("Id", name)
        if load == "not-found":
            text = f"{name} does not exist on this host: nothing would be stopped for it"
            hint = "correct [protect] units in /etc/quantum-ess/quantum-ess.conf"
            yield Finding(ERROR, "unit-not-found", text, hint, name)
        elif load == "masked":
            hint = f"systemctl unmask {name}, or take it out of [protect] units"
            yield Finding(NOTE, "unit-masked", f"{name} is masked", hint, name)
        elif load in ("error", "bad-setting"):
            text = f"systemd can't load {name} ({load})"
            hint = f"systemd-analyze verify {name}"
            yield Finding(ERROR, "unit-broken", text, hint, name)
        elif real != name:
            yield _alias(facts, name, str(real))
        if load == "loaded" and known.get("NeedDaemonReload"):
            text = f"{name} has changed on disk, and systemd does not know yet"
            yield Finding(WARNING, "reload-needed", text, DAEMON_RELOAD, name)


def _alias(facts: Facts, name: str, real: str) -> Finding:
    """The plan does not know what a link made by a generator stands for (unitfiles.py)."""
    text, hint = f"{name} is an alias of {real}, which", f"name {real} in [protect] units"
    if facts.protects(real):
        return Finding(NOTE, "unit-alias", f"{text} is what gets stopped", hint, name)
    text += " no kill reaches: a generator made that link"
    return Finding(ERROR, "unit-alias", text, hint, name)


def gates(facts: Facts) -> Iterator[Finding]:
    """What must refuse a start, as PID 1 has read it."""
    for name in facts.protected:
        known = facts.unit(name)
        if known.get("LoadState") != "loaded" or name.endswith(".scope"):
            continue
        paths = [str(path) for path in known.get("DropInPaths", [])]
        ours = [path for path in paths if path.endswith("/" + gate.DROP_IN)]
        missing = gate.missing(known, name)
        if missing and not ours:
            text = f"{name} has no gate: while ESS is active it could be started"
            yield Finding(ERROR, "gate-missing", text, DAEMON_RELOAD, name)
        elif missing:
            later = paths[paths.index(ours[-1]) + 1 :] or [str(known.get("FragmentPath", "?"))]
            text = f"the gate of {name} is undone ({' and '.join(missing)}) by {' or '.join(later)}"
            hint = f"take the empty assignment out of that file; {DAEMON_RELOAD}"
            yield Finding(ERROR, "gate-undone", text, hint, name)


def runtime_directories(facts: Facts) -> Iterator[Finding]:
    """Whoever has PID 1 make our directories below /run: it removes them again, flag and all.

    One property of each service, protected or not: systemd knows what the specifiers in it mean.
    """
    ours = [os.path.basename(p) for p in (os.path.dirname(facts.group.flag), facts.group.run)]
    for name in facts.services_with("RuntimeDirectory"):
        for directory in facts.ask(name, SERVICE, "RuntimeDirectory") or []:
            if directory in ours and (does := _does(facts.unit(name))):
                text = f"{name} has RuntimeDirectory={directory}: {does}"
                hint = "give it another name there; RuntimeDirectoryPreserve= is not enough"
                yield Finding(ERROR, "runtime-directory", text, hint, name)


def _does(known: Properties) -> str:
    """What that unit does to its directory in /run; "" if no harm."""
    if known.get("RuntimeDirectoryPreserve") != "yes":
        return "when it stops, all that is in there is removed"
    theirs = known.get("DynamicUser") or known.get("User") not in (None, "", "root", "0")
    return "when it starts, all that is in there is given to its user" if theirs else ""


def dragged(facts: Facts) -> Iterator[Finding]:
    """Units outside the plan that a stop would take along."""
    for name in facts.protected:
        if name.endswith(".slice"):
            continue  # what lies in it depends on it, and is protected too
        seen, rest = {name}, [name]
        while rest:
            current = rest.pop()
            known = facts.unit(current)
            for other in {str(o) for key in DRAGGED for o in known.get(key, [])} - seen:
                seen.add(other)
                rest.append(other)
                if other in facts.loaded and not facts.protects(other) and not is_own(other):
                    yield _dependent(facts, name, current, other)


def _dependent(facts: Facts, name: str, current: str, other: str) -> Finding:
    through = f" (through {current})" if current != name else ""
    text = f"{other} depends on {name}{through}: a stop takes it along"
    hint = f"take Requires=, BindsTo= or PartOf= {current} out of {other}; Wants= does no harm"
    return _victim(facts, other, text, hint)


def unneeded(facts: Facts) -> Iterator[Finding]:
    """Units outside the plan that PID 1 stops once no protected one needs them any more."""
    wanted = [
        o for name in facts.protected for key in WANTED for o in facts.unit(name).get(key, [])
    ]
    for other in dict.fromkeys(map(str, wanted)):
        if not facts.runs(other) or facts.protects(other) or is_own(other):
            continue
        known = facts.unit(other)
        needed = {str(name) for key in WANTED_BY for name in known.get(key, [])}
        running = sorted(filter(facts.runs, needed))
        if known.get("StopWhenUnneeded") and running and all(map(facts.protects, running)):
            text = f"{other} has StopWhenUnneeded=yes, and only {' and '.join(running)} needs it"
            hint = f"set StopWhenUnneeded=no in a drop-in (systemctl edit {other})"
            yield _victim(facts, other, f"{text}: a stop takes it along", hint)


def _victim(facts: Facts, other: str, text: str, hint: str) -> Finding:
    if facts.plan.keeps(other):
        return Finding(ERROR, "kept-dragged", f"kept unit {text}", hint, other)
    return Finding(NOTE if other.endswith(".target") else WARNING, "dragged", text, hint, other)


def actions(facts: Facts) -> Iterator[Finding]:
    """What a protected unit does when it is killed or not let start: to systemd both are failures.

    systemd.unit(5): FailureAction=, StartLimitAction=, OnFailure= and their like.
    """
    for name in facts.protected:
        known = facts.unit(name)
        for key in ("FailureAction", "SuccessAction", "StartLimitAction"):
            action = str(known.get(key, "none"))
            if action not in ("", "none"):
                text = f"{name} has {key}={action}: a stop would do that to the whole host"
                hint = f"take {key}= out of it (systemctl edit {name})"
                yield Finding(ERROR, "action-on-host", text, hint, name)
        for key in ("OnFailure", "OnSuccess"):
            for other in map(str, known.get(key, [])):
                if not (facts.protects(other) or facts.plan.keeps(other) or is_own(other)):
                    text = f"{name} has {key}={other}: a stop would start that"
                    hint = f"if {other} trades, add it to [protect] units; else to keep="
                    yield Finding(WARNING, "starts-another", text, hint, name)


def startable(facts: Facts) -> Iterator[Finding]:
    """Units that a release would start and may not."""
    what = facts.plan.options.get("resume.what", "running")
    for name in [] if what == "none" else dict.fromkeys([*facts.protected, *facts.covered]):
        known = facts.unit(name)
        enabled = str(known.get("UnitFileState", "")).startswith(("enabled", "generated"))
        wanted = what == "running" or enabled
        if wanted and known.get("RefuseManualStart") and not name.endswith(".scope"):
            text = f"{name} has RefuseManualStart=yes: a release would fail at it"
            hint = f"take it out (systemctl edit {name}), or {name} out of [protect] units"
            yield Finding(ERROR, "manual-start-refused", text, hint, name)


def slices(facts: Facts) -> Iterator[Finding]:
    """Kept units in a protected slice."""
    ours = [name.removesuffix(".slice") for name in facts.protected if name.endswith(".slice")]
    for name in facts.kept if ours else []:
        inside = str(facts.unit(name).get("Slice", "")).removesuffix(".slice")
        if any(inside == s or inside.startswith(s + "-") for s in ours):
            text = f"kept unit {name} lies in protected slice {inside}.slice: a stop takes it along"
            hint = f"give it another Slice= (systemctl edit {name})"
            yield Finding(ERROR, "kept-in-protected-slice", text, hint, name)


def revivers(facts: Facts) -> Iterator[Finding]:
    """Unprotected units that ask for a protected one again. The gate refuses them; but noisily."""
    for name in facts.protected:
        known = facts.unit(name)
        for other in known.get("UpheldBy", []):
            if not facts.protects(other):
                text = f"{other} upholds {name}: it asks for it again all the time"
                hint = f"take Upholds={name} out of {other}, or protect {other} too"
                yield Finding(WARNING, "upheld", text, hint, name)
        for other in known.get("TriggeredBy", []):
            if not facts.protects(other):
                kind = other.rpartition(".")[2]
                hint = f"add {other} to [protect] units"
                text = f"{other} starts {name}: refused again and again while ESS is active"
                if kind != "timer":
                    text += f", until the {kind} unit itself fails"
                yield Finding(WARNING, f"{kind}-not-protected", text, hint, name)
    yield from _bus(facts)


def _bus(facts: Facts) -> Iterator[Finding]:
    """D-Bus activation."""
    for directory in filter(os.path.isdir, BUS_SERVICES):
        for entry in sorted(os.listdir(directory)):
            found = re.search(r"^SystemdService=(\S+)", _text(f"{directory}/{entry}"), re.M)
            if found and facts.protects(facts.real(found[1])):
                text = f"D-Bus starts {found[1]} on demand ({directory}/{entry})"
                hint = "nothing, if callers can bear the refusal while ESS is active"
                yield Finding(NOTE, "bus-activated", text, hint, found[1])


def needrestart(facts: Facts) -> Iterator[Finding]:
    """needrestart(1) restarts services after an upgrade, trading too."""
    if not os.path.exists("/usr/sbin/needrestart"):
        return
    files = [f"{NEEDRESTART}/needrestart.conf", *_listed(f"{NEEDRESTART}/conf.d")]
    lines = [line for path in files for line in _text(path).splitlines()]
    rules = [line for line in lines if not line.lstrip().startswith("#")]
    excluded = [found[1] for line in rules if (found := re.search(r"qr\((.+?)\).*=>?\s*0", line))]
    for name, _ in facts.services():
        if not any(_matches(expression, name) for expression in excluded):
            text = f"needrestart restarts {name} after an upgrade, in the middle of trading"
            hint = (
                f"echo '$nrconf{{override_rc}}{{qr(^{name.removesuffix('.service')})}} = 0;'"
                f" >>{NEEDRESTART}/conf.d/trading.conf"
            )
            yield Finding(WARNING, "needrestart", text, hint, name)


def _matches(expression: str, name: str) -> bool:
    try:
        return re.search(expression, name) is not None
    except re.error:  # Perl knows more
        return False


def stopping(facts: Facts) -> Iterator[Finding]:
    """Settings that make `systemctl stop` leave something: ESS kills all the same."""
    default = facts.manager.get("DefaultTimeoutStopUSec", 90_000_000)
    for name, known in facts.services():
        mode = known.get("KillMode")
        hint = f"remove it (systemctl edit {name}): ESS kills all the same, systemctl stop does not"
        if mode in ("none", "process"):
            yield Finding(WARNING, "kill-mode", f"{name} has KillMode={mode}", hint, name)
        if known.get("SendSIGKILL") is False:
            yield Finding(WARNING, "no-sigkill", f"{name} has SendSIGKILL=no", hint, name)
        timeout = known.get("TimeoutStopUSec", 0)
        if timeout > default:
            long = "infinity" if timeout >= 1 << 63 else f"{timeout / 1e6:g} s"
            text = f"{name} has TimeoutStopSec={long}"
            yield Finding(NOTE, "long-stop-timeout", text, hint, name)


def outsiders(facts: Facts) -> Iterator[Finding]:
    """Processes of a trading user that no stop of a unit reaches; containers too."""
    users = facts.users()
    outside: dict[tuple[str, str], list[str]] = {}
    for process in facts.processes:
        unit = process.unit
        if process.uid in users and not facts.protects(unit) and not facts.plan.keeps(unit):
            found = outside.setdefault((users[process.uid], unit), [])
            found.append(f"{process.name} ({process.pid})")
    for (user, unit), names in outside.items():
        where = f"in {unit}, which is not protected" if unit else "in no unit"
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        text = f"trading user {user} runs {', '.join(names[:3])}{more} {where}: no stop reaches it"
        hint = "make it a service and protect that, or end it"
        yield Finding(WARNING, "process-outside", text, hint, unit)
    for name, known in facts.services():
        for path, argv, *_ in known.get("ExecStart", []):
            program = os.path.basename(str(path))
            if program in CONTAINERS and not _split(argv):
                text = f"{name} runs {program}: the container's processes are not in its cgroup"
                hint = "run the program itself, or protect the unit that holds the container"
                yield Finding(ERROR, "container", text, hint, name)


def _split(argv: list[str]) -> bool:
    """Whether podman(1) keeps the container in the service's own control group, as for Quadlet."""
    return re.search(r" --cgroups[= ]split( |$)", " ".join(argv)) is not None


def elsewhere(facts: Facts) -> Iterator[Finding]:
    """Main processes that have left their unit's control group, or may: pam_systemd(8) moves who
    opens a session into the session's scope."""
    places = {process.pid: process.unit for process in facts.processes}
    for name, known in facts.services():
        pid = known.get("MainPID", 0)
        unit = places.get(pid, name)
        # In init.scope it is one that PID 1 has just forked off, and which is on its way.
        if unit not in (name, "init.scope") and not facts.protects(unit):
            where = f"in {unit}" if unit else "in no unit"
            text = f"the main process of {name} ({pid}) is {where}: no kill of {name} reaches it"
            yield Finding(ERROR, "main-process-elsewhere", text, SESSIONLESS, name)
        elif why := _session(known):
            text = f"{name} {why}: PAM may move it to a session, where no kill of {name} reaches it"
            yield Finding(WARNING, "pam-session", text, SESSIONLESS, name)


def _session(known: Properties) -> str:
    """What of a service opens a session; "" if nothing does."""
    if known.get("PAMName"):
        return f"has PAMName={known['PAMName']}"
    programs = [os.path.basename(str(command[0])) for command in known.get("ExecStart", [])]
    return "runs su" if "su" in programs else ""


def _listed(directory: str) -> list[str]:
    try:
        return [f"{directory}/{name}" for name in sorted(os.listdir(directory))]
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return ""
