"""Progress on standard error: bars of images done, images per second, time left; and lines.

with image_progress(len(images), 0, "checking") as bar:
    bar.update(1)
say("going on at step 142 of 2,313")
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


def say(words: str, shown: bool = True) -> None:
    """Prints a line beside the bars; `shown` as in `image_progress`."""
    if shown:
        print(words, file=sys.stderr)
