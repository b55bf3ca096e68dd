"""The file format of a logit store: one plain HDF5 file, readable by any HDF5 tool.

The file starts with a userblock of 4,096 bytes (`userblock.py`), which says where everything lies
and carries the digests; HDF5 begins behind it. Images stand in key order, rows in image-major
order: `row = image * num_views + view`. N images, V views, C classes of the teacher, K class names.

Static datasets, complete when the file appears under its name:

| dataset         | type, shape     | contents                                                |
|-----------------|-----------------|---------------------------------------------------------|
| `key_bytes`     | u1 `[…]`        | the keys, one after the other, sorted by their bytes    |
| `key_offsets`   | u8 `[N + 1]`    | key i is `key_bytes[key_offsets[i]:key_offsets[i + 1]]` |
| `key_hash`      | u8 `[N]`        | `keys.hash_keys` of all keys, sorted                    |
| `key_row`       | u8 `[N]`        | the image that each of these hashes belongs to          |
| `labels`        | i4 `[N]`        | class number, -1 for no label                           |
| `class_bytes`   | u1 `[…]`        | class names in order, as `encode_class_names` has them  |
| `class_offsets` | u8 `[K + 1]`    | as `key_offsets`                                        |

Datasets that the teacher pass fills, block by block:

| dataset     | type, shape             | contents                                            |
|-------------|-------------------------|-----------------------------------------------------|
| `logits`    | f2 or f4 `[N, V, C]`    | codec `float16` or `float32`, before softmax; the   |
|             |                         | packed codecs have others instead, below            |
| `content`   | u8 `[N]`                | digest of the file's bytes as the teacher saw them  |
| `row_crc32` | u4 `[N, V]`             | CRC-32 of key hash, content and all that the codec  |
|             |                         | keeps of the row                                    |
| `done`      | u1 `[N, V]`             | 0 no; 1 yes; 2 image refused, as asked for          |
| `summary`   | u1 `[4096]`             | length u4, CRC-32 u4, JSON; both 0: not written yet |

Drawn views add a dataset `[N, V, …]` for each parameter, such as `view_crop`: the table in
`views/views.py` has their names, types and shapes. `row_crc32` covers them as well.

A packed codec, of B bits and K kept logits, has these instead of `logits`:

| dataset          | type, shape             | contents                                        |
|------------------|-------------------------|-------------------------------------------------|
| `scale`          | f4 `[N, V, 2]`          | `packed:B`: lowest level, step between levels   |
|                  | f4 `[N, V, 3]`          | `packed:B+K`: those, and the largest logit      |
|                  | f4 `[N, V, 2]`          | `packed:0+K`: logit of all that are not kept,   |
|                  |                         | and the largest logit                           |
| `packed`         | u1 `[N, V, ⌈C·B/8⌉]`    | code of each class, from the lowest bit of the  |
|                  |                         | first byte on; the logit is lowest + code·step. |
|                  |                         | With K, the code 2^B - 1 marks a kept logit     |
| `kept_distances` | u1 `[N, V, K]`          | kept logits in class order: code d stands for   |
|                  |                         | the largest less 0.25·(524,033^(d/255) - 1)     |
| `kept_classes`   | u2 or u4 `[N, V, K]`    | `packed:0+K`: their classes, ascending; u4      |
|                  |                         | above 65,536 classes                            |

Root attributes (counts as int64, text and JSON as byte strings of fixed length): `format`,
`format_version`, `num_images`, `num_views`, `num_classes`, `block_rows`, `codec`, `fingerprint`,
`decoder`, and as JSON `images`, `views`, `teacher`, `versions`. See `StoreHeader`.

Everything is little-endian, contiguous, uncompressed, and allocated before the first row; no
HDF5 metadata changes afterwards, so that a crash cannot make the file unreadable. A block is
`block_rows` rows, of whole images; it is what the teacher is asked at once and what is committed
at once. `done` is written only when the rows of its block are on the disk.

A file is finished when it has its summary, which is written last, when no `done` is 0. A finished
file never changes.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamkd import json_text
from streamkd.errors import OptionError
from streamkd.keys import Keys
from streamkd.store import codecs
from streamkd.views.views import Views

FORMAT_NAME = "streamkd logit store"
FORMAT_VERSION = 1
SUMMARY_BYTES = 4096
NOT_DONE, DONE, REFUSED = 0, 1, 2
# Kinds of a teacher's answers that stand for independent labels, one sigmoid each: `output` in the
# identity of the teacher.
SIGMOID_KINDS = ("sigmoid", "sigmoid-logits")
# Kinds that are one softmax. Plain 'logits' may be of either.
SOFTMAX_KINDS = ("probabilities", "log-probabilities", "class")
# Decoder of a store whose logits other programs made.
ELSEWHERE = "elsewhere"

STATIC_DATASETS = (
    "key_bytes",
    "key_offsets",
    "key_hash",
    "key_row",
    "labels",
    "class_bytes",
    "class_offsets",
)

# Longest attribute, in bytes: it lives in the object header, whose messages end at 64 KiB.
_MAX_ATTRIBUTE_BYTES = 60_000
_COUNTS = ("num_images", "num_views", "num_classes", "block_rows")
_TEXTS = ("codec", "fingerprint", "decoder")
_DICTS = ("images", "views", "teacher", "versions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreHeader:
    """Everything that is known before the first row.

    Attributes:
      num_images, num_views, num_classes: counts, all positive.
      codec: as in `codecs.get`, such as 'float16' or 'packed:3+28'.
      block_rows: rows that are taught and committed at once; a multiple of `num_views`.
      fingerprint: digest of the images' keys, labels and classes.
      images: the image specification, as `ImageOptions.to_dict`.
      views: the view specification, as `Views.to_dict`; `{"count": 1, "kind": "plain"}` for the
        plain image.
      decoder: the function that turns the bytes of a file into pixels.
      teacher: its identity: name, digest of the weights, output kind, preprocessing.
      versions: of the libraries that took part.

    Raises:
      OptionError: an impossible value; dicts must be JSON.
    """

    num_images: int
    num_views: int
    num_classes: int
    codec: str
    block_rows: int
    fingerprint: str
    images: dict[str, Any]
    views: dict[str, Any]
    decoder: str
    teacher: dict[str, Any]
    versions: dict[str, Any]

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise OptionError(f"{name} is {value!r}; it must be a positive whole number.")
            object.__setattr__(self, name, int(value))
        codecs.get(self.codec).check_num_classes(self.num_classes)
        if self.block_rows % self.num_views:
            raise OptionError(
                f"block_rows is {self.block_rows} and num_views is {self.num_views}.\n"
                "A block must not split an image: make it a multiple of num_views."
            )
        if self.views.get("count", self.num_views) != self.num_views:
            raise OptionError(
                f"num_views is {self.num_views}, and the view specification has "
                f"{self.views['count']} views; make them agree."
            )
        Views.from_dict(self.views)
        for name in _TEXTS:
            _encode_text(name, getattr(self, name))
        for name in _DICTS:  # as they come back from the file: lists for tuples
            object.__setattr__(self, name, json.loads(_encode_json(name, getattr(self, name))))

    @property
    def activation(self) -> str | None:
        """'sigmoid' for logits of independent labels, 'softmax', or None where nothing tells."""
        kind, removed = self.teacher.get("output"), self.teacher.get("removed")
        if self.num_classes == 1 or removed == "sigmoid" or kind in SIGMOID_KINDS:
            return "sigmoid"
        return "softmax" if removed == "softmax" or kind in SOFTMAX_KINDS else None

    @property
    def is_sigmoid(self) -> bool:
        """Whether the logits are those of independent labels, and not of one softmax."""
        return self.activation == "sigmoid"

    @property
    def images_per_block(self) -> int:
        return self.block_rows // self.num_views

    @property
    def num_blocks(self) -> int:
        return math.ceil(self.num_images / self.images_per_block)

    @property
    def num_rows(self) -> int:
        return self.num_images * self.num_views

    def to_attributes(self) -> dict[str, np.int64 | np.bytes_]:
        """Returns the root attributes of the file."""
        attributes: dict[str, np.int64 | np.bytes_] = {
            "format": np.bytes_(FORMAT_NAME.encode()),
            "format_version": np.int64(FORMAT_VERSION),
        }
        for name in _COUNTS:
            attributes[name] = np.int64(getattr(self, name))
        for name in _TEXTS:
            attributes[name] = np.bytes_(_encode_text(name, getattr(self, name)))
        for name in _DICTS:
            attributes[name] = np.bytes_(_encode_json(name, getattr(self, name)))
        return attributes

    @classmethod
    def from_attributes(cls, attributes: dict[str, Any]) -> StoreHeader:
        """Returns the header that `to_attributes` wrote.

        Raises:
          ValueError, KeyError, TypeError: the attributes are not those of a store.
        """
        values: dict[str, Any] = {name: attributes[name] for name in _COUNTS}
        for name in _TEXTS:
            values[name] = attributes[name].decode()
        for name in _DICTS:
            values[name] = json_text.load(attributes[name])
            if not isinstance(values[name], dict):
                raise ValueError(f"attribute {name!r} is no JSON object")
        return cls(**values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Type and shape of one dataset.

    Attributes:
      dtype: as NumPy writes it, such as '<f2'.
      shape: the first axis is images in every dataset with an entry for each image.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def dataset_specs(
    header: StoreHeader, *, num_key_bytes: int, num_class_bytes: int, num_class_names: int
) -> dict[str, DatasetSpec]:
    """Returns every dataset of a store, in the order in which they lie in the file."""
    images, views = header.num_images, header.num_views
    specs: dict[str, tuple[str, tuple[int, ...]]] = {
        "key_bytes": ("|u1", (num_key_bytes,)),
        "key_offsets": ("<u8", (images + 1,)),
        "key_hash": ("<u8", (images,)),
        "key_row": ("<u8", (images,)),
        "labels": ("<i4", (images,)),
        "class_bytes": ("|u1", (num_class_bytes,)),
        "class_offsets": ("<u8", (num_class_names + 1,)),
    }
    for name, (dtype, shape) in {
        **Views.from_dict(header.views).datasets(),
        **codecs.get(header.codec).datasets(header.num_classes),
    }.items():
        specs[name] = (dtype, (images, views, *shape))
    specs["content"] = ("<u8", (images,))
    specs["row_crc32"] = ("<u4", (images, views))
    specs["done"] = ("|u1", (images, views))
    specs["summary"] = ("|u1", (SUMMARY_BYTES,))
    return {name: DatasetSpec(dtype=dtype, shape=shape) for name, (dtype, shape) in specs.items()}


def encode_class_names(class_names: Sequence[str]) -> Keys:
    """Returns class names as stored: UTF-8, except bytes of folder names that are not UTF-8."""
    return Keys.from_list(name.encode("utf-8", "surrogateescape") for name in class_names)


def decode_class_names(names: Keys) -> list[str]:
    """Returns the class names that `encode_class_names` was given."""
    return [name.decode("utf-8", "surrogateescape") for name in names]


def _encode_text(name: str, text: str) -> bytes:
    if not isinstance(text, str) or not text or "\0" in text:
        raise OptionError(f"{name} is {text!r}; it must be a text that is not empty.")
    return _fitting(name, text.encode())


def _encode_json(name: str, value: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"{name} cannot be stored as JSON: {error}.\n"
            "Use texts, finite numbers, lists and dicts in it."
        ) from error
    return _fitting(name, text.encode())


def _fitting(name: str, text: bytes) -> bytes:
    if len(text) > _MAX_ATTRIBUTE_BYTES:
        raise OptionError(
            f"{name} takes {len(text):,} bytes, and a store holds {_MAX_ATTRIBUTE_BYTES:,}.\n"
            "Leave out entries that the teacher's answers do not depend on."
        )
    return text
