"""Entry point: run the command line, turn every error into one line and an exit status."""

import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import TextIO

from quantum_ess.errors import EssError, shown


def main() -> None:
    """Run the command line and exit with its status."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the caller has closed it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    _tolerate(sys.stdout)
    try:
        from quantum_ess import cli

        status = cli.main(sys.argv[1:])
    except EssError as error:
        for other in (error, *getattr(error, "others", ())):
            _complain(str(other))
        if error.hint:
            _say(f"  {error.hint}")
        status = error.status
    except BrokenPipeError:
        status = 1
    except KeyboardInterrupt:
        _complain("interrupted; see quantum-ess status")
        status = 130
    except Exception as error:  # a defect, but an operator gets a sentence all the same
        if sys.argv[1:2] == ["activate"]:
            raise  # the launcher stops without us
        where = error.__traceback__
        while where and where.tb_next:
            where = where.tb_next
        place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else "?"
        _complain(
            f"internal error: {type(error).__name__}: {error} ({place})\n"
            "  see quantum-ess status; trading stops by: touch /run/quantum/ESS_ON"
        )
        status = 1
    sys.exit(_flushed(status))


def _tolerate(out: TextIO) -> None:
    """A locale that has no letter for something must not take the rest of the output away."""
    if isinstance(out, TextIOWrapper):
        with suppress(OSError):  # it looks where it stands: not so in a pipe that replaced a file
            out.reconfigure(errors="backslashreplace")


def _flushed(status: int) -> int:
    """That status, unless the output can't be written; nothing is left for the flush at exit."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):
            _complain(f"output: {error.strerror}")
        return status or 1
    return status


def _complain(text: str) -> None:
    _say(f"quantum-ess: {text}")


def _say(text: str) -> None:
    """On stderr; that it can't be written must not change the exit status."""
    try:
        print(shown(text), file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # nor what is left in the buffer


if __name__ == "__main__":
    main()
