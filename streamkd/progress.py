"""Progress of long work on standard error: images done, images per second, time left."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def image_progress(total: int | None, done: int, what: str, shown: bool = True) -> Any:
    """Returns a progress bar that counts images; `bar.update(num_images)` moves it.

    Args:
      total: number of images in all, or None where it is not known yet.
      done: number of images done by an earlier run.
      what: one word that says what is going on.
      shown: False for a bar that shows nothing.
    """
    # A log file gets a line every ten seconds, a terminal ten a second.
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total,
        initial=done,
        desc=what,
        unit=" images",
        unit_scale=True,
        mininterval=interval,
        maxinterval=interval,
        dynamic_ncols=True,
        disable=not shown,
        leave=False,
        file=sys.stderr,
    )
