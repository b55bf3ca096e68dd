"""Refuses logits that a codec cannot hold, before any of them is written.

    check_range(logits, keys, "float16")        # NonFiniteError, naming the first image

A NaN, an infinity and a number beyond the codec's largest are refused alike.
"""

from __future__ import annotations

import numpy as np

from streamkd.errors import NonFiniteError, readable_key
from streamkd.keys import Keys
from streamkd.store.codecs.codec import get


def check_range(logits: np.ndarray, keys: Keys, codec_name: str) -> None:
    """Refuses logits that are not finite or too large for a codec.

    Args:
      logits: float32 `[rows, num_classes]`, all views of the first image, then of the second.
      keys: of the images that the rows belong to.
      codec_name: as in `codecs.get`.

    Raises:
      NonFiniteError: names the first key.
    """
    codec = get(codec_name)
    # One comparison refuses NaN as well.
    fits = (np.abs(logits) <= codec.largest).all(axis=1)
    if fits.all():
        return
    row = int(np.flatnonzero(~fits)[0])
    image, view = divmod(row, len(logits) // len(keys))
    worst = logits[row][~(np.abs(logits[row]) <= codec.largest)][0]
    advice = "Look at the image, or leave it out."
    if np.isfinite(worst):
        advice = "Give `--codec float32`."
    raise NonFiniteError(
        f"The teacher's logits of '{readable_key(keys[image])}', view {view}, hold {worst}.\n"
        f"  codec {codec.name} holds finite numbers up to {codec.largest:g}\n"
        f"  first of {int((~fits).sum()):,} such rows; this block was not written\n{advice}",
        key=keys[image],
    )
