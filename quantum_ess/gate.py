"""The gate as text: the drop-ins that make PID 1 refuse a protected unit while ESS is latched.

Two halves. ``AssertPathExists=!`` refuses every start job, loudly, but systemd 257 does not ask it
on an automatic restart; ``ExecCondition=`` runs then too. See docs/design.md.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from itertools import filterfalse

from quantum_ess import unitnames
from quantum_ess.compiler import Compiled
from quantum_ess.group import TRADING, Group
from quantum_ess.unitnames import NAME_MAX

DROP_IN = "zzz-quantum-ess.conf"
CONFLICTS = f"{TRADING.halt}.d/zzz-units.conf"
PLAN = "quantum-ess.plan"
_SAYS = "# Written by quantum-ess from its configuration, see quantum-ess.conf(5).\n"


def _unit(group: Group) -> str:
    return f"""\
[Unit]
AssertPathExists=!{group.flag}
AssertPathIsSymbolicLink=!{group.flag}
AssertPathExists=!{group.record}
RequiresMountsFor={group.state}
Wants={group.prefix}-held@%n.service
"""


def _unlatched(group: Group) -> str:
    """Arguments of test(1) that ask whether the latch is open.

    Asked twice: "+" frees the command from the unit's user and sandbox but not from its mounts, so
    that TemporaryFileSystem=/run, say, would hide the flag. PID 1's root shows it. -h, as -e
    follows a symlink and does not see one that dangles.
    """
    tests = (("-e", group.flag), ("-e", group.record), ("-h", group.flag))
    views = ("", "/proc/1/root")
    return " -a ".join(f"! {test} {view}{path}" for view in views for test, path in tests)


def _service(group: Group) -> str:
    return f"""\
[Service]
ExecCondition=+/usr/bin/test {_unlatched(group)}
"""


_SERVICE = _service(TRADING)
_NO_SERVICE = "# No ExecCondition=: it could not see the flag from this service's root directory.\n"
_SELECTIVE = """\
[Service]
ExecCondition=+/bin/sh -c 'case "$$1" in {arms} esac' sh %n
"""
_OPEN = _SAYS + "# This unit is not protected: empty, so that a more general gate does not apply.\n"


def tree(compiled: Compiled) -> dict[str, str]:
    """The whole tree: path below the generator's directory to content."""
    files = {PLAN: compiled.plan(), CONFLICTS: conflicts(compiled.units)}
    for pattern in compiled.patterns:
        files.update(_prefix_gate(compiled, pattern))
    for template in _templates(compiled):
        files.update(_template_gate(compiled, template))
    files.update((_path(name), _gate(compiled, name)) for name in compiled.units)
    # A name with no room for ".d" in the file system can have no drop-in: killed, and not held.
    files = {path: text for path, text in files.items() if len(path.partition("/")[0]) <= NAME_MAX}
    files[PLAN] = _stamped(files)
    return files


def _stamped(files: dict[str, str]) -> str:
    """The plan with a checksum of the whole tree: who compares plans compares trees."""
    whole = "\0".join(f"{path}\0{files[path]}" for path in sorted(files))
    return files[PLAN].removesuffix("end\n") + f"tree {zlib.crc32(whole.encode()):08x}\nend\n"


def held_now(root: str = "") -> list[str]:
    """Units that have a gate of their own in the tree in force; none unless ESS is latched.

    What is held then stays so: a unit that another generator makes, or that was made at run time,
    is found by nobody while it is down. After a boot, and while a wrong configuration has put it in
    force, that tree is the one on disk.
    """
    if not any(os.path.lexists(root + path) for path in (TRADING.flag, TRADING.record)):
        return []
    directory = f"{root}{TRADING.run}/good"
    if not os.path.lexists(directory):
        directory = f"{root}{TRADING.state}/good"
    try:
        names = [entry.removesuffix(".d") for entry in os.listdir(directory)]
    except OSError:
        return []
    # Others are gates for all that a prefix or a template stands for.
    single = [name for name in names if name.rpartition(".")[0][-1:] not in ("-", "@", "")]
    return [name for name in single if os.path.exists(f"{directory}/{name}.d/{DROP_IN}")]


def drill_tree(group: Group, units: tuple[str, ...]) -> dict[str, str]:
    """Gate and conflicts of a drill's canaries: made when the package is built, never by PID 1.

    The generator, on which trading's gate depends, so has nothing to do with a drill.
    """
    files = {f"{name}.d/{group.prefix}.conf": full(name, group) for name in units}
    return {**files, f"{group.halt}.d/units.conf": conflicts(units)}


def full(name: str, group: Group = TRADING) -> str:
    """The gate of a unit of that type: both halves for a service, the first for anything else."""
    service = _service(group) if unitnames.unit_type(name) == "service" else ""
    return _SAYS + _unit(group) + service


def _gate(compiled: Compiled, name: str) -> str:
    """As full(), but without ExecCondition= where it would run in a root of the service's own.

    "+" does not lead out of that, and API file systems are not mounted for it: the command, if it
    is there at all, sees neither the flag nor /proc. An automatic restart of such a service is
    ended by the stop job that follows the kill.
    """
    return full(name).replace(_SERVICE, _NO_SERVICE if compiled.has_own_root(name) else _SERVICE)


def selective(protect: list[str], keep: list[str]) -> str:
    """A gate for services that looks at the name: these patterns are held, but not those."""
    arms = [f"{_case(keep)}) ;;"] if keep else []
    arms.append(f"{_case(protect)}) test {_unlatched(TRADING)} ;;")
    return _SAYS + _SELECTIVE.format(arms=" ".join(arms))


def conflicts(units: tuple[str, ...]) -> str:
    """What makes PID 1 stop every unit, in one transaction, when the halt target starts."""
    lines = [f"Conflicts={name}\n" for name in units]
    return _SAYS + "[Unit]\n" + "".join(lines)


def _path(name: str) -> str:
    return f"{name}.d/{DROP_IN}"


def _case(patterns: list[str]) -> str:
    """Patterns for the shell: no legal character needs quoting in it, and in systemd, but one."""
    return "|".join(pattern.replace("\\", "?") for pattern in patterns)


def _templates(compiled: Compiled) -> list[str]:
    """Templates with instances to hold: those that exist, those that a pattern spells out."""
    found = {name for name in compiled.known if unitnames.is_template(name)}
    for pattern in compiled.patterns:
        prefix, at, _ = pattern.partition("@")
        if at and not unitnames.is_pattern(prefix):
            found.add(f"{prefix}@.{unitnames.unit_type(pattern)}")
    return sorted(name for name in found if not compiled.excluded(name))


def _template_gate(compiled: Compiled, template: str) -> Iterator[tuple[str, str]]:
    """The gate of instances that nobody knows of yet."""
    every = template.replace("@.", "@*.")
    protect = [name for name in compiled.patterns if unitnames.overlap(name, every)]
    keep = [name for name in compiled.keep if unitnames.overlap(name, every)]
    keep_patterns = [name for name in keep if unitnames.is_pattern(name)]
    whole = any(_takes_all(name, template) for name in protect)
    if whole and not keep_patterns:
        yield _path(template), _gate(compiled, template)
        for name in keep:
            yield _path(name), _OPEN
    elif unitnames.unit_type(template) == "service" and not compiled.has_own_root(template):
        yield _path(template), selective(protect, keep)


def _takes_all(pattern: str, template: str) -> bool:
    """Whether the pattern takes in every instance.

    Without ``?`` and ``[`` it does if it takes in a strange one, which only ``*`` can match.
    """
    strange = template.replace("@.", "@\0\0.")
    return not any(char in pattern for char in "?[") and unitnames.matches(pattern, strange)


def _prefix_gate(compiled: Compiled, pattern: str) -> Iterator[tuple[str, str]]:
    """The gate of units that nobody knows of yet, for a pattern such as ``quantum-*.service``.

    systemd reads ``quantum-.service.d`` for every unit whose name begins so (systemd.unit(5)).
    What must stay open there gets an empty file of the same name in its own directory.
    """
    stem, _, kind = pattern.rpartition(".")
    if not stem.endswith("-*") or unitnames.is_pattern(stem[:-1]) or "@" in stem:
        return
    every = f"{stem[:-1]}.{kind}"
    keep = [name for name in compiled.keep if unitnames.overlap(name, pattern)]
    if not any(map(unitnames.is_pattern, keep)):
        yield _path(every), _gate(compiled, every)
    elif kind == "service" and not compiled.has_own_root(every):
        own = [f"{prefix}*" for prefix in unitnames.OWN_PREFIXES]
        yield _path(every), selective([pattern], [*own, *keep])
    # A drop-in of an alias counts for the unit behind it, so both names are taken out.
    open_ = {name for name, stopped in compiled.known.items() if not stopped}
    open_.update(filterfalse(unitnames.is_pattern, keep))
    for name in (*open_, *(compiled.real(name) for name in open_)):
        yield _path(name), _OPEN
    for prefix in unitnames.OWN_PREFIXES:
        if prefix.startswith(stem[:-1]):
            yield _path(f"{prefix.removesuffix('.')}.{kind}"), _OPEN


def missing(known: Mapping[str, object], name: str) -> list[str]:
    """The halves of the gate that a unit lacks, by its D-Bus properties as PID 1 has read them."""
    asserts = known.get("Asserts")
    rows = asserts if isinstance(asserts, list) else []
    held = {row[3] for row in rows if row[0] == "AssertPathExists" and row[2]}
    lacks = [] if {TRADING.flag, TRADING.record} <= held else ["AssertPathExists="]
    if name.endswith(".service") and not _own_root(known):
        conditions = known.get("ExecCondition")
        commands = conditions if isinstance(conditions, list) else []
        if not any(TRADING.flag in " ".join(command[1]) for command in commands):
            lacks.append("ExecCondition=")
    return lacks


def _own_root(known: Mapping[str, object]) -> bool:
    """As UnitFiles.has_own_root, by D-Bus properties."""
    mounted = known.get("TemporaryFileSystem")
    if isinstance(mounted, list) and any(path == "/" for path, _ in mounted):
        return True
    own_root = known.get("RootDirectory") not in (None, "", "/") or known.get("RootImage")
    return bool(own_root and not known.get("RootDirectoryStartOnly"))
