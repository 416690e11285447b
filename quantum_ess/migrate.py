"""Taking over from a hand-made installation: show it, do it with copies kept, undo it.

Nothing of trading is started or stopped, and a latch that is set stays set. The copies are below
/var/backups, so that not even a purge of the package takes them away.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import time
from collections.abc import Callable
from typing import Any

from quantum_ess import oldinstall, strictfiles
from quantum_ess.errors import Failed
from quantum_ess.oldinstall import Found, Step

BACKUPS = "/var/backups/quantum-ess"
MANIFEST = "manifest.json"
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
        settle(undo(print), print)
        return 0
    found = oldinstall.find()
    if not do:
        show(found, print)
        if found.steps:
            print(f"nothing was changed; to do it, with copies in {BACKUPS}:")
            print("         quantum-ess migrate --apply")
        return 0
    place = apply(found, print)
    if not place:
        show(found, print)
        return 0
    settle([step.path for step in found.steps], print)
    print(f"done; the copies are in {place}; to take it back: quantum-ess migrate --undo")
    return 0


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


def apply(found: Found, say: Say, root: str = "") -> str:
    """Keep copies, then do each step; the directory of the copies. Raises Failed."""
    if not found.steps:
        return ""
    place = f"{BACKUPS}/{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    try:
        strictfiles.make_private(root + place)
        manifest = [_keep(root, place, step) for step in found.steps]
        text = json.dumps(manifest, indent=1) + "\n"
        strictfiles.create(f"{root}{place}/{MANIFEST}", text.encode())
        for step in found.steps:
            _do(root, step)
            say(f"{step.deed:8} {step.path}")
    except OSError as error:
        raise Failed(
            f"{error.filename}: {error.strerror}; the copies are in {place}",
            hint="what was done so far is taken back by: quantum-ess migrate --undo",
        ) from None
    return place


def undo(say: Say, root: str = "") -> list[str]:
    """Put back what the last --apply took away; the paths. Raises Failed."""
    places = sorted(name for name in _listing(root + BACKUPS) if name[:1].isdigit())
    kept = [name for name in places if os.path.exists(f"{root}{BACKUPS}/{name}/{MANIFEST}")]
    if not kept:
        raise Failed(f"nothing to undo: no migration is kept in {BACKUPS}")
    place = f"{BACKUPS}/{kept[-1]}"
    try:
        manifest: list[dict[str, Any]] = json.loads(strictfiles.read(f"{root}{place}/{MANIFEST}"))
        for entry in manifest:
            _put_back(root, place, entry)
            say(f"restored {entry['path']}")
        os.rename(f"{root}{place}/{MANIFEST}", f"{root}{place}/undone.json")
    except OSError as error:
        raise Failed(f"{error.filename}: {error.strerror}; the copies are in {place}") from None
    return [entry["path"] for entry in manifest]


def settle(paths: list[str], say: Say) -> None:
    """Have PID 1 read its units again and run the watchers that are now in force.

    Units that are active under the names of what was changed are ended first; none of them is a
    trading unit. Whether watchers may start is decided as at an installation.
    """
    names = sorted({os.path.basename(path) for path in paths if "/systemd/" in path})
    _systemctl("daemon-reload")
    # By now these names mean the definitions on disk; to stop what watches stops nothing else.
    active = [name for name in names if _systemctl("is-active", "--quiet", name) == 0]
    for name in active:
        _systemctl("stop", name)
    for name in names:
        _systemctl("reset-failed", name)
    done = subprocess.run((WATCHERS,), text=True, capture_output=True, timeout=PATIENCE * 2)
    for line in done.stderr.splitlines():
        say(line)


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


def _put_back(root: str, place: str, entry: dict[str, Any]) -> None:
    path = root + entry["path"]
    if "link" in entry:
        strictfiles.link(path, entry["link"])
        return
    content = strictfiles.read(f"{root}{place}/files{entry['path']}")
    if os.path.lexists(path) and strictfiles.read(path) not in (content, SHIM.encode()):
        raise FileExistsError(errno.EEXIST, "is there with other content", path)
    strictfiles.replace(path, content, int(entry["mode"]), (int(entry["uid"]), int(entry["gid"])))


def _listing(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _systemctl(*argv: str) -> int:
    """Exit status of systemctl; 1 if there is no systemd to talk to or it does not answer."""
    try:
        return subprocess.run(
            ("systemctl", *argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE,
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return 1
