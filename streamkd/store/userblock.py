"""The userblock: 4,096 bytes before HDF5 that say where everything lies, with the digests.

    streamkd logit store 1 6f0c…\\n
    {"datasets": …, "extents": …, "file_size": …, "metadata_digest": …, "static_digests": …}\\n
    zeros

The first line has the format version and the digest of the JSON. The whole userblock is checked
before HDF5 parses a byte: of 1,500 files with 1 to 4 changed metadata bytes, HDF5 read 9 wrongly
without a word and crashed on 4.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from streamkd import json_text
from streamkd.errors import DamagedStoreError, StoreError
from streamkd.file_kinds import kind_of_path
from streamkd.store.layout import FORMAT_NAME, FORMAT_VERSION, DatasetSpec

USERBLOCK_BYTES = 4096
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

_MAGIC = FORMAT_NAME.encode() + b" "
_DTYPES = ("<f2", "<f4", "|u1", "<u2", "<u4", "<u8", "<i4", "<i8")
# Largest number of bytes outside of datasets. Real stores have about 100 KB: attributes, and gaps
# of under 4 KiB between datasets.
_MAX_METADATA_BYTES = 16 << 20
_CHUNK_BYTES = 8 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Userblock:
    """The statements of a userblock.

    Attributes:
      file_size: size of the whole file, in bytes.
      datasets: type and shape of each dataset.
      extents: first byte and number of bytes of each dataset.
      metadata_digest: digest of all bytes behind the userblock that lie in no extent.
      static_digests: digest of each static dataset, by name.
    """

    file_size: int
    datasets: dict[str, DatasetSpec]
    extents: dict[str, tuple[int, int]]
    metadata_digest: str
    static_digests: dict[str, str]

    def pack(self) -> bytes:
        """Returns the 4,096 bytes."""
        body = json.dumps(
            {
                "datasets": {n: [s.dtype, list(s.shape)] for n, s in self.datasets.items()},
                "extents": self.extents,
                "file_size": self.file_size,
                "metadata_digest": self.metadata_digest,
                "static_digests": self.static_digests,
            },
            sort_keys=True,
            separators=(",", ":"),
        ).encode()
        packed = b"%s%d %s\n%s\n" % (_MAGIC, FORMAT_VERSION, digest(body).encode(), body)
        assert len(packed) <= USERBLOCK_BYTES, "the userblock is too small for the datasets"
        return packed.ljust(USERBLOCK_BYTES, b"\0")


def digest(data: bytes | memoryview) -> str:
    """Returns the BLAKE2b digest of `data`, 16 bytes in hexadecimal."""
    return hashlib.blake2b(memoryview(data), digest_size=16).hexdigest()


def digest_of_ranges(read: Callable[[int, int], bytes], ranges: Iterable[tuple[int, int]]) -> str:
    """Returns the digest of ranges (first byte, end), which `read(offset, num_bytes)` gets."""
    state = hashlib.blake2b(digest_size=16)
    for start, end in ranges:
        for offset in range(start, end, _CHUNK_BYTES):
            state.update(read(offset, min(_CHUNK_BYTES, end - offset)))
    return state.hexdigest()


def metadata_digest(
    read: Callable[[int, int], bytes], file_size: int, extents: dict[str, tuple[int, int]]
) -> str:
    """Returns the digest of all bytes behind the userblock that lie in no extent."""
    return digest_of_ranges(read, metadata_ranges(file_size, extents))


def metadata_ranges(
    file_size: int, extents: dict[str, tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """Yields the first byte and the end of each range that lies in no extent."""
    position = USERBLOCK_BYTES
    for offset, num_bytes in sorted(extents.values()):
        if num_bytes:
            if offset > position:
                yield position, offset
            position = offset + num_bytes
    if position < file_size:
        yield position, file_size


def parse(path: str, head: bytes) -> Userblock:
    """Returns the userblock from the first bytes of a file, up to `USERBLOCK_BYTES + 8` of them.

    Raises:
      DamagedStoreError: a store that was changed since it was written.
      StoreError: no store, or a store of a later version.
    """
    _check_kind(path, head)
    line, _, rest = head[:USERBLOCK_BYTES].partition(b"\n")
    body, _, padding = rest.partition(b"\n")
    words = line[len(_MAGIC) :].split(b" ")
    if len(words) == 2 and words[0].isdigit() and int(words[0]) > FORMAT_VERSION:
        raise StoreError(
            f"{path} is a logit store of format version {words[0].decode()}, and this version of "
            f"streamkd reads version {FORMAT_VERSION}.\n"
            "Upgrade with `pip install --upgrade streamkd`."
        )
    if words != [b"%d" % FORMAT_VERSION, digest(body).encode()] or padding.strip(b"\0"):
        raise damaged(path, "its userblock does not have its digest")
    if len(head) < USERBLOCK_BYTES:
        raise damaged(path, f"it ends after {len(head):,} bytes")
    try:
        return _from_json(json_text.load(body))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(path, "its userblock does not describe a store") from error


def check_extents(path: str, userblock: Userblock) -> None:
    """Refuses datasets that lie outside the file or on top of each other."""
    position, before = USERBLOCK_BYTES, "the userblock"
    for (offset, num_bytes), name in sorted((e, n) for n, e in userblock.extents.items()):
        spec = userblock.datasets[name]
        if num_bytes != spec.num_bytes:
            raise damaged(
                path,
                f"dataset '{name}' has {num_bytes:,} bytes where its shape needs "
                f"{spec.num_bytes:,}",
            )
        if not num_bytes:
            continue
        if offset < position:
            raise damaged(path, f"dataset '{name}' overlaps {before}")
        position, before = offset + num_bytes, f"dataset '{name}'"
        if position > userblock.file_size:
            raise damaged(path, f"dataset '{name}' ends outside the file")
    ranges = metadata_ranges(userblock.file_size, userblock.extents)
    num_metadata = sum(end - start for start, end in ranges)
    if num_metadata > _MAX_METADATA_BYTES:
        raise damaged(path, f"{num_metadata:,} of its bytes belong to no dataset")


def damaged(path: str, fault: str, *, key: bytes | None = None) -> DamagedStoreError:
    """Returns the refusal of a store that was changed since it was written."""
    return DamagedStoreError(
        f"The logit store {path} is damaged: {fault}.\n"
        "Restore it from a copy, or move it away and run `streamkd teach` again.",
        key=key,
    )


def not_a_store(path: str, kind: str) -> StoreError:
    """Returns the refusal of a file of another kind: as `file_kinds` tells it, else `kind`."""
    known = kind_of_path(path)
    words, use = (kind, "") if known is None else (known.words, f" {known.use}")
    return StoreError(
        f"{path} is not a logit store: it is {words}.\nGive a file made by `streamkd teach`.{use}"
    )


def _check_kind(path: str, head: bytes) -> None:
    """Refuses a file that is no logit store, with a message for each kind of file."""
    if head.startswith(_MAGIC):
        return
    if not head:
        kind = "an empty file"
    elif sum(a == b for a, b in zip(head, _MAGIC, strict=False)) > len(_MAGIC) // 2:
        raise damaged(path, "its first line is not that of a store")
    elif HDF5_SIGNATURE in (head[n : n + 8] for n in (0, 512, 1024, 2048, 4096)):
        kind = "an HDF5 file without the first line of a store"
    else:
        kind = "neither HDF5 nor a store"
    raise not_a_store(path, kind)


def _from_json(values: dict[str, Any]) -> Userblock:
    """Returns the userblock; raises ValueError, TypeError or KeyError for an impossible value."""
    datasets = {}
    for name, (dtype, shape) in values["datasets"].items():
        if dtype not in _DTYPES:
            raise ValueError(f"dtype {dtype!r}")
        datasets[name] = DatasetSpec(dtype=dtype, shape=tuple(map(_count, shape)))
    extents = {n: (_count(o), _count(b)) for n, (o, b) in values["extents"].items()}
    if set(extents) != set(datasets) or any(len(s.shape) > 8 for s in datasets.values()):
        raise ValueError("datasets and extents differ")
    if any(math.prod(spec.shape) >= 1 << 62 for spec in datasets.values()):
        raise ValueError("a dataset larger than any disk")
    static_digests = {str(name): str(value) for name, value in values["static_digests"].items()}
    return Userblock(
        file_size=_count(values["file_size"]),
        datasets=datasets,
        extents=extents,
        metadata_digest=str(values["metadata_digest"]),
        static_digests=static_digests,
    )


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value
