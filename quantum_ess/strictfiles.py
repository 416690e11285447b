"""Changing files in directories that others can write to, without following their symlinks.

Each component of a path is opened on its own, so that whoever owns a directory on the way can't
lead root somewhere else. All functions raise OSError with the path.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def directory_of(path: str, make: bool = False) -> Iterator[tuple[int, str]]:
    """A descriptor of the directory that the path is in, and the path's last component."""
    *parents, name = path.strip("/").split("/")
    fd = os.open("/", _DIRECTORY)
    try:
        for parent in parents:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(parent, 0o755, dir_fd=fd)
            try:
                inner = os.open(parent, _DIRECTORY, dir_fd=fd)
            except OSError as error:
                raise OSError(error.errno, f"{parent}: {error.strerror}", path) from None
            os.close(fd)
            fd = inner
        yield fd, name
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def replace(path: str, content: bytes, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Write a file that appears whole or not at all; owned as the one that it replaces was."""
    with directory_of(path) as (fd, name):
        if owner is None:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            owner = (status.st_uid, status.st_gid)
        draft = f".{name}.quantum-ess"
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=fd)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(draft, flags, 0o600, dir_fd=fd), "wb") as file:
            file.write(content)
            os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, name, src_dir_fd=fd, dst_dir_fd=fd)


def unlink(path: str) -> None:
    """Remove a file or a link; that it is gone already is no error."""
    with directory_of(path) as (fd, name), suppress(FileNotFoundError):
        os.unlink(name, dir_fd=fd)


def link(path: str, target: str) -> None:
    """Make a symlink, in the place of one that is there."""
    with directory_of(path, make=True) as (fd, name):
        draft = f".{name}.quantum-ess"
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=fd)
        os.symlink(target, draft, dir_fd=fd)
        os.rename(draft, name, src_dir_fd=fd, dst_dir_fd=fd)


def read(path: str) -> bytes:
    """The content of a regular file."""
    with directory_of(path) as (fd, name):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(name, flags, dir_fd=fd), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            return file.read()


def create(path: str, content: bytes) -> None:
    """Make a new file, for root's eyes only, and have it on the disk."""
    with directory_of(path, make=True) as (fd, name):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o600, dir_fd=fd), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def make_private(path: str) -> None:
    """Make a new directory that only root may look into, and those above it."""
    with directory_of(path, make=True) as (fd, name):
        os.mkdir(name, 0o700, dir_fd=fd)
