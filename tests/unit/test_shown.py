"""What others have said, as an operator's terminal gets it."""

import os
import subprocess
import sys

import pytest

from quantum_ess import account, redisclient
from quantum_ess.errors import shown

HOSTILE = "ERR \x1b[2J\x1b[1;1HESS Status: INACTIVE\x07\x9b0m"


def test_nothing_but_text() -> None:
    said = shown(HOSTILE + "\nnext")
    assert "\x1b" not in said and "\x9b" not in said and "\x07" not in said
    assert said.endswith("\nnext") and "ESS Status: INACTIVE" in said


def test_what_a_server_says_is_text() -> None:
    """Whoever answers at Redis's port, which needs no right, does not write on root's terminal."""
    with pytest.raises(redisclient.Unavailable) as caught, redisclient._translated():
        raise RuntimeError(HOSTILE)
    assert str(caught.value).isprintable()


def test_a_reason_with_an_escape_in_it() -> None:
    """A bracketed paste, say: journalctl(1) calls a message that is no text a blob."""
    about = {"reason": "\x1b[200~feed\n stale\x1b[201~", "actor": "root", "trigger": "command"}
    assert account._headline(about) == "ESS ACTIVATED by root (command): ?[200~feed stale?[201~"


@pytest.mark.parametrize("encoding", ["iso-8859-1", "ascii:strict"])
def test_a_locale_that_lacks_a_letter(encoding: str) -> None:
    """It takes that letter away, and nothing else."""
    script = "from quantum_ess import __main__, cli\n"
    script += "cli.main = lambda argv: print('\\u2192 next') or 0\n__main__.main()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": os.getcwd()},
    )
    assert (done.returncode, done.stdout) == (0, b"\\u2192 next\n"), done
