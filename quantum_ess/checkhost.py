"""Checks of the host around the units: kernel, directories, journal, clock, Redis, own files."""

from __future__ import annotations

import grp
import hashlib
import os
import re
import stat
import sys
from collections.abc import Iterator

from quantum_ess import (
    chain,
    config,
    gate,
    history,
    hooks,
    lastdrill,
    marker,
    notify,
    outbox,
    record,
    stage,
    trail,
    unitfiles,
)
from quantum_ess.compiler import Compiled
from quantum_ess.errors import ConfigError, Failed
from quantum_ess.facts import Facts
from quantum_ess.findings import ERROR, NOTE, WARNING, Finding
from quantum_ess.guard import rules
from quantum_ess.guard import state as guards

JOURNALD = "systemd-journald.service"
GUARD_PATH = "quantum-ess-guard.path"
MD5SUMS = "/var/lib/dpkg/info/quantum-ess.md5sums"
JOURNALD_CONF = "systemd/journald.conf"
LEAST_BURST = 1000  # messages that journald must take in one interval
LEAST_FREE = 4 << 20  # bytes, for record, spool and history
LEAST_INODES = 16  # flag, record, spool and their drafts
WORST_CLOCK = 16_000_000  # µs, adjtimex(2): the error of a clock that nobody disciplines
IN_A_CONTAINER = "/run/systemd/container"  # systemd's: which kind of container this is


def cgroups(facts: Facts) -> Iterator[Finding]:
    """Without cgroup.kill, processes are killed one by one, and a fork may be quicker."""
    if not os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        text = "this host uses cgroup v1: processes are killed one by one, not at once"
        hint = "boot with systemd.unified_cgroup_hierarchy=1"
        yield Finding(WARNING, "cgroup-v1", text, hint)
    elif not os.path.exists("/sys/fs/cgroup/system.slice/cgroup.kill"):
        text = "the kernel has no cgroup.kill: processes are killed one by one, not at once"
        yield Finding(WARNING, "no-cgroup-kill", text, "use Linux 5.14 or later")


def flag_directory(facts: Facts) -> Iterator[Finding]:
    """Who may set the flag, and take it away: whoever may write to its directory."""
    path = os.path.dirname(facts.group.flag)
    try:
        found = os.lstat(path)
    except OSError:
        hint = "systemd-tmpfiles --create"
        yield Finding(ERROR, "flag-directory-missing", f"{path} is not there: no flag", hint)
        return
    if not stat.S_ISDIR(found.st_mode):
        yield Finding(ERROR, "flag-directory-odd", f"{path} is not a directory", f"remove {path}")
        return
    if found.st_uid != 0 or found.st_mode & 0o002 or _by_group(facts, found):
        who = "its owner" if found.st_uid else "others than root"
        text = f"{path} ({stat.filemode(found.st_mode)}) lets {who} take the flag away"
        hint = f"chown root:root {path}; chmod 755 {path}"
        yield Finding(ERROR, "flag-directory-writable", text, hint)


def _by_group(facts: Facts, found: os.stat_result) -> bool:
    """Whether a group may write there that is not the configured one, or without the sticky bit."""
    if not found.st_mode & 0o020:
        return False
    wanted = facts.plan.options.get("access.stop_group", "")
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        return True
    return group != wanted or not found.st_mode & stat.S_ISVTX


def disk(facts: Facts) -> Iterator[Finding]:
    """Room for the record."""
    directory = os.path.dirname(facts.group.flag)  # that it is missing is told elsewhere
    for path in (facts.group.state, facts.group.run, directory):
        try:
            free = os.statvfs(path)
        except OSError as error:
            if path == directory:
                continue
            text = f"{path}: {error.strerror}"
            yield Finding(ERROR, "directory-missing", text, "systemd-tmpfiles --create")
            continue
        # That of the flag's own file system is little by intention (libexec/access).
        least = min(LEAST_FREE, free.f_blocks * free.f_frsize // 4)
        full = free.f_bavail * free.f_frsize < least
        no_inodes = free.f_files and free.f_favail < LEAST_INODES
        if full or no_inodes or free.f_flag & os.ST_RDONLY:
            what = "read-only" if free.f_flag & os.ST_RDONLY else "full"
            what = what if full or free.f_flag & os.ST_RDONLY else "out of inodes"
            text = f"the file system of {path} is {what}: a stop would leave no record there"
            yield Finding(ERROR, "disk-full", text, f"df -h {path}")


def journal(facts: Facts) -> Iterator[Finding]:
    """Would journald take the trail, and keep it?"""
    if facts.unit(JOURNALD).get("ActiveState") != "active" or not trail.listens():
        text = "journald does not listen: the trail waits on disk, and refused starts are lost"
        yield Finding(WARNING, "journald-down", text, f"systemctl restart {JOURNALD}")
    settings = _journald_settings()
    storage = settings.get("Storage", "auto")
    if storage in ("volatile", "none") or (
        storage == "auto" and not os.path.isdir("/var/log/journal")
    ):
        text = "the journal does not outlive a reboot"
        hint = "mkdir -p /var/log/journal; set Storage=persistent in /etc/systemd/journald.conf"
        yield Finding(WARNING, "journal-volatile", text, hint)
    burst = settings.get("RateLimitBurst", "10000")
    interval = settings.get("RateLimitIntervalSec", "30s")
    if burst.isdigit() and 0 < int(burst) < LEAST_BURST and not re.fullmatch(r"0\w*", interval):
        text = f"journald drops what exceeds {burst} messages in {interval} (RateLimitBurst=)"
        hint = f"set RateLimitBurst= to {LEAST_BURST} or more in /etc/systemd/journald.conf"
        yield Finding(WARNING, "journal-rate-limited", text, hint)


def _journald_settings() -> dict[str, str]:
    """journald.conf(5) and its drop-ins, the later ones outranking the earlier."""
    places = ("/usr/lib", "/usr/local/lib", "/run", "/etc")
    main = next((f"{p}/{JOURNALD_CONF}" for p in places[::-1] if _is_file(p)), "")
    names = {
        name: f"{place}/{JOURNALD_CONF}.d/{name}"
        for place in places
        for name in _names(f"{place}/{JOURNALD_CONF}.d")
        if name.endswith(".conf")
    }
    found: dict[str, str] = {}
    for path in (main, *(names[name] for name in sorted(names))):
        for line in record.text(path).splitlines() if path else []:
            key, equals, value = line.partition("=")
            if equals and not line.lstrip().startswith(("#", ";")):
                found[key.strip()] = value.strip()
    return found


def _is_file(place: str) -> bool:
    return os.path.isfile(f"{place}/{JOURNALD_CONF}")


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def clock(facts: Facts) -> Iterator[Finding]:
    """The kernel's word, judged as timedatectl(1) does. A container's clock is its host's to keep.

    Not by STA_UNSYNC, which a time daemon that keeps the kernel from the RTC sets all the same.
    """
    if not os.path.exists(IN_A_CONTAINER) and _clock_error() >= WORST_CLOCK:
        text = "the clock is not synchronised: times in the record may be wrong"
        hint = "apt install systemd-timesyncd (or chrony); timedatectl timesync-status"
        yield Finding(WARNING, "clock-unsynchronised", text, hint)


def _clock_error() -> int:
    """The clock's greatest error in µs, by adjtimex(2), for which Python has no call."""
    import ctypes
    import struct

    timex = ctypes.create_string_buffer(512)
    ctypes.CDLL(None).adjtimex(timex)
    return int(struct.unpack_from("@I3l", timex)[3])  # after modes, offset and freq


def redis(facts: Facts) -> Iterator[Finding]:
    """The marker's home."""
    wanted = facts.plan.options.get("redis.enabled", "yes") == "yes"
    if wanted and (problem := marker.look(facts.plan)[1]):
        text = f"Redis does not answer: {problem}; the marker would be set later"
        yield Finding(WARNING, "redis-unreachable", text, "systemctl status redis-server")


def program(facts: Facts) -> Iterator[Finding]:
    """Are our own files as the package installed them? As dpkg --verify, dpkg(1)."""
    for line in record.text(MD5SUMS, record.LONGEST).splitlines():
        wanted, _, path = line.partition("  ")
        if not path.startswith(("usr/bin/", "usr/lib/")):
            continue  # many a host is installed without documentation
        try:
            with open(f"/{path}", "rb") as file:
                found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
            problem = "" if found.hexdigest() == wanted else "is not as the package installed it"
        except OSError as error:
            problem = f"can't be read: {error.strerror}"
        if problem:
            hint = "apt install --reinstall quantum-ess"
            yield Finding(ERROR, "file-changed", f"/{path} {problem}", hint)


def configuration(facts: Facts) -> Iterator[Finding]:
    """Is what is on disk what is in force?"""
    group, hint = facts.group, "quantum-ess config; systemctl daemon-reload"
    if facts.plan.source != group.plans[0]:
        text = f"the plan in force is {facts.plan.source}, not the configuration's"
        yield Finding(ERROR, "plan-missing", text, hint)
        return
    try:
        loaded = config.load()
        compiled = Compiled(loaded, unitfiles.UnitFiles(known=gate.held_now()))
        wanted = gate.tree(compiled)[gate.PLAN], rules.text(rules.of(loaded))
    except ConfigError as error:
        text = f"the configuration has a mistake, the last good one is in force: {error}"
        yield Finding(ERROR, "config-error", text, hint)
        return
    if wanted != (_whole(group.plans[0]), _whole(guards.rules_path(group))):
        text = "the configuration on disk is not the one in force"
        yield Finding(WARNING, "config-not-in-force", text, hint)


def _whole(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def records(facts: Facts) -> Iterator[Finding]:
    """Our own files: record, history, what is owed."""
    group = facts.group
    known = record.load(group.record)
    if known is not None and "incident" not in known:
        text = f"{group.record} can't be read; it latches all the same"
        hint = "quantum-ess activate writes it anew; quantum-ess deactivate releases"
        yield Finding(ERROR, "record-unreadable", text, hint)
    if group.latched() and known is None:
        text = f"ESS is active without {group.record}: a reboot would open the latch"
        yield Finding(ERROR, "record-missing", text, "quantum-ess activate")
    incident = str((known or {}).get("incident", ""))
    if group.latched() and incident and stage.of(group, incident) != stage.COMPLETE:
        text = f"the audit trail of {incident} is not complete (yet)"
        yield Finding(WARNING, "trail-incomplete", text, stage.HINT)
    if os.path.lexists(group.run + "/releasing") and not group.latched():
        text = "a release was interrupted: not all units may have been started"
        yield Finding(WARNING, "release-interrupted", text, "quantum-ess deactivate")
    grave = [flaw for flaw in chain.Chain(group).flaws if flaw.grave]
    if grave:
        hint = "quantum-ess history --verify"
        yield Finding(WARNING, "history-not-whole", f"the history is not whole: {grave[0]}", hint)
    for kind in ("hook-problem", "notify-problem"):
        for line in record.text(f"{group.run}/{kind}").splitlines():
            name = "hook-failed" if kind == "hook-problem" else "notification-not-sent"
            hint = "journalctl -u quantum-ess-hooks -u quantum-ess-notify"
            yield Finding(WARNING, name, line, hint)
    owed = len(trail.spooled(group)) + len(history.waiting(group))
    if owed > len(_names(group.refused)):
        text = f"{owed} audit entries or records wait to be written"
        yield Finding(NOTE, "entries-waiting", text, "quantum-ess tend (the watch timer does it)")


def guard(facts: Facts) -> Iterator[Finding]:
    """Is what was configured to be guarded guarded?"""
    said = guards.summary(facts.group)
    if said["state"] not in ("off", "running"):
        text = f"the guard: {said['state']}: no condition would activate"
        hint = f"systemctl enable --now {GUARD_PATH}; systemctl restart quantum-ess-guard"
        yield Finding(ERROR, "guard-dead", text, hint, "quantum-ess-guard.service")
        return
    known = facts.unit(GUARD_PATH)
    if said["state"] == "running" and known.get("UnitFileState") != "enabled":
        text = f"{GUARD_PATH} is not enabled: after a boot nothing would be guarded"
        yield Finding(
            ERROR, "guard-not-enabled", text, f"systemctl enable {GUARD_PATH}", GUARD_PATH
        )
    for problem in guards.problems(said):
        hint = "quantum-ess guard --check; quantum-ess.conf(5)"
        yield Finding(WARNING, "guard-blind", problem, hint)


def drill(facts: Facts) -> Iterator[Finding]:
    """An emergency stop that was never tried doesn't exist."""
    last = lastdrill.state(facts.plan)
    if last["failures"]:
        text = f"the last drill failed: {'; '.join(last['failures'])}"
        yield Finding(ERROR, "drill-failed", text, "mend that, then: quantum-ess drill")
    elif last["overdue"]:
        text = "there was no drill on this host yet"
        if last["time"]:
            text = f"the last drill was {last['seconds'] // 86400} days ago"
        hint = "quantum-ess drill; systemctl enable --now quantum-ess-drill.timer"
        yield Finding(WARNING, "drill-overdue", text, hint)


def outgoing(facts: Facts) -> Iterator[Finding]:
    """Would hooks run, and notifications leave?"""
    for directory in outbox.HOOK_DIRECTORIES.values():
        for result in hooks.find(directory)[1]:
            text = f"hook {result['hook']} would not run: {result['problem']}"
            hint = f"chown root:root and chmod 755 {directory} and what is in it"
            yield Finding(ERROR, "hook-refused", text, hint)
        for name in _names(directory):
            path = f"{directory}/{name}"
            if not hooks.NAME.fullmatch(name) or not os.access(path, os.X_OK):
                text = f"{path} would not run: its name or its mode is not a hook's"
                hint = "only letters, digits, _ and - in the name; chmod 755"
                yield Finding(WARNING, "hook-ignored", text, hint)
    if not os.path.lexists(outbox.URLS):
        return
    try:
        notify.urls()
    except Failed as error:
        yield Finding(ERROR, "notify-urls", str(error), error.hint or "see quantum-ess(8)")
    if not any(os.path.isdir(f"{path}/apprise") for path in sys.path):
        text = f"{outbox.URLS} is there, but nothing that sends notifications"
        yield Finding(ERROR, "apprise-missing", text, "apt install apprise")
