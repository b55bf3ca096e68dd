"""Codecs: how the logits of a row are stored.

    codec = codecs.get("packed:3+28")
    stored = codec.encode(logits)    # {"scale": float32 [rows, 3], "packed": uint8 [rows, 375], …
    codec.decode(stored, 1000)       # float32 [rows, 1000]

| name          | kept of a row                                                                   |
|---------------|---------------------------------------------------------------------------------|
| `float32`     | every logit                                                                     |
| `float16`     | every logit                                                                     |
| `packed:B`    | every logit as one of 2^B levels, evenly spaced; B is 8, 4, 3 or 2              |
| `packed:B+K`  | the largest logit as float16, the distance from it of the K - 1 next, one byte  |
|               | each, and the rest as one of 2^B - 1 levels                                     |
| `packed:0+K`  | the same K with their classes, and one number for all the rest                  |

A codec names its datasets and their shape for one row; `store/layout.py` defines them. Every row
takes the same number of bytes and is coded by itself. With K, the class of the largest logit is the
one it would be in float16. Without K, logits within half a level of the largest may come back equal
to it. `streamkd plan` measures the fidelity of each codec; `DESIGN.md` has the reasons.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Protocol

import numpy as np

from streamkd.errors import OptionError
from streamkd.store.codecs import bit_packing
from streamkd.store.codecs.levels import fit_levels

# All 65,536 halves as float32: looking 1,000 of them up takes 1.4 µs, converting them 2.8 µs.
_HALF = np.dtype("<f2")
_FLOAT32_OF_HALF = np.arange(1 << 16, dtype="<u2").view(_HALF).astype(np.float32)
_LARGEST_HALF = 65504.0

# The 256 distances below the largest logit that a byte can stand for: 0.013 apart at the largest,
# 5 % of the distance apart far below it, up to the widest that float16 allows. Against exact
# distances the KL is up to a fifth larger at temperature 1, up to a twentieth at higher ones, for
# half the bytes of float16.
_FINEST = 0.25
_DISTANCES = (
    _FINEST * np.expm1(np.log(2 * _LARGEST_HALF / _FINEST + 1) / 255 * np.arange(256))
).astype(np.float32)
_BETWEEN_DISTANCES = (_DISTANCES[1:] + _DISTANCES[:-1]) / 2
# Temperature at which the classes that are not kept have, together, their original probability.
_TAIL_TEMPERATURE = 2.0

_PACKED_NAME = re.compile(r"packed:(0|[1-9][0-9]*)(?:\+([1-9][0-9]*))?")
FORMS = "float16, float32, packed:BITS or packed:BITS+KEPT"

Stored = dict[str, np.ndarray]


class ImpossibleRowError(ValueError):
    """A row that no encoder writes; a store that holds one is damaged, or forged."""

    def __init__(self, number: int) -> None:
        super().__init__(f"row {number} of the stored rows is not one that an encoder writes")


class Codec(Protocol):
    """Encodes and decodes the logits of rows.

    Attributes:
      name: as on the command line.
      largest: the largest magnitude of a logit that the codec holds.
    """

    @property
    def name(self) -> str: ...

    @property
    def largest(self) -> float: ...

    def check_num_classes(self, num_classes: int) -> None:
        """Raises OptionError unless there are more classes than kept logits."""

    def datasets(self, num_classes: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Returns the dtype of each dataset, and the shape of one row in it."""

    def encode(self, logits: np.ndarray) -> Stored:
        """Returns float32 `[rows, num_classes]` as stored; `check_range` has passed before."""

    def decode(self, stored: Stored, num_classes: int) -> np.ndarray:
        """Returns float32 `[rows, num_classes]`, always a new array.

        Raises:
          ImpossibleRowError: a row that no encoder writes.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class FloatCodec:
    """Every logit as one floating-point number, in the dataset `logits`.

    Attributes:
      dtype: of the stored numbers, little-endian.
      name, largest: as in `Codec`.
    """

    name: str
    dtype: str
    largest: float

    def check_num_classes(self, num_classes: int) -> None:
        """Fits any number of classes."""

    def datasets(self, num_classes: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {"logits": (self.dtype, (num_classes,))}

    def encode(self, logits: np.ndarray) -> Stored:
        return {"logits": np.ascontiguousarray(logits, self.dtype)}

    def decode(self, stored: Stored, num_classes: int) -> np.ndarray:
        logits = stored["logits"]
        if logits.dtype == _HALF:
            return np.take(_FLOAT32_OF_HALF, logits.view("<u2"))
        return logits.astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LevelCodec:
    """`packed:B` and `packed:B+K`: one of a few evenly spaced levels a logit.

    The last code marks the K largest, so that their classes need no bytes of their own.

    Attributes:
      bits: of a code: 8, 4, 3 or 2.
      num_kept: K, or 0.
    """

    bits: int
    num_kept: int
    largest: float = _LARGEST_HALF

    @property
    def name(self) -> str:
        return f"packed:{self.bits}" + (f"+{self.num_kept}" if self.num_kept else "")

    def check_num_classes(self, num_classes: int) -> None:
        _check_num_kept(self.name, self.num_kept, num_classes)

    def datasets(self, num_classes: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        width = bit_packing.packed_bytes(num_classes, self.bits)
        if not self.num_kept:
            return {"scale": ("<f4", (2,)), "packed": ("|u1", (width,))}
        return {
            "scale": ("<f4", (3,)),
            "packed": ("|u1", (width,)),
            "kept_distances": ("|u1", (self.num_kept,)),
        }

    def encode(self, logits: np.ndarray) -> Stored:
        mark = (1 << self.bits) - 1
        if not self.num_kept:
            lowest, step, codes = fit_levels(logits, None, mark + 1)
            scale = np.stack([lowest, step], axis=1)
            return {"scale": scale, "packed": bit_packing.pack(codes, self.bits)}
        logits = _as_half(logits)
        kept = _largest(logits, self.num_kept)
        lowest, step, codes = fit_levels(logits, kept, mark)
        codes[kept] = mark
        highest, distances = _distances_below(logits, kept)
        return {
            "scale": np.stack([lowest, step, highest], axis=1),
            "packed": bit_packing.pack(codes, self.bits),
            "kept_distances": distances,
        }

    def decode(self, stored: Stored, num_classes: int) -> np.ndarray:
        scale = stored["scale"]
        logits = bit_packing.unpack(stored["packed"], self.bits, num_classes)
        if self.num_kept:
            # Before the codes become logits.
            marked = np.flatnonzero(logits == (1 << self.bits) - 1)
            _check_marked(marked, len(logits), num_classes, self.num_kept)
        logits *= scale[:, 1:2]
        logits += scale[:, 0:1]
        if self.num_kept:
            kept = scale[:, 2:3] - np.take(_DISTANCES, stored["kept_distances"])
            logits.reshape(-1)[marked] = kept.reshape(-1)
        return logits


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeptCodec:
    """`packed:0+K`: the K largest logits with their classes, one number for all the rest.

    For tens of thousands of classes. The number is the logit that gives the rest, together, their
    probability at temperature 2. Levels drawn from a normal distribution of the rest's mean and
    variance would give them their probability at every temperature, and measured twice as far from
    the truth at every temperature, since it is not known which class has which level.

    Attributes:
      num_kept: K.
    """

    num_kept: int
    largest: float = _LARGEST_HALF

    @property
    def name(self) -> str:
        return f"packed:0+{self.num_kept}"

    def check_num_classes(self, num_classes: int) -> None:
        _check_num_kept(self.name, self.num_kept, num_classes)

    def datasets(self, num_classes: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {
            "scale": ("<f4", (2,)),
            "kept_distances": ("|u1", (self.num_kept,)),
            "kept_classes": ("<u2" if num_classes <= 1 << 16 else "<u4", (self.num_kept,)),
        }

    def encode(self, logits: np.ndarray) -> Stored:
        rows, num_classes = logits.shape
        logits = _as_half(logits)
        kept = _largest(logits, self.num_kept)
        highest, distances = _distances_below(logits, kept)
        rest = logits[~kept].reshape(rows, -1).astype(np.float64)
        top = rest.max(axis=1, keepdims=True)
        mean = np.exp((rest - top) / _TAIL_TEMPERATURE).mean(axis=1)
        tail = (top[:, 0] + _TAIL_TEMPERATURE * np.log(mean)).astype(np.float32)
        # A logit equal to the largest that is not kept must not make all the rest its equal.
        below = np.nextafter(highest, np.float32(-np.inf))
        dtype, _ = self.datasets(num_classes)["kept_classes"]
        classes = np.nonzero(kept)[1].reshape(rows, self.num_kept).astype(dtype)
        return {
            "scale": np.stack([np.minimum(tail, below), highest], axis=1),
            "kept_distances": distances,
            "kept_classes": classes,
        }

    def decode(self, stored: Stored, num_classes: int) -> np.ndarray:
        scale, classes = stored["scale"], stored["kept_classes"]
        impossible = classes[:, -1] >= num_classes
        impossible |= (classes[:, 1:] <= classes[:, :-1]).any(axis=1)
        if impossible.any():
            raise ImpossibleRowError(int(np.flatnonzero(impossible)[0]))
        logits = np.repeat(scale[:, 0], num_classes).reshape(-1, num_classes)
        kept = scale[:, 1:2] - np.take(_DISTANCES, stored["kept_distances"])
        starts = np.arange(0, logits.size, num_classes)[:, None]
        logits.reshape(-1)[starts + classes] = kept
        return logits


_FLOAT_CODECS = {
    "float16": FloatCodec(name="float16", dtype="<f2", largest=_LARGEST_HALF),
    "float32": FloatCodec(name="float32", dtype="<f4", largest=float(np.finfo(np.float32).max)),
}


def get(name: str) -> Codec:
    """Returns the codec called `name`.

    Raises:
      OptionError: no codec has that name.
    """
    if name in _FLOAT_CODECS:
        return _FLOAT_CODECS[name]
    match = _PACKED_NAME.fullmatch(name)
    if match is None:
        raise OptionError(
            f"There is no codec {name!r}; choose one of {FORMS}, for example packed:8 or "
            "packed:3+28."
        )
    bits, num_kept = int(match[1]), int(match[2] or 0)
    if bits == 0 and num_kept:
        return KeptCodec(num_kept=num_kept)
    if bits not in bit_packing.BITS:
        raise OptionError(
            f"There is no codec {name!r}: BITS is one of {', '.join(map(str, bit_packing.BITS))}, "
            "or 0 where logits are kept, as in packed:0+100."
        )
    return LevelCodec(bits=bits, num_kept=num_kept)


def _check_num_kept(name: str, num_kept: int, num_classes: int) -> None:
    if num_kept >= num_classes:
        raise OptionError(
            f"The codec {name} keeps {num_kept:,} logits, and there are {num_classes:,} classes.\n"
            "Keep fewer than there are classes, or give `--codec packed:8`."
        )


def _as_half(logits: np.ndarray) -> np.ndarray:
    """Returns the logits rounded to float16, as float32: ties and order are then float16's."""
    return logits.astype(_HALF).astype(np.float32)


def _largest(logits: np.ndarray, num_kept: int) -> np.ndarray:
    """Returns bool, the `num_kept` largest of each row; of equal logits the lower class first."""
    rank = logits.shape[1] - num_kept
    threshold = np.partition(logits, rank, axis=1)[:, rank : rank + 1]
    kept = logits > threshold
    equal = logits == threshold
    missing = num_kept - kept.sum(axis=1, keepdims=True)
    kept |= equal & (np.cumsum(equal, axis=1) <= missing)
    return kept


def _distances_below(logits: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the largest logits, float32 `[rows]`, and the codes of the kept, uint8 `[rows, K]`.

    Codes are in class order. 0 stands for the largest itself and for logits equal to it, never for
    a smaller one, so that the largest stays the largest.
    """
    values = logits[kept].reshape(len(logits), -1)
    highest = values.max(axis=1)
    distances = highest[:, None] - values
    codes = np.searchsorted(_BETWEEN_DISTANCES, distances).astype(np.uint8)
    return highest, np.where(distances > 0, np.maximum(codes, 1), 0).astype(np.uint8)


def _check_marked(marked: np.ndarray, rows: int, num_classes: int, num_kept: int) -> None:
    """Refuses rows that do not have exactly `num_kept` marks."""
    if len(marked) == rows * num_kept:
        by_row = marked.reshape(rows, num_kept)
        starts = np.arange(rows) * num_classes
        wrong = (by_row[:, 0] < starts) | (by_row[:, -1] >= starts + num_classes)
        if not wrong.any():
            return
    counts = np.bincount(marked // num_classes, minlength=rows)
    raise ImpossibleRowError(int(np.flatnonzero(counts != num_kept)[0]))
