"""Taking over from a hand-made installation: show it, do it with copies kept, undo it.

Nothing of trading is started or stopped, and a latch that is set stays set. The copies are below
/var/backups, so that not even a purge of the package takes them away.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections.abc import Callable
from typing import Any

from quantum_ess import oldinstall, process, strictfiles
from quantum_ess.errors import Failed
from quantum_ess.oldinstall import Found, Step

BACKUPS = "/var/backups/quantum-ess"
MANIFEST = "manifest.json"
SETTLED = "settled"
AGAIN = "quantum-ess migrate --apply"
UNDECIDED = 3  # exit status of WATCHERS: it has said what somebody must decide
WATCHERS = "/usr/lib/quantum-ess/watchers"
PATIENCE = 30.0  # seconds for each call of systemctl
SHIM = f"""\
#!/bin/sh
{oldinstall.SHIM_MARK}: the old controller's place. See quantum-ess(8).
exec /usr/bin/quantum-ess "$@"
"""
Say = Callable[[str], None]


def run(do: bool, take_back: bool) -> int:
    """`quantum-ess migrate`: show, or with `do` do, or with `take_back` undo. Raises Failed."""
    if take_back:
        place, paths = undo(print)
        settle(paths, print)
        os.rename(f"{place}/{MANIFEST}", f"{place}/undone.json")
        return 0
    found = oldinstall.find()
    unsettled = _unsettled()
    if not do:
        show(found, print)
        if unsettled:
            print(f"one was broken off; to end it: {AGAIN}")
        if found.steps:
            print(f"nothing was changed; to do it, with copies in {BACKUPS}:")
            print("         quantum-ess migrate --apply")
        return 0
    apply(found, print)
    if not found.steps and not unsettled:
        show(found, print)
        return 0
    unsettled = _unsettled()  # also of a migration that was broken off
    settle([path for paths in unsettled.values() for path in paths], print)
    for place in unsettled:
        strictfiles.create(f"{place}/{SETTLED}", b"")
    show_drop_ins(found, print)
    said = f"the copies are in {' and '.join(unsettled)}"
    each = ", once for each" if len(unsettled) > 1 else ""
    print(f"done; {said}; to take it back: quantum-ess migrate --undo{each}")
    return 0


def _unsettled() -> dict[str, list[str]]:
    """Places of copies after which systemd has not been told yet, and the paths that changed."""
    found = {}
    for name in sorted(_listing(BACKUPS)):
        place = f"{BACKUPS}/{name}"
        if os.path.exists(f"{place}/{MANIFEST}") and not os.path.exists(f"{place}/{SETTLED}"):
            found[place] = [entry["path"] for entry in _manifest(place)]
    return found


def _manifest(place: str) -> list[dict[str, Any]]:
    """What was done, as it was noted. Raises Failed."""
    path = f"{place}/{MANIFEST}"
    try:
        entries: list[dict[str, Any]] = json.loads(strictfiles.read(path))
    except OSError as error:
        raise Failed(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise Failed(f"{path}: {error}") from None
    return entries


def show(found: Found, say: Say) -> None:
    """Say what there is and what --apply would do."""
    if not found.steps:
        say("no older installation is in the way")
    for step in found.steps:
        say(f"{step.deed:8} {step.path}  ({step.why})")
    if found.mentions:
        say("these name the old controller; change them to quantum-ess when you can:")
    for mention in found.mentions:
        say(f"         {mention}")
    show_drop_ins(found, say)


def show_drop_ins(found: Found, say: Say) -> None:
    """Say which drop-ins alter this package's units, whatever is done."""
    if found.drop_ins:
        say("these alter units of this package and are left in place; look at them:")
    for path in found.drop_ins:
        say(f"         {path}")


def apply(found: Found, say: Say, root: str = "") -> str:
    """Keep copies, then do each step; the directory of the copies. Raises Failed."""
    if not found.steps:
        return ""
    place = f"{BACKUPS}/{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    noted = False
    try:
        strictfiles.make_private(root + place)
        manifest = [_keep(root, place, step) for step in found.steps]
        text = json.dumps(manifest, indent=1) + "\n"
        strictfiles.create(f"{root}{place}/{MANIFEST}.new", text.encode())
        os.rename(f"{root}{place}/{MANIFEST}.new", f"{root}{place}/{MANIFEST}")
        noted = True
        for step in found.steps:
            _do(root, step)
            say(f"{step.deed:8} {step.path}")
    except OSError as error:
        why = f"{error.filename}: {error.strerror}"
        if not noted:
            raise Failed(f"{why}; nothing was changed") from None
        raise Failed(
            f"{why}; the copies are in {place}",
            hint="what was done so far is taken back by: quantum-ess migrate --undo",
        ) from None
    return place


def undo(say: Say, root: str = "") -> tuple[str, list[str]]:
    """Put back what the last --apply took away; where it was kept, the paths. Raises Failed."""
    places = sorted(name for name in _listing(root + BACKUPS) if name[:1].isdigit())
    kept = [name for name in places if os.path.exists(f"{root}{BACKUPS}/{name}/{MANIFEST}")]
    if not kept:
        raise Failed(f"nothing to undo: no migration is kept in {BACKUPS}")
    place = f"{BACKUPS}/{kept[-1]}"
    manifest = _manifest(root + place)
    try:
        for entry in manifest:
            _check_back(root, place, entry)
        for entry in manifest:
            _put_back(root, place, entry)
            say(f"restored {entry['path']}")
    except OSError as error:
        raise Failed(f"{error.filename}: {error.strerror}; the copies are in {place}") from None
    return root + place, [entry["path"] for entry in manifest]


def settle(paths: list[str], say: Say) -> None:
    """Have PID 1 read its units again and run the watchers that are now in force.

    Units that are active under the names of what was changed are ended first; none of them is a
    trading unit. Whether watchers may start is decided as at an installation.
    """
    if not os.path.isdir("/run/systemd/system"):  # sd_booted(3)
        return
    names = sorted({os.path.basename(path) for path in paths if "/systemd/" in path})
    # What it still knows must not be ended: the old ExecStop= was a deactivation.
    if _systemctl("daemon-reload") != 0:
        raise Failed(
            "systemd did not read its units again: what it knows is what was there before",
            hint="see why: systemctl daemon-reload; and then: quantum-ess status",
        )
    # By now these names mean the definitions on disk; to stop what watches stops nothing else.
    active = [name for name in names if _systemctl("is-active", "--quiet", name) == 0]
    for name in active:
        _systemctl("stop", name)
    for name in names:
        _systemctl("reset-failed", name)
    done = process.run(WATCHERS, seconds=PATIENCE * 2)
    for line in done.out.splitlines():
        say(line)
    if done.status not in (0, UNDECIDED):  # one may be masked, which is somebody's decision
        say("not all that watches the flag was started: quantum-ess status")


def _keep(root: str, place: str, step: Step) -> dict[str, Any]:
    """Copy what a step takes away; what is needed to put it back."""
    status = os.lstat(root + step.path)
    entry = {
        "deed": step.deed,
        "path": step.path,
        "mode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
    if stat.S_ISLNK(status.st_mode):
        return entry | {"link": os.readlink(root + step.path)}
    strictfiles.create(f"{root}{place}/files{step.path}", strictfiles.read(root + step.path))
    return entry


def _do(root: str, step: Step) -> None:
    if step.deed == "replace":
        strictfiles.replace(root + step.path, SHIM.encode(), 0o755)
    elif step.deed == "relink":
        strictfiles.link(root + step.path, f"{oldinstall.OURS}/{os.path.basename(step.path)}")
    else:
        strictfiles.unlink(root + step.path)


def _check_back(root: str, place: str, entry: dict[str, Any]) -> None:
    """Raises OSError if it can't be put back. All are looked at before one is changed."""
    path = root + entry["path"]
    if "link" in entry:
        return
    content = strictfiles.read(f"{root}{place}/files{entry['path']}")
    if os.path.lexists(path) and strictfiles.read(path) not in (content, SHIM.encode()):
        raise FileExistsError(errno.EEXIST, "is there with other content", path)


def _put_back(root: str, place: str, entry: dict[str, Any]) -> None:
    path = root + entry["path"]
    if "link" in entry:
        strictfiles.link(path, entry["link"])
        return
    content = strictfiles.read(f"{root}{place}/files{entry['path']}")
    strictfiles.replace(path, content, int(entry["mode"]), (int(entry["uid"]), int(entry["gid"])))


def _listing(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _systemctl(*argv: str) -> int:
    """Exit status of systemctl; 1 if it does not answer."""
    status = process.run("systemctl", *argv, seconds=PATIENCE).status
    return 1 if status is None else status
