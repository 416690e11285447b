"""The errors of quantum-ess: each carries the exit status that the command line ends with."""

from __future__ import annotations

import errno


class EssError(Exception):
    """Root of every error that quantum-ess raises on purpose.

    ``status`` is the exit status (quantum-ess(8)); ``hint`` says what to do about it, or is empty.
    """

    status: int = 1
    hint: str = ""

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        super().__init__(message)
        if hint:
            self.hint = hint


class Failed(EssError):
    """It did not work, for a reason that has no class of its own."""

    status = 1


class Usage(EssError):
    """The command line is wrong."""

    status = 2


class NotPermitted(EssError):
    """The caller may not do this."""

    status = 4


class NotVerified(EssError):
    """Something protected still lives, or could not be seen to be dead."""

    status = 5


class ConfigError(EssError):
    """The configuration is wrong; ``str()`` gives ``FILE:LINE: message``.

    ``line`` counts from 1; 0 means the file as a whole and is left out. ``others`` holds the
    further errors of the same reading, so that all of them can be shown at once.
    """

    status = 6
    hint = "see quantum-ess.conf(5)"

    def __init__(
        self,
        file: str,
        line: int,
        message: str,
        *,
        hint: str = "",
        others: tuple[ConfigError, ...] = (),
    ) -> None:
        super().__init__(message, hint=hint)
        self.file = file
        self.line = line
        self.message = message
        self.others = others

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.message}"


class NotReleased(EssError):
    """The latch was not released, or has been set again."""

    status = 7


class StillBreached(EssError):
    """Not released: a condition of the guard is still breached."""

    status = 11


class Incomplete(EssError):
    """Stopped and verified, but something after that could not be done."""

    status = 8


def shown(text: str) -> str:
    """The text without what a terminal would take for more than text; line breaks stay.

    Error messages, reasons and names come from others, who may be anybody.
    """
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)


def passing(error: OSError) -> bool:
    """Whether another try may well not have that error: it says nothing of what is there."""
    return error.errno in (errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EINTR)
