"""Rows that have their checksum and that no teacher gave: a damaged or forged store holds them.

    impossible_rows(header, stored)     # {3: "its logits are not finite"}

A checksum says that a row is as somebody wrote it. Whoever forges a row writes its checksum too.
"""

from __future__ import annotations

import numpy as np

from streamkd.store import codecs
from streamkd.store.layout import StoreHeader
from streamkd.views.possible_parameters import impossible_parameters
from streamkd.views.views import Views

# Exponent bits of a float16; all are set where the number is not finite. Looking at them takes a
# sixth of the time of `np.isfinite`.
_HALF_EXPONENT = 0x7C00


def impossible_rows(header: StoreHeader, stored: dict[str, np.ndarray]) -> dict[int, str]:
    """Returns the rows that nothing writes, with the fault of each in words.

    Args:
      header: of the store.
      stored: of each dataset that holds a row, an array `[rows, …]`.
    """
    faults: dict[int, str] = {}
    views = Views.from_dict(header.views)
    for impossible, fault in impossible_parameters(views, stored, header.num_images):
        for row in np.flatnonzero(impossible).tolist():
            faults.setdefault(row, fault(row))
    codec = codecs.get(header.codec)
    parts = {name: stored[name] for name in codec.datasets(header.num_classes)}
    if not _all_possible(codec, parts, header.num_classes):
        for row in range(len(next(iter(parts.values())))):
            part = {name: values[row : row + 1] for name, values in parts.items()}
            reason = _fault_of(codec, part, header.num_classes)
            if reason:
                faults.setdefault(row, reason)
    return faults


def _all_possible(codec: codecs.Codec, parts: codecs.Stored, num_classes: int) -> bool:
    """Returns whether all rows could have been encoded, and are finite."""
    logits = parts.get("logits")
    if logits is not None and logits.dtype == np.dtype("<f2"):
        exponents = np.ascontiguousarray(logits).view("<u2") & _HALF_EXPONENT
        return bool((exponents != _HALF_EXPONENT).all())
    try:
        with np.errstate(all="ignore"):
            return bool(np.isfinite(codec.decode(parts, num_classes)).all())
    except codecs.ImpossibleRowError:
        return False


def _fault_of(codec: codecs.Codec, part: codecs.Stored, num_classes: int) -> str:
    """Returns what is wrong with one row, or nothing."""
    try:
        with np.errstate(all="ignore"):
            finite = np.isfinite(codec.decode(part, num_classes)).all()
    except codecs.ImpossibleRowError:
        return f"it is not one that the codec {codec.name} writes"
    return "" if finite else "its logits are not finite"
