"""Codecs: how the logits of a row are kept on disk.

    codec = codecs.get("float16")
    stored = codec.encode(logits)              # {"logits": float16 [rows, num_classes]}
    codec.decode(stored)                       # float32 [rows, num_classes]

A codec names its datasets and their shape a row, so that one which needs several (packed logits
and their scale, say) fits in without a change elsewhere.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from streamkd.errors import OptionError

# All 65,536 halves as float32: looking 1,000 of them up takes 1.4 µs, converting them 2.8 µs.
_HALF = np.dtype("<f2")
_FLOAT32_OF_HALF = np.arange(1 << 16, dtype="<u2").view(_HALF).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FloatCodec:
    """Every logit as one floating-point number, in the dataset `logits`.

    Attributes:
      name: as on the command line.
      dtype: of the stored numbers, little-endian.
      largest: the largest magnitude that it can hold.
    """

    name: str
    dtype: str
    largest: float

    def datasets(self, num_classes: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Returns dtype and shape of a row's part of each dataset."""
        return {"logits": (self.dtype, (num_classes,))}

    def encode(self, logits: np.ndarray) -> dict[str, np.ndarray]:
        """Returns float32 `[rows, num_classes]` as stored; the magnitudes have been checked."""
        return {"logits": np.ascontiguousarray(logits, self.dtype)}

    def decode(self, stored: dict[str, np.ndarray]) -> np.ndarray:
        """Returns float32 `[rows, num_classes]`, always a new array."""
        logits = stored["logits"]
        if logits.dtype == _HALF:
            return np.take(_FLOAT32_OF_HALF, logits.view("<u2"))
        return logits.astype(np.float32)


_CODECS = {
    "float16": FloatCodec(name="float16", dtype="<f2", largest=65504.0),
    "float32": FloatCodec(name="float32", dtype="<f4", largest=float(np.finfo(np.float32).max)),
}
NAMES = tuple(_CODECS)


def get(name: str) -> FloatCodec:
    """Returns the codec called `name`.

    Raises:
      OptionError: there is none.
    """
    if name not in _CODECS:
        raise OptionError(f"There is no codec {name!r}; choose one of {', '.join(NAMES)}.")
    return _CODECS[name]
