"""Worker slices: the pieces of every batch that one of several workers reads.

    strategy.distribute_datasets_from_function(
        lambda context: stream.dataset(start, share=WorkerSlice.of(context))
    )

The batch of a stream is the global one. It is cut into equal pieces in order, one for each replica
of the student: the pieces of worker 0 come first. Put together again, the pieces are the batch of a
single device, to the bit. Piece `p` of step `s` is batch `s * num_pieces + p` of the same stream
with a smaller batch, so that a worker fetches only the images of its own pieces.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from streamkd.checks import check_count, check_types
from streamkd.errors import OptionError
from streamkd.public import public


@public
@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerSlice:
    """The pieces of one worker.

    Attributes:
      worker: its number, from 0.
      num_workers: processes that read; each has another slice.
      num_replicas: replicas of the student in this worker, such as its GPUs; each gets one piece of
        a batch.

    Raises:
      OptionError: a number out of range.
    """

    worker: int = 0
    num_workers: int = 1
    num_replicas: int = 1

    def __post_init__(self) -> None:
        check_count("num_workers", self.num_workers)
        check_count("num_replicas", self.num_replicas)
        check_types(WorkerSlice, vars(self))
        if not 0 <= self.worker < self.num_workers:
            raise OptionError(
                f"worker is {self.worker!r}, and there are {self.num_workers} workers.\n"
                f"Give a number from 0 to {self.num_workers - 1}."
            )

    @classmethod
    def of(cls, context: tf.distribute.InputContext) -> WorkerSlice:
        """Returns the slice of the worker that a strategy asks for its input."""
        return cls(
            worker=context.input_pipeline_id,
            num_workers=context.num_input_pipelines,
            num_replicas=context.num_replicas_in_sync // context.num_input_pipelines,
        )

    @property
    def num_pieces(self) -> int:
        """Number of pieces that a batch is cut into."""
        return self.num_workers * self.num_replicas

    def pieces(self, numbers: Any) -> Any:
        """Returns the pieces that this worker reads, counted from the first step of the run.

        Args:
          numbers: the worker's own pieces, from 0; int64, of any shape, NumPy or in the graph.
        """
        steps, replicas = numbers // self.num_replicas, numbers % self.num_replicas
        return (steps * self.num_workers + self.worker) * self.num_replicas + replicas

    def check_batch_size(self, batch_size: int, unit: int) -> None:
        """Refuses a global batch that cannot be cut into equal pieces.

        `unit` is the number of rows that stay together: those of a pair, or of a file's views.
        """
        multiple = self.num_pieces * unit
        if batch_size % multiple == 0:
            return
        fitting = -(-batch_size // multiple) * multiple
        together = "" if unit == 1 else f", {unit} neighbouring rows of which belong together"
        raise OptionError(
            f"batch_size is {batch_size}, and the batch is shared by {self.num_pieces} replicas "
            f"(workers: {self.num_workers}, replicas of each: {self.num_replicas}){together}.\n"
            f"Give a multiple of {multiple}: `--batch-size {fitting}`."
        )


# The slice of a worker that is alone.
WHOLE = WorkerSlice()
