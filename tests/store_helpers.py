"""Small stores for tests, file breakers, and a process that is killed at a given system call.

The logits of a test store are a function of the row, so that any mispairing shows.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from streamkd.keys import Keys
from streamkd.store import userblock
from streamkd.store.creation import create_store
from streamkd.store.layout import DatasetSpec, StoreHeader, dataset_specs
from streamkd.store.userblock import USERBLOCK_BYTES, Userblock
from streamkd.store.writer import StoreWriter

SUMMARY = {"teacher_accuracy": 0.75}
CLASS_NAMES = ["cat", "dog", "été", "owl"]


def header_of(num_images: int = 10, **changes: Any) -> StoreHeader:
    """Returns the header of a small store: one view, four classes, blocks of three images."""
    num_views = changes.get("num_views", 1)
    values: dict[str, Any] = {
        "num_images": num_images,
        "num_views": num_views,
        "num_classes": 4,
        "codec": "float16",
        "block_rows": 3 * num_views,
        "fingerprint": "8f31c2d0",
        "images": {"image_size": [8, 8]},
        "views": {"count": num_views, "kind": "plain"},
        "decoder": "tf.io.decode_image",
        "teacher": {"name": "Lehrer für Tiere", "digest": "00ff"},
        "versions": {"numpy": "2"},
    }
    return StoreHeader(**{**values, **changes})


def keys_of(num_images: int) -> Keys:
    """Returns sorted keys; every third is not UTF-8."""
    names = [
        b"class%d/%04d%s.png" % (4 * i // num_images, i, b"\xff" if i % 3 == 0 else b"")
        for i in range(num_images)
    ]
    return Keys.from_list(sorted(names))


def logits_of(rows: range | np.ndarray, num_classes: int) -> np.ndarray:
    """Returns float32 `[rows, num_classes]`, exact in float16 and different in every row."""
    return (np.asarray(rows)[:, None] + np.arange(num_classes) / 4).astype(np.float32)


def content_of(images: range | np.ndarray) -> np.ndarray:
    """Returns uint64 `[images]`, digests that use all 64 bits."""
    return (np.asarray(images, np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)


def create(path: os.PathLike[str] | str, num_images: int = 10, **changes: Any) -> StoreHeader:
    """Creates a store without rows."""
    header = header_of(num_images, **changes)
    labels = np.arange(num_images) % 4
    labels[1] = -1
    create_store(path, header, keys_of(num_images), labels, CLASS_NAMES)
    return header


def fill(
    path: os.PathLike[str] | str,
    *,
    num_blocks: int | None = None,
    acknowledged: Callable[[int], None] = lambda block: None,
) -> None:
    """Teaches the blocks that are pending, or the first few of them; finishes if none is left."""
    with StoreWriter(path) as writer:
        pending = writer.pending_blocks()
        for block in pending[:num_blocks].tolist():
            logits = logits_of(writer.rows_of_block(block), writer.header.num_classes)
            writer.write_block(block, logits, content_of(writer.images_of_block(block)))
            acknowledged(block)
        if num_blocks is None or num_blocks >= len(pending):
            writer.finish(SUMMARY)


def teach(path: os.PathLike[str] | str, num_images: int = 10, **changes: Any) -> StoreHeader:
    """Creates and finishes a store."""
    header = create(path, num_images, **changes)
    fill(path)
    return header


def extents_of(path: os.PathLike[str] | str) -> dict[str, tuple[int, int]]:
    """Returns where each dataset lies, as HDF5 tells it."""
    with h5py.File(path, "r") as file:
        return {name: (file[name].id.get_offset(), file[name].nbytes) for name in file}


def flip_bit(path: os.PathLike[str] | str, offset: int, bit: int = 0) -> None:
    """Flips one bit of a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        value = file.read(1)[0] ^ (1 << bit)
        file.seek(offset)
        file.write(bytes([value]))


def forge_userblock(path: os.PathLike[str] | str, **changes: Any) -> None:
    """Gives a file a userblock whose digests are right, with some of its statements changed."""
    data = Path(path).read_bytes()
    block = userblock.parse(str(path), data)
    values = {
        "file_size": len(data),
        "datasets": block.datasets,
        "extents": block.extents,
        "static_digests": block.static_digests,
        **changes,
    }

    def read(offset: int, num_bytes: int) -> bytes:
        return data[offset : offset + num_bytes]

    # An extent outside of the file is refused before the digest is looked at.
    inside = {name: part for name, part in values["extents"].items() if sum(part) <= len(data)}
    digest = userblock.metadata_digest(read, len(data), inside)
    packed = Userblock(**values, metadata_digest=digest).pack()
    with open(path, "r+b") as file:
        file.write(packed)


def hostile_store(
    path: os.PathLike[str] | str,
    name: str,
    make: Callable[[h5py.File, DatasetSpec], None],
) -> None:
    """Writes a store by h5py with dataset `name` made by `make`, and a userblock that fits it."""
    header, keys = header_of(), keys_of(10)
    specs = dataset_specs(
        header, num_key_bytes=len(keys.data), num_class_bytes=4, num_class_names=1
    )
    with h5py.File(path, "w", userblock_size=USERBLOCK_BYTES, libver="earliest") as file:
        for attribute, value in header.to_attributes().items():
            file.attrs[attribute] = value
        for other, spec in specs.items():
            if other == name:
                make(file, spec)
            else:
                file.create_dataset(other, data=np.zeros(spec.shape, spec.dtype))
    with h5py.File(path, "r") as file:
        extents = {n: (file[n].id.get_offset(), s.num_bytes) for n, s in specs.items() if n != name}
    with open(path, "ab") as file:  # what the userblock says of the hostile one: plain bytes here
        extents[name] = (file.tell(), specs[name].num_bytes)
        file.write(bytes(specs[name].num_bytes))
    data = Path(path).read_bytes()
    block = Userblock(
        file_size=len(data),
        datasets=specs,
        extents=extents,
        metadata_digest=userblock.metadata_digest(lambda o, n: data[o : o + n], len(data), extents),
        static_digests={
            n: userblock.digest(data[extents[n][0] : sum(extents[n])])
            for n in specs
            if n.startswith(("key", "class", "labels"))
        },
    )
    with open(path, "r+b") as file:
        file.write(block.pack())


class FaultyDisk:
    """Counts `os.pwrite`, `os.fdatasync`, `os.fsync` and `os.posix_fallocate`; one call goes wrong.

    Attributes:
      at: number of the call that goes wrong, from 1.
      fault: called instead, with the real function and its arguments.
      num_calls: so far.
    """

    NAMES = ("pwrite", "fdatasync", "fsync", "posix_fallocate")

    def __init__(self, at: int, fault: Callable[..., Any]) -> None:
        self.at, self.fault, self.num_calls = at, fault, 0

    def install(self, setattr_of: Callable[[Any, str, Any], None]) -> None:
        """Puts itself in front of the real calls; `setattr_of` is `monkeypatch.setattr`."""
        for name in filter(vars(os).__contains__, self.NAMES):  # macOS lacks some of them
            setattr_of(os, name, self._guard(getattr(os, name)))

    def _guard(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.num_calls += 1
            if self.num_calls == self.at:
                return self.fault(real, *args, **kwargs)
            return real(*args, **kwargs)

        return guarded


def kill(real: Callable[..., Any], *args: Any) -> None:
    """A fault: the process is killed before the call."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_the_middle(real: Callable[..., Any], *args: Any) -> None:
    """A fault: half of what was to be written is, then the process is killed."""
    if len(args) == 3 and not isinstance(args[1], int):
        descriptor, data, offset = args
        real(descriptor, bytes(data)[: len(data) // 2], offset)
    else:
        real(*args)
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_calls(directory: Path, num_images: int, step: int) -> list[tuple[Path, list[int]]]:
    """Teaches one store after the other, each killed `step` system calls later than the last.

    Returns:
      For each kill the path, where a store may be, and the blocks that were acknowledged.
    """
    # In a process of its own: forking one that has threads, as a test run may, can hang.
    arguments = [sys.executable, __file__, str(directory), str(num_images), str(step)]
    listing = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    return [(Path(path), blocks) for path, blocks in map(json.loads, listing.splitlines())]


def _kill_at_calls(directory: Path, num_images: int, step: int) -> None:
    for fault in (kill, kill_in_the_middle):
        for at in range(1, 1000, step):
            folder = directory / f"{fault.__name__}-{at}"
            folder.mkdir()
            child = os.fork()
            if child == 0:
                _teach_until_killed(folder, num_images, FaultyDisk(at, fault))
            status = os.waitpid(child, 0)[1]
            if status == 0:
                shutil.rmtree(folder)
                break
            assert os.WIFSIGNALED(status), f"the child ended with status {status}"
            log = folder / "acknowledged"
            blocks = [int(line) for line in log.read_text().split()] if log.exists() else []
            print(json.dumps([str(folder / "s.h5"), blocks]), flush=True)


def _teach_until_killed(folder: Path, num_images: int, disk: FaultyDisk) -> None:
    """Runs in a child process; ends it."""
    log = os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    disk.install(setattr)
    create(folder / "s.h5", num_images)
    fill(folder / "s.h5", acknowledged=lambda block: os.write(log, b"%d\n" % block) and None)
    os._exit(0)


if __name__ == "__main__":
    _kill_at_calls(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
