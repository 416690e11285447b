"""Nothing outlives the tests here, though they be killed: builds, piuparts, autopkgtest."""

import shlex
import subprocess
import sys
import uuid
from pathlib import Path

from chroot import ENCLOSED
from waiting import SOON, wait_until


def processes(word: str) -> list[int]:
    """Those with this word among their arguments."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in file.read_bytes().split(b"\0"):
                found.append(int(file.parent.name))
        except OSError:  # it has ended
            continue
    return found


def test_killed_in_the_midst(tmp_path: Path) -> None:
    """Processes in sessions of their own go with whoever started them, and mounts are not ours."""
    word = f"1000.{uuid.uuid4().int}"
    script = f"mount -t tmpfs tmpfs {tmp_path}; setsid sleep {word} & sleep {word}"
    command = (*ENCLOSED, "sh", "-ec", script)
    starter = f"import subprocess; subprocess.run({command!r})"
    with subprocess.Popen((sys.executable, "-c", starter)) as process:
        wait_until(lambda: len(processes(word)) == 2, SOON, f"two of {shlex.join(command)}")
        assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
        process.kill()
    wait_until(lambda: not processes(word), SOON, "their end")
