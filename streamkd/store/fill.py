"""Filling: the missing blocks of a store are answered, committed in the background, and finished.

    def answers(groups):                        # groups of image numbers
        for images in groups:
            yield Answer(logits=..., content_digests=..., views={})

    store = fill_store("teacher.h5", answers, activity="teaching", progress=True)

A pass that was killed is resumed: only the missing blocks are asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from streamkd.progress import image_progress, say
from streamkd.store.background_writer import BackgroundWriter
from streamkd.store.reader import LogitStore
from streamkd.store.summary import teacher_summary
from streamkd.store.writer import StoreWriter


@dataclasses.dataclass(frozen=True)
class Answer:
    """The rows of one group of images, as they are stored.

    Attributes:
      logits: float `[images * num_views, num_classes]`, in the order of the store's rows.
      content_digests: uint64 `[images]`, the digests of their files' bytes.
      views: the parameters of the views, each `[images * num_views, …]`; empty for plain views.
      refused: bool `[images]`, images that cannot be decoded, whose logits mean nothing; or None.
    """

    logits: np.ndarray
    content_digests: np.ndarray
    views: dict[str, np.ndarray]
    refused: np.ndarray | None = None


# Given groups of images (int64 numbers), yields the answer to each, in order.
Answers = Callable[[list[np.ndarray]], Iterator[Answer]]


def fill_store(path: str, answers: Answers, *, activity: str, progress: bool) -> LogitStore:
    """Answers and commits the missing blocks of a store, finishes it, and returns it for reading.

    Args:
      path: of a store that was created, and perhaps filled in part.
      answers: called once, with all missing blocks.
      activity: one word for the progress bar.
      progress: show it.
    """
    store = LogitStore(path)
    say_what_is_done(store, progress)
    if store.finished:
        return store
    with StoreWriter(path) as writer:
        blocks = writer.pending_blocks().tolist()
        groups = [np.array(writer.images_of_block(block)) for block in blocks]
        num_images = writer.header.num_images
        num_done = num_images - sum(map(len, groups))
        with (
            image_progress(num_images, num_done, activity, progress) as bar,
            BackgroundWriter(writer) as background,
        ):
            for block, answer in zip(blocks, answers(groups), strict=True):
                background.write_block(
                    block, answer.logits, answer.content_digests, answer.refused, answer.views
                )
                bar.update(len(answer.content_digests))
            background.wait()
        writer.finish(teacher_summary(LogitStore(path)))
    return LogitStore(path)


def say_what_is_done(store: LogitStore, shown: bool = True) -> None:
    """Says on standard error that a store goes on, or that nothing is left to do; else nothing."""
    total, done = store.num_images, store.rows_done // store.num_views
    if store.finished:
        say(f"already finished: {store.path} has all {total:,} images; nothing is done", shown)
    elif 0 < done < total:
        say(f"going on at image {done:,} of {total:,}, in {store.path}", shown)
