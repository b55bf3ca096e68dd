"""The index file: a small text that lists the stores which are read as one.

    streamkd store index 1 6f0c…
    {"fingerprint": …, "num_images": …, "stores": [{"digest": …, "path": "teacher.h5"}, …]}

A finished store never changes. New and changed images are taught into a delta store next to it, and
`teacher.h5.index` lists base and deltas; shards of one pass are listed in the same way. The last
listed store that has an image counts. Paths are relative to the index file's directory, so that
all files can be moved together; `LogitStore.digest` tells whether a file is still the one that was
listed. The first line has the digest of the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
from pathlib import Path
from typing import IO, Any

from streamkd import disk, json_text
from streamkd.errors import DamagedStoreError, StoreError
from streamkd.store.userblock import digest

_MAGIC = b"streamkd store index "
_VERSION = 1
# Largest index file, in bytes: above any use, below a million shards (and as many memory maps).
_MAX_BYTES = 16 << 20
SUFFIX = ".index"


@dataclasses.dataclass(frozen=True)
class ListedStore:
    """One entry: path relative to the index file's directory, and `LogitStore.digest`."""

    path: str
    digest: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreList:
    """The content of an index file.

    Attributes:
      stores: in order; the last store that has an image counts.
      num_images: number of different images.
      fingerprint: of these images.
    """

    stores: tuple[ListedStore, ...]
    num_images: int
    fingerprint: str

    def write(self, path: str) -> None:
        """Writes the file, whole or not at all; an older one is replaced.

        Raises:
          OutputError, DiskFullError: the file cannot be written; an older one is kept.
        """
        body = json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1).encode()
        packed = b"%s%d %s\n%s\n" % (_MAGIC, _VERSION, digest(body).encode(), body)
        target = Path(path)
        temporary = target.with_name(f".{target.name}.tmp")
        with (
            disk.refusals(path, ending="The stores are as they were."),
            disk.replacing(target, temporary),
            disk.open_new(temporary, "wb") as file,
        ):
            file.write(packed)


def index_beside(path: str) -> str:
    """Returns the path of the index that lists the store at `path` and its deltas."""
    return path + SUFFIX


def refuse_stale_index(path: str) -> None:
    """Raises StoreError if an older store of this name, now gone, left its index."""
    index = index_beside(path)
    if os.path.lexists(index):
        raise StoreError(
            f"{index} lists deltas of a store {path} that no longer exists.\n"
            f"Move it away (`mv {index} {index}.old`), or give another path with `--out`."
        )


def is_index_file(path: str) -> bool:
    """Returns whether a file begins as an index file does."""
    with contextlib.suppress(OSError), _opened(path) as file:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.read(len(_MAGIC)) == _MAGIC
    return False


def read_index_file(path: str) -> StoreList:
    """Returns the content of an index file.

    Raises:
      DamagedStoreError: the file is not as it was written.
      StoreError: the file cannot be read, or is of a later version.
    """
    try:
        with _opened(path) as file:
            packed = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise StoreError(
            f"The store index {path} cannot be read: {error.strerror}.\n"
            "Change its permissions, or copy it to a directory of your own."
        ) from error
    line, _, body = packed.partition(b"\n")
    words = line[len(_MAGIC) :].split(b" ")
    if len(words) == 2 and words[0].isdigit() and int(words[0]) > _VERSION:
        raise StoreError(
            f"{path} is a store index of format version {words[0].decode()}, and this version of "
            f"streamkd reads version {_VERSION}.\nUpgrade with `pip install --upgrade streamkd`."
        )
    body = body[:-1]
    if words != [b"%d" % _VERSION, digest(body).encode()] or len(packed) > _MAX_BYTES:
        raise damaged_index(path, "it does not have its digest")
    try:
        return _from_json(json_text.load(body))
    except (KeyError, TypeError, ValueError) as error:
        raise damaged_index(path, "it does not list stores") from error


def _opened(path: str) -> IO[bytes]:
    # O_NONBLOCK: a named pipe would wait for a writer for ever.
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def damaged_index(path: str, fault: str) -> DamagedStoreError:
    """Returns the refusal of an index file, or of a file that it lists."""
    return DamagedStoreError(
        f"The store index {path} cannot be used: {fault}.\n"
        "Restore it from a copy, or move it away: the stores that it lists can be read one by one, "
        "or joined by `streamkd merge`."
    )


def _from_json(values: dict[str, Any]) -> StoreList:
    stores = tuple(
        ListedStore(str(entry["path"]), str(entry["digest"])) for entry in values["stores"]
    )
    num_images = values["num_images"]
    if not stores or not isinstance(num_images, int) or num_images < 1:
        raise ValueError("no stores")
    for store in stores:
        if os.path.isabs(store.path) or ".." in store.path.split("/") or "\0" in store.path:
            raise ValueError("a store outside of the index file's directory")
    return StoreList(stores=stores, num_images=num_images, fingerprint=str(values["fingerprint"]))
