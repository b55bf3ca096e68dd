"""The files of a pixel cache: a cache has no secret, so that only files of one's own are believed.

descriptor = open_own_file(folder / "NAME.pixels")       # open for reading and writing

Whoever may write to a cache can give any image any pixels, and its name can be foretold. A file is
opened if this user made it and nobody else may write to it: a link, a pipe or another user's file
is refused, and is left as it is. A file of this user's that others may write to, or that has a
second name, is left to those others; a new one takes its place.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from streamkd import disk, small_files
from streamkd.errors import OutputError

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def open_own_file(path: Path) -> int:
    """Returns the descriptor of a file of this user's, made if there is none.

    Raises:
      OutputError: something else has the name, or the file belongs to another user.
      OSError: it cannot be opened.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        refuse_other_kinds(path)
        with contextlib.suppress(FileExistsError):
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            continue  # another process took it away
        try:
            status = os.fstat(descriptor)
            refuse_other_kinds(path)
            _refuse_other_owner(path, status)
            others = status.st_nlink > 1 or _was_writable_by_others(descriptor)
            if not others and os.path.samestat(status, os.lstat(path)):
                return descriptor
        except FileNotFoundError:
            others = False
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if others:
            disk.remove(path)


def refuse_other_kinds(path: Path) -> None:
    """Refuses, as an OutputError, a link, a pipe or anything else that is no file."""
    kind = small_files.kind_of(path)
    if kind is not None:
        raise OutputError(
            f"The pixel cache {path} is {kind}, not a file.\n"
            f"Move it away (`mv {path} {path}.old`), or give another `--cache-directory`."
        )


def _refuse_other_owner(path: Path, status: os.stat_result) -> None:
    """Refuses, as an OutputError, a file that another user made."""
    if status.st_uid == os.geteuid() or status.st_uid == _owner_of_new_files(path.parent):
        return
    raise OutputError(
        f"The pixel cache {path} belongs to another user, so its pixels are not believed.\n"
        f"  owner of the file: user {status.st_uid}\n"
        f"  this process:      user {os.geteuid()}\n"
        "Give a directory of your own: `--cache-directory`."
    )


def _owner_of_new_files(folder: Path) -> int:
    """Returns the owner that a folder gives to new files; a network file system may change it."""
    probe = folder / f".owner.{os.getpid()}"
    try:
        descriptor = disk.create(probe)
    except OSError:
        return os.geteuid()
    try:
        return os.fstat(descriptor).st_uid
    finally:
        os.close(descriptor)
        disk.remove(probe)


def _was_writable_by_others(descriptor: int) -> bool:
    """Takes from others the right to write; returns whether they had it.

    A file system without permissions shows the same ones whatever is set: they tell nothing.
    """
    mode = os.fstat(descriptor).st_mode
    if not mode & _WRITABLE_BY_OTHERS:
        return False
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, stat.S_IMODE(mode) & ~_WRITABLE_BY_OTHERS)
    return os.fstat(descriptor).st_mode != mode
