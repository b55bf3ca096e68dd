"""The students of a sweep that are trained together, each in turns, from one stream.

member = Member(setting, run, feed)
member.begin(distiller, distiller.fit_in_turns(stream, source=feed, …))
train_together(stream, members, last=100, ended=print, progress=True)
member.history, member.fault
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from streamkd.errors import NonFiniteError, StudentError
from streamkd.progress import image_progress
from streamkd.stream.stream import Stream
from streamkd.sweeps.grid import Setting
from streamkd.sweeps.shared_batches import Feed, SharedBatches
from streamkd.training.history import History
from streamkd.training.loop import Turns

# Errors of one student, which do not end the others: its numbers, its layers, its memory.
FAULTS = (NonFiniteError, StudentError, tf.errors.OpError)


class Member:
    """One student while it is trained beside others.

    Attributes:
      setting: its settings.
      run: its run directory.
      feed: its batches.
      distiller: of the student; None before `begin`, and after `release`.
      history: once it was trained to its end, or stopped.
      fault: the error that ended it.
    """

    def __init__(self, setting: Setting, run: Path, feed: Feed) -> None:
        self.setting, self.run, self.feed = setting, run, feed
        self.distiller: Any = None
        self.history: History | None = None
        self.fault: Exception | None = None
        self._turns: Turns | None = None

    @property
    def is_training(self) -> bool:
        return self._turns is not None

    def begin(self, distiller: Any, turns: Turns) -> None:
        """Begins a training up to its first batch; what is refused is raised."""
        self.distiller, self._turns = distiller, turns
        try:
            next(turns)
        except StopIteration as ended:
            self._end(ended.value)

    def take_turn(self) -> None:
        """Trains on the batches that the feed has."""
        assert self._turns is not None
        try:
            next(self._turns)
        except StopIteration as ended:
            self._end(ended.value)
        except FAULTS as fault:
            self.fault = fault
            self._end(None)

    def interrupt(self) -> None:
        """Saves the run, as Ctrl-C does, and ends it."""
        if self._turns is None:
            return
        try:
            self._turns.throw(KeyboardInterrupt())
        except (KeyboardInterrupt, StopIteration):
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Ends a training that is under way; its checkpoints stay."""
        if self._turns is not None:
            self._turns.close()
            self._end(None)

    def _end(self, history: History | None) -> None:
        self.history, self._turns = history, None

    def release(self) -> None:
        """Lets go of the student and its batches."""
        self.distiller = None
        self.feed.close()


def train_together(
    stream: Stream,
    members: Sequence[Member],
    *,
    last: int,
    ended: Callable[[Member], None],
    progress: bool,
) -> None:
    """Trains members that have begun; each batch is read once for all of them.

    Args:
      stream: from which all learn.
      members: those that are finished already are left as they are.
      last: number of batches of the whole run.
      ended: called with each member whose training ended, or was stopped.
      progress: whether to show images per second, of all students together.

    Raises:
      StreamkdError: an image cannot be read; checkpoints are kept.
    """
    active = [member for member in members if member.is_training]
    if not active:
        return
    first = min(member.feed.next or 0 for member in active)
    try:
        with (
            SharedBatches(stream, first=first, last=last) as shared,
            image_progress(
                last * stream.batch_size,
                first * stream.batch_size,
                f"training {len(active)} students",
                progress,
            ) as bar,
        ):
            while active and (block := shared.block()):
                for member in list(active):
                    for number, batch in block:
                        member.feed.put(number, batch)
                    member.take_turn()
                    if not member.is_training:
                        active.remove(member)
                        ended(member)
                bar.update(len(block) * stream.batch_size)
    except KeyboardInterrupt:
        for member in active:
            member.interrupt()
        raise
    finally:
        for member in active:
            member.close()
