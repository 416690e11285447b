"""One configuration file: read, taken apart, every assignment with its line.

An INI file in systemd's manner (systemd.syntax(7)), read by ConfigParser. That has no line
numbers, so a scan of the same text finds them.
"""

from __future__ import annotations

import configparser
import errno
import os
import re
import stat
from collections.abc import Iterator
from typing import NamedTuple

from quantum_ess.errors import ConfigError

MOST_BYTES = 1 << 20
_HEADER = re.compile(r"\[(?P<header>.+)\]$")
_ODD_FILES = {
    errno.ELOOP: "is a symbolic link; put the file itself here",
    errno.ENOENT: "does not exist",
    errno.ENXIO: "is not a regular file",
}


class Word(NamedTuple):
    """A piece of text and where it stands. Line 0: in no line of a file."""

    text: str
    file: str
    line: int

    def error(self, message: str) -> ConfigError:
        """That this is wrong, to be raised or collected."""
        return ConfigError(self.file, self.line, message)


class Assignment(NamedTuple):
    """``KEY = VALUE`` in a section; the value one piece a line. Key "": the header."""

    section: str
    key: str
    place: Word
    value: tuple[Word, ...]

    @property
    def text(self) -> str:
        """The whole value."""
        return " ".join(piece.text for piece in self.value).strip()

    @property
    def words(self) -> list[Word]:
        """The value, split at white space."""
        return [piece._replace(text=word) for piece in self.value for word in piece.text.split()]


class _Parser(configparser.ConfigParser):
    SECTCRE = _HEADER

    def __init__(self) -> None:
        # A default section would be one that is valid everywhere; no header can be empty.
        super().__init__(interpolation=None, delimiters=("=",), default_section="")

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def read(path: str) -> list[Assignment]:
    """Every section header and assignment of a file, in order.

    Raises ConfigError, with every syntax error of the file in ``others``.
    """
    return parse(_text(path), path)


def parse(text: str, path: str) -> list[Assignment]:
    """As read(), from text; the path is for messages."""
    lines = text.split("\n")
    found = list(_scan(lines, path))
    for reset in _resets(found):
        lines[reset.place.line - 1] = ""
    try:
        _Parser().read_file(iter(line + "\n" for line in lines), path)
    except configparser.Error as error:
        raise _syntax_error(error, path, lines) from None
    return found


def _text(path: str) -> str:
    data = _bytes(path)
    if 0 in data:
        raise ConfigError(path, data.count(b"\n", 0, data.index(0)) + 1, "holds a NUL byte")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(path, line, "is not UTF-8 text") from None


def _bytes(path: str) -> bytes:
    try:
        # O_NONBLOCK: a FIFO must not hang whoever reads the configuration.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        reason = _ODD_FILES.get(error.errno or 0) or f"cannot be read: {error.strerror}"
        raise ConfigError(path, 0, reason) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ConfigError(path, 0, "is not a regular file")
    with open(fd, "rb") as file:
        try:
            data = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise ConfigError(path, 0, f"cannot be read: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(path, 0, f"is larger than {MOST_BYTES >> 20} MiB")
    return data


def _scan(lines: list[str], path: str) -> Iterator[Assignment]:
    """What ConfigParser sees, by its own rule: deeper than its key is a line of the value."""
    section, depth = "", 0
    current: Assignment | None = None
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text[0] in "#;":
            continue
        indent = len(line) - len(line.lstrip())
        if current and current.key and indent > depth:
            piece = Word(text, path, number)
            current = current._replace(value=(*current.value, piece))
            continue
        if current:
            yield current
        depth = indent
        header = _HEADER.match(text)
        section = header["header"] if header else section
        key, _, value = ("", "", "") if header else text.partition("=")
        place = Word(key.strip(), path, number)
        current = Assignment(section, place.text, place, (Word(value.strip(), path, number),))
    if current:
        yield current


def _resets(found: list[Assignment]) -> Iterator[Assignment]:
    """Empty assignments that another to the same key follows: ConfigParser would take offence."""
    later: set[tuple[str, str]] = set()
    for assignment in reversed(found):
        name = (assignment.section, assignment.key)
        if name in later and assignment.key and not assignment.text:
            yield assignment
        later.add(name)


def _syntax_error(error: configparser.Error, path: str, lines: list[str]) -> ConfigError:
    match error:
        case configparser.MissingSectionHeaderError():
            key = lines[error.lineno - 1].strip().partition("=")[0].strip()[:40]
            return ConfigError(path, error.lineno, f"{key!r} stands before the first [SECTION]")
        case configparser.DuplicateSectionError():
            message = f"[{error.section}] is here twice; put its keys together"
            return ConfigError(path, error.lineno or 0, message)
        case configparser.DuplicateOptionError():
            message = f"{error.option!r} is set twice in [{error.section}]"
            return ConfigError(path, error.lineno or 0, message)
        case configparser.ParsingError():
            wrong = [
                ConfigError(path, number, "expected KEY = VALUE, [SECTION] or a # comment")
                for number, _ in error.errors
            ]
            wrong[0].others = tuple(wrong[1:])
            return wrong[0]
    return ConfigError(path, 0, str(error).replace("\n", " "))
