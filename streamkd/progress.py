"""Progress bars on standard error: images done, images per second, time left.

with image_progress(len(images), 0, "checking") as bar:
    bar.update(1)
"""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def image_progress(total: int | None, done: int, activity: str, shown: bool = True) -> Any:
    """Returns a progress bar that counts images; `bar.update(num_images)` moves it.

    Args:
      total: number of images in all, or None while it is not known.
      done: number of images that an earlier run has done.
      activity: one word for the bar, such as 'teaching'.
      shown: False for a bar that shows nothing.
    """
    # Seconds between two lines: few in a log file, many on a terminal.
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total,
        initial=done,
        desc=activity,
        unit=" images",
        unit_scale=True,
        mininterval=interval,
        maxinterval=interval,
        dynamic_ncols=True,
        disable=not shown,
        leave=False,
        file=sys.stderr,
    )
