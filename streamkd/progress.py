"""Progress on standard error: bars of images done, their speed and the time left; the beginning.

with image_progress(len(images), 0, "checking") as bar:
    bar.update(1)
say_where_it_begins("teacher.h5", 142, 2_313)        # "going on at image 142 of 2,313"
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


def say_where_it_begins(path: str, done: int, total: int, shown: bool = True) -> None:
    """Says of a command that is given again that it goes on, or has nothing to do.

    Args:
      path: of the store.
      done: images that an earlier run has done; of 0 nothing is said.
      total: number of images in all.
      shown: as in `image_progress`.
    """
    if done == total:
        say(f"already finished: {path} has all {total:,} images; nothing is done", shown)
    elif done:
        say(f"going on at image {done:,} of {total:,}, in {path}", shown)
