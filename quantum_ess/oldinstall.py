"""What a hand-made installation of the older ESS has left on this host.

It came as five units copied to /etc/systemd/system and a bash controller in a user's checkout. A
unit of the same name hides the package's; an enabling link outlives its unit and then means ours.
Nothing here changes anything.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from quantum_ess.unitfiles import SEARCH_PATH

OURS = "/usr/lib/systemd/system"
SAME = (OURS, "/lib/systemd/system")
HIGHER = SEARCH_PATH[: SEARCH_PATH.index(OURS)]
CONTROLLER = "/home/qt/quantum_trader/ops/ess_controller.sh"  # where its manual puts it
SHIM_MARK = "# Put here by quantum-ess migrate"
_NAME = "ess_controller.sh"
_MENTION = re.compile(r"""(/[^\s"';|&<>]*/)?ess_controller\.sh""")
# Where somebody's scripts are that call the controller; two levels deep, small files only.
_SCRIPTS = (
    "/etc/crontab",
    "/etc/cron.d",
    "/etc/cron.daily",
    "/etc/cron.hourly",
    "/etc/sudoers.d",
    "/etc/systemd/system",
    "/etc/monit",
    "/etc/rc.local",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/opt",
    "/root",
    "/var/spool/cron/crontabs",
)
_DEPTH, _FILES, _SIZE = 2, 2000, 256 * 1024


@dataclass(frozen=True)
class Step:
    """One thing to do: `move` a unit file away, `unlink` a link that enables, `relink` it to ours,
    `replace` the controller."""

    deed: str
    path: str
    why: str


@dataclass(frozen=True)
class Found:
    """What there is to do, the lines (FILE:LINE) of scripts that name the old controller, and
    drop-ins of our units, which may be meant for these as well as for the old ones."""

    steps: tuple[Step, ...]
    mentions: tuple[str, ...]
    drop_ins: tuple[str, ...]


def find(root: str = "") -> Found:
    """Look through the host, or through what is below `root`. Raises nothing."""
    shadows = list(_shadows(root))
    controllers = {CONTROLLER, *_named(root, [step.path for step in shadows])}
    # First: once its units have gone, nobody says where one is.
    steps = [
        Step("replace", path, "by one that runs quantum-ess, for the scripts that call it")
        for path in sorted(controllers)
        if _is_old_controller(root + path)
    ]
    drop_ins = tuple(_drop_ins(root))
    return Found((*steps, *shadows, *_links(root)), tuple(_mentions(root)), drop_ins)


def _shadows(root: str) -> Iterator[Step]:
    """Unit files that systemd reads in the place of ours."""
    for name in _own(root):
        for directory in HIGHER:
            path = f"{directory}/{name}"
            try:
                status = os.lstat(root + path)
            except OSError:
                continue
            masked = stat.S_ISLNK(status.st_mode) and os.readlink(root + path) == os.devnull
            if not masked:  # somebody's decision, and status says that it does not run
                yield Step("move", path, f"hides {OURS}/{name}")


def _links(root: str) -> Iterator[Step]:
    """Enabling links: to a unit of ours that nothing may enable, or to a file that goes."""
    own = set(_own(root))
    for directory in HIGHER:
        for parent in _listing(root + directory):
            if not parent.endswith((".wants", ".requires")):
                continue
            for name in sorted(own & set(_listing(f"{root}{directory}/{parent}"))):
                path = f"{directory}/{parent}/{name}"
                if not _installable(f"{root}{OURS}/{name}"):
                    yield Step("unlink", path, f"would start it with {parent.rpartition('.')[0]}")
                elif os.path.dirname(_target(root + path)) not in SAME:
                    yield Step("relink", path, f"to {OURS}/{name}")


def _drop_ins(root: str) -> Iterator[str]:
    for name in _own(root):
        for directory in (f"{each}/{name}.d" for each in HIGHER):
            entries = _listing(root + directory)
            yield from (f"{directory}/{entry}" for entry in entries if entry.endswith(".conf"))


def _target(path: str) -> str:
    try:
        return os.path.join(os.path.dirname(path), os.readlink(path))
    except OSError:
        return path


def _own(root: str) -> list[str]:
    """The units that this package ships, without the directories of their drop-ins."""
    names = [name for name in _listing(root + OURS) if name.startswith("quantum-ess")]
    return [name for name in names if not name.endswith(".d")]


def _installable(path: str) -> bool:
    return "[Install]" in _text(path).splitlines()  # and not in a comment


def _named(root: str, units: list[str]) -> Iterator[str]:
    """Controllers that the old units start, wherever their checkout is."""
    for path in units:
        for match in _MENTION.finditer(_text(root + path)):
            if match[1]:
                yield os.path.normpath(match[0])


def _is_old_controller(path: str) -> bool:
    """A regular file that is not ours already."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False
    except OSError:
        return False
    return SHIM_MARK not in _text(path)


def _mentions(root: str) -> Iterator[str]:
    left = _FILES
    homes = [f"/home/{user}" for user in _listing(root + "/home")]
    for place in (*_SCRIPTS, *homes):
        for path in _files(root + place, _DEPTH):
            left -= 1
            if left < 0:
                return
            if os.path.basename(path) == _NAME:
                continue
            for number, line in enumerate(_text(path).splitlines(), 1):
                if _NAME in line and not line.lstrip().startswith("#"):
                    yield f"{path[len(root) :]}:{number}"


def _files(path: str, depth: int) -> Iterator[str]:
    """Regular files at the path and below it; no symlink is followed."""
    try:
        status = os.lstat(path)
    except OSError:
        return
    if stat.S_ISREG(status.st_mode):
        if status.st_size <= _SIZE:
            yield path
    elif stat.S_ISDIR(status.st_mode) and depth >= 0:
        for entry in _listing(path):
            if entry not in (".git", "node_modules", ".venv"):
                yield from _files(f"{path}/{entry}", depth - 1)


def _text(path: str) -> str:
    """The beginning of a file; empty if it can't be read. Never waits, as for a FIFO."""
    try:
        with open(path, "rb", opener=_nonblocking) as file:
            return file.read(_SIZE).decode("utf-8", "replace")
    except OSError:
        return ""


def _nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _listing(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
