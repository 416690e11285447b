"""A flag that is no plain file: whatever bears its name stops and latches, and can be released."""

import itertools

import pytest

from faults.conftest import Table
from faults.matrix import KINDS, REST, Measured, Trigger, assert_shut, settled
from faults.services import SENTRY
from host import Host
from product import DONE, INACTIVE, Ess
from trading import FLAG, Trading

AS_NOBODY = "setpriv --reuid=nobody --regid=nogroup --clear-groups"

# name -> shell command that makes the flag
MAKERS = {
    "a directory": f"mkdir {FLAG}",
    "a directory with files in it": f"mkdir /run/full; touch /run/full/a; mv /run/full {FLAG}",
    "a dangling symlink": f"ln -s /nowhere {FLAG}",
    "a symlink to itself": f"ln -s ESS_ON {FLAG}",
    "a symlink to a file": f"ln -s /etc/fstab {FLAG}",
    "a FIFO": f"mkfifo {FLAG}",
    "a hard link": f"touch /run/linked; ln /run/linked {FLAG}",
    "another user's": f"chmod 777 /run/quantum; exec {AS_NOBODY} touch {FLAG}",
    "unreadable": f"umask 777; touch {FLAG}",
    "long and garbage": f"head -c 300000 /dev/urandom >/run/long; mv /run/long {FLAG}",
    "an hour old": f"touch -d '1 hour ago' {FLAG}",
    "from the next hour": f"touch -d '1 hour' {FLAG}",
    "from before 1970": f"touch -d 1960-01-01 {FLAG}",
}


def cells() -> list[object]:
    """Each kind of flag, seen by the sentry or by PID 1 alone."""
    smoke = ("a dangling symlink", "dead")
    return [
        pytest.param(*cell, id="-".join(cell), marks=pytest.mark.smoke if cell == smoke else ())
        for cell in itertools.product(MAKERS, ("alive", "dead"))
    ]


@pytest.mark.parametrize(("kind", "sentry"), cells())
def test_the_flag_is(host: Host, table: Table, kind: str, sentry: str) -> None:
    """Set, activated once more by command, released: nothing of it may hang or hold for ever."""
    trading = Trading(host, KINDS)
    trading.start()
    if sentry == "dead":
        host.run("systemctl", "stop", SENTRY)
    kept = trading.kept_pids()
    trigger = Trigger(trading, "exec", "sh", "-c", MAKERS[kind])
    trigger.begin()
    pull = trigger.end()
    assert pull.status == DONE, pull
    trading.assert_stopped(pull.time, watch=REST)
    settled(trading, pull, ())
    life = max(0, trading.last_sign_of_life() - pull.time) / 1e6
    table.add(f"the flag is {kind}, sentry {sentry}", "flag", Measured(life, pull.status))

    ess = Ess(host)
    again = ess("activate")
    assert not again.stderr, again
    assert len(ess.named("initiated")) == len(ess.incidents()) == 1
    assert_shut(trading)
    assert ess("deactivate").stdout.splitlines()[-1] == INACTIVE
    trading.all_running()
    assert trading.kept_pids() == kept
    assert host.run("cat", "/etc/fstab").stdout.startswith("#") or "symlink" not in kind
