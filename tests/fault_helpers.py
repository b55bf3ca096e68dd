"""The system calls of a store's writer: recorded, cut off at any of them, and replayed.

    with SystemCalls(directory) as calls:               # performs and records
        helpers.create(path)
        calls.say("created")                            # what the caller was told by then
    for state in killed_states(Disk(), calls.log):      # each call, each torn page
        state.disk.write_to(fresh_directory)
    power_cut(Disk(), calls.log, at=7, chance=random.Random(0)).write_to(fresh_directory)

Names and contents are told apart as on a real disk: a file is a number, a name leads to one.
"""

from __future__ import annotations

import copy
import ctypes
import fcntl
import mmap
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from store_helpers import FaultyDisk

from streamkd.errors import MissingLogitsError, StoreError
from streamkd.store.reader import LogitStore

PAGE_BYTES = 4096
SECTOR_BYTES = 512

_DIRECTORY = -1


class Event(NamedTuple):
    """One call that changed the disk, or a word to the caller.

    Attributes:
      kind: 'create', 'link', 'unlink', 'write', 'size', 'sync', 'sync_directory' or 'said'.
      name: of the entry in the directory; for 'said' what was said.
      file: number of the file; a name leads to it.
      offset: of a write; of a change of size the new size.
      data: of a write.
    """

    kind: str
    name: Any = ""
    file: int = _DIRECTORY
    offset: int = 0
    data: bytes = b""


class Killed(BaseException):
    """The process is dead from here on: no call of it is performed any more."""


class SystemCalls:
    """Performs the calls that change one directory, and records them; may stop at any of them.

    Attributes:
      log: the events so far.
    """

    NAMES = (
        "open",
        "close",
        "pwrite",
        "ftruncate",
        "posix_fallocate",
        "fdatasync",
        "fsync",
        "link",
        "rename",
        "unlink",
    )

    def __init__(
        self, directory: Path, *, disk: Disk | None = None, stop_after: int | None = None
    ) -> None:
        self.log: list[Event] = []
        self._directory = os.fspath(directory)
        self._names = dict(disk.names) if disk else {}
        self._next_file = max(disk.files, default=-1) + 1 if disk else 0
        self._stop_after = stop_after
        self._dead = False
        self._descriptors: dict[int, int] = {}
        self._real = {name: getattr(os, name) for name in self.NAMES if hasattr(os, name)}

    def __enter__(self) -> SystemCalls:
        for name in self._real:
            setattr(os, name, getattr(self, f"_{name}"))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        for name, real in self._real.items():
            setattr(os, name, real)
        self._dead = kind is not None and issubclass(kind, Killed)
        if self._dead:  # the locks of a process end with it
            for descriptor in self._descriptors:
                os.close(descriptor)
            self._descriptors.clear()
        return self._dead

    def say(self, word: Any) -> None:
        """Records that the caller was told something; it must hold from then on."""
        self.log.append(Event("said", word))

    def _note(self, event: Event, perform: Callable[[], Any]) -> Any:
        """Performs and records one call, unless the process is dead."""
        if self._stop_after is not None:
            if self._stop_after <= 0:
                raise Killed
            self._stop_after -= 1
        result = perform()
        self.log.append(event)
        return result

    def _name(self, path: Any) -> str | None:
        directory, name = os.path.split(os.path.abspath(os.fspath(path)))
        return name if directory == self._directory else None

    def _open(self, path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        name = self._name(path)
        if name is not None and flags & os.O_CREAT and name not in self._names:
            event = Event("create", name, self._next_file)
            descriptor = self._note(event, lambda: self._real["open"](path, flags, *args, **kwargs))
        else:
            descriptor = self._real["open"](path, flags, *args, **kwargs)
        if os.path.abspath(os.fspath(path)) == self._directory:
            self._descriptors[descriptor] = _DIRECTORY
        elif name is not None:
            if name not in self._names:
                self._names[name], self._next_file = self._next_file, self._next_file + 1
            self._descriptors[descriptor] = self._names[name]
        return descriptor

    def _close(self, descriptor: int) -> None:
        known = self._descriptors.pop(descriptor, None)
        if known is not None or not self._dead:  # else it was closed at the end of the process
            self._real["close"](descriptor)

    def _pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        if descriptor not in self._descriptors:
            return self._real["pwrite"](descriptor, data, offset)
        event = Event("write", "", self._descriptors[descriptor], offset, bytes(data))
        written = self._note(event, lambda: self._real["pwrite"](descriptor, data, offset))
        assert written == len(data), "the disk of the recording is to take all at once"
        return written

    def _ftruncate(self, descriptor: int, size: int) -> None:
        event = Event("size", "", self._descriptors[descriptor], size)
        self._note(event, lambda: self._real["ftruncate"](descriptor, size))

    def _posix_fallocate(self, descriptor: int, start: int, size: int) -> None:
        event = Event("size", "", self._descriptors[descriptor], start + size)
        self._note(event, lambda: self._real["posix_fallocate"](descriptor, start, size))

    def _fdatasync(self, descriptor: int) -> None:
        self._sync("fdatasync", descriptor)

    def _fsync(self, descriptor: int) -> None:
        self._sync("fsync", descriptor)

    def _sync(self, name: str, descriptor: int) -> None:
        file = self._descriptors[descriptor]
        event = Event("sync_directory") if file == _DIRECTORY else Event("sync", "", file)
        self._note(event, lambda: self._real[name](descriptor))

    def _link(self, source: Any, target: Any) -> None:
        file = self._names[self._name(source) or ""]
        name = self._name(target) or ""
        self._note(Event("link", name, file), lambda: self._real["link"](source, target))
        self._names[name] = file

    def _rename(self, source: Any, target: Any) -> None:
        raise AssertionError("a replay of renaming is not needed: stores are linked")

    def _unlink(self, path: Any) -> None:
        name = self._name(path)
        if name in self._names:
            self._note(Event("unlink", name), lambda: self._real["unlink"](path))
            del self._names[name]
        else:
            self._real["unlink"](path)


class Disk:
    """The contents of a directory.

    Attributes:
      names: number of the file that each name leads to.
      files: content of each file.
    """

    def __init__(self, contents: dict[str, bytes] | None = None) -> None:
        self.names: dict[str, int] = {}
        self.files: dict[int, bytearray] = {}
        for number, (name, content) in enumerate((contents or {}).items()):
            self.names[name], self.files[number] = number, bytearray(content)

    def apply(self, event: Event) -> None:
        """Changes the disk as the call did."""
        if event.kind in ("create", "link"):
            self.names[event.name] = event.file
            self.files.setdefault(event.file, bytearray())
        elif event.kind == "unlink":
            self.names.pop(event.name, None)
        elif event.kind in ("write", "size"):
            content = self.files.setdefault(event.file, bytearray())
            if event.kind == "write":
                content.extend(bytes(max(0, event.offset + len(event.data) - len(content))))
                content[event.offset : event.offset + len(event.data)] = event.data
            else:
                content.extend(bytes(max(0, event.offset - len(content))))
                del content[event.offset :]

    def write_to(self, directory: Path) -> None:
        """Makes an empty directory hold the same; two names of one file stay so."""
        first: dict[int, Path] = {}
        for name, file in self.names.items():
            if file in first:
                os.link(first[file], directory / name)
            else:
                (directory / name).write_bytes(self.files[file])
                first[file] = directory / name


class State(NamedTuple):
    """The disk after a kill or a power cut, and what the caller had been told by then."""

    disk: Disk
    said: set[Any]


def killed_states(start: Disk, log: list[Event]) -> Iterator[State]:
    """Yields the state after each prefix of the calls, each write also cut at each page boundary.

    The disk of a state is valid until the next one is asked for.
    """
    disk, said = copy.deepcopy(start), set()
    yield State(disk, said)
    for event in log:
        for part in _torn_at_pages(event):
            disk.apply(part)
            yield State(disk, said)
        disk.apply(event)
        if event.kind == "said":
            said.add(event.name)
        yield State(disk, said)


def power_cut(
    start: Disk, log: list[Event], at: int, chance: random.Random, *, syncs: bool = True
) -> State:
    """Returns the state after a power cut behind the first `at` events.

    Everything before the last sync of its file is on the disk. Of what was written later, a random
    part is: whole calls, or single sectors of 512 bytes, in any order. Names likewise: those of
    before the last sync of the directory, and any part of the later ones.

    Args:
      start: what is on the disk for certain at the beginning.
      log: of one process, or of several after each other.
      at: number of events before the cut.
      chance: decides what survives.
      syncs: False for a disk that lies about fdatasync once the store has its name.
    """
    disk = copy.deepcopy(start)
    log = log[:at]
    last_sync = {_DIRECTORY: -1}
    named = False
    for number, event in enumerate(log):
        named |= event.kind == "link"
        if event.kind == "sync_directory" or (event.kind == "sync" and (syncs or not named)):
            last_sync[event.file] = number
    survivors, share, torn = [], chance.random(), chance.random() < 0.5
    for number, event in enumerate(log):
        on_names = event.kind in ("create", "link", "unlink")
        if number < last_sync.get(_DIRECTORY if on_names else event.file, -1):
            disk.apply(event)
            disk.files.setdefault(event.file, bytearray())
            continue
        parts = list(_sectors(event)) if torn else [event]
        survivors += [part for part in parts if chance.random() < share]
    if chance.random() < 0.5:
        chance.shuffle(survivors)
    for event in survivors:
        disk.apply(event)
    return State(disk, {event.name for event in log if event.kind == "said"})


def _torn_at_pages(event: Event) -> Iterator[Event]:
    """Yields the write with only its bytes before each page boundary inside of it."""
    if event.kind != "write":
        return
    first = event.offset - event.offset % PAGE_BYTES + PAGE_BYTES
    for end in range(first, event.offset + len(event.data), PAGE_BYTES):
        yield event._replace(data=event.data[: end - event.offset])


def _sectors(event: Event) -> Iterator[Event]:
    """Yields the parts of a write that reach the disk as one; other events as they are."""
    if event.kind != "write":
        yield event
        return
    start, end = event.offset, event.offset + len(event.data)
    while start < end:
        stop = min(end, start - start % SECTOR_BYTES + SECTOR_BYTES)
        data = event.data[start - event.offset : stop - event.offset]
        yield event._replace(offset=start, data=data)
        start = stop


def rows_given(store: LogitStore) -> dict[int, np.ndarray]:
    """Returns the logits of every row that the store gives out; others it refuses by an error."""
    given = {}
    for row in range(store.rows_total):
        try:
            given[row] = store.gather(np.array([row]))[0]
        except (MissingLogitsError, StoreError):
            continue
    return given


class FaultyCalls(FaultyDisk):
    """As `FaultyDisk`, in front of every system call that the store makes, reading ones included.

    Attributes:
      failed: name of the call that went wrong.
    """

    MODULES: ClassVar[dict[Any, tuple[str, ...]]] = {
        os: (
            "open",
            "pread",
            "pwrite",
            "ftruncate",
            "posix_fallocate",
            "fdatasync",
            "fsync",
            "link",
            "unlink",
            "stat",
            "fstat",
            "dup",
            "memfd_create",
        ),
        fcntl: ("flock",),
        mmap: ("mmap",),
    }
    failed = ""

    def install(self, setattr_of: Callable[[Any, str, Any], None]) -> None:
        """Puts itself in front of the real calls; `setattr_of` is `monkeypatch.setattr`."""
        for module, names in self.MODULES.items():
            for name in filter(vars(module).__contains__, names):  # macOS lacks some of them
                setattr_of(module, name, self._named(name, self._guard(getattr(module, name))))

    def _named(self, name: str, guarded: Callable[..., Any]) -> Callable[..., Any]:
        def named(*args: Any, **kwargs: Any) -> Any:
            self.failed = self.failed or (name if self.num_calls + 1 == self.at else "")
            return guarded(*args, **kwargs)

        return named


def fail_with(number: int) -> Callable[..., Any]:
    """Returns a fault: the call is refused with this error number."""

    def fault(_real: Callable[..., Any], *_args: Any, **_kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fault


def short_write(real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A fault: a write that takes one byte only; other calls are performed."""
    if len(args) == 3 and not isinstance(args[1], int):
        return real(args[0], bytes(args[1])[:1], args[2])
    return real(*args, **kwargs)


def short_read(real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A fault: a read that gives one byte only; other calls are performed."""
    data = real(*args, **kwargs)
    return data[:1] if isinstance(data, bytes) else data


class Watch:
    """Tells whether anyone, HDF5 included, has opened a file since (Linux)."""

    _IN_OPEN = 0x20

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        added = libc.inotify_add_watch(self._descriptor, os.fsencode(path), self._IN_OPEN)
        assert added >= 0, os.strerror(ctypes.get_errno())

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def opened(self) -> bool:
        """Returns whether the file was opened since the last time that this was asked."""
        try:
            return bool(os.read(self._descriptor, 4096))
        except BlockingIOError:
            return False
