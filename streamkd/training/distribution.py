"""The workers that train one student together, and what they have to tell each other.

    workers = Workers.of(student)
    iterator = workers.iterate(lambda share: stream.dataset(start, share=share))
    if workers.any(stop()): ...            # the same answer on all of them

A worker is a process: `tf.distribute` gives each the same program. They wait for each other in
every step, so that whatever one of them decides by itself, by its clock or by a signal, is asked
of all before anything is done about it. One of them, the chief, keeps the run on its disk; the
others need no access to it.

Without a strategy there is one worker with one replica, and nothing here costs anything.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd import errors
from streamkd.errors import OptionError, StreamkdError, WorkerLostError
from streamkd.stream.order.worker_slice import WorkerSlice
from streamkd.tf_support.iterators import make_collectable

SUM = tf.distribute.ReduceOp.SUM
# What TensorFlow raises where another process is gone, and what it then says.
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
COLLECTIVE = "ollective"


class Workers:
    """All workers of a strategy, as one of them sees them.

    Attributes:
      strategy: over whose replicas each batch is spread.
      share: of this worker.
    """

    def __init__(self, strategy: Any) -> None:
        if isinstance(strategy, tf.distribute.ParameterServerStrategy):
            raise OptionError(
                "The student was built under ParameterServerStrategy, whose workers do not take "
                "their steps together.\nBuild it under MirroredStrategy or "
                "MultiWorkerMirroredStrategy."
            )
        self.strategy = strategy
        number, count = _place_in_cluster(strategy.cluster_resolver)
        self.share = WorkerSlice(
            worker=number,
            num_workers=count,
            num_replicas=strategy.num_replicas_in_sync // count,
        )
        self._sum = tf.function(self._sum_of_all, reduce_retracing=True, autograph=False)

    @property
    def is_chief(self) -> bool:
        """Whether this is the worker that keeps the run on its disk, and reports on it."""
        return self.share.worker == 0

    @property
    def is_alone(self) -> bool:
        return self.share.num_workers == 1

    def iterate(self, dataset_of: Callable[[WorkerSlice], tf.data.Dataset]) -> Any:
        """Returns an iterator for the compiled loop over the pieces of every batch.

        Args:
          dataset_of: returns this worker's pieces, without end.
        """
        pieces = self.strategy.distribute_datasets_from_function(
            lambda context: dataset_of(WorkerSlice.of(context))
        )
        return make_collectable(iter(pieces))

    def on_replicas(self, pieces: Sequence[Any]) -> Any:
        """Returns one value for each replica of this worker, as `strategy.run` takes them."""
        if self.share.num_pieces == 1:
            return pieces[0]
        first = self.share.worker * self.share.num_replicas
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: pieces[context.replica_id_in_sync_group - first]
        )

    def everyones(self, numbers: Sequence[float]) -> np.ndarray:
        """Returns what every worker gives, float64 `[num_workers, numbers]`, the same on all."""
        given = np.zeros((self.share.num_workers, len(numbers)))
        given[self.share.worker] = numbers
        return self._summed(given)

    def any(self, flag: bool) -> bool:
        """Returns whether any of the workers says True."""
        return bool(self.everyones([float(flag)]).any())

    def from_all(self, value: Any) -> list[Any]:
        """Returns a value of each worker, JSON, on all of them."""
        if self.is_alone:
            return [value]
        data = json.dumps(value).encode()
        lengths = self.everyones([len(data)])[:, 0].astype(np.int64)
        given = np.zeros((self.share.num_workers, -(-int(lengths.max()) // 8)), np.int64)
        given[self.share.worker].view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        found = self._summed(given)
        texts = [row.tobytes()[:length] for row, length in zip(found, lengths, strict=True)]
        return [json.loads(text) for text in texts]

    def bytes_from_chief(self, data: bytes) -> bytes:
        """Returns what the chief has, on all of them; what the others give is not looked at."""
        if self.is_alone:
            return data
        length = int(self.everyones([len(data)])[0, 0])
        given = np.zeros(-(-length // 8), np.int64)
        if self.is_chief:
            given.view(np.uint8)[:length] = np.frombuffer(data, np.uint8)
        return self._summed(given).tobytes()[:length]

    def from_chief(self, function: Callable[[], Any]) -> Any:
        """Returns what the chief's call of `function` returns, JSON, on all workers.

        Raises:
          StreamkdError: what the chief's call raised, on all of them as well.
        """
        if self.is_alone:
            return function()
        answer, refusal = None, None
        if self.is_chief:
            try:
                answer = {"value": function()}
            except StreamkdError as error:
                refusal = error
                answer = {"refusal": type(error).__name__, "message": str(error)}
        answer = json.loads(self.bytes_from_chief(json.dumps(answer).encode()))
        if refusal is not None:
            raise refusal
        if "refusal" in answer:
            raise getattr(errors, answer["refusal"])(answer["message"])
        return answer["value"]

    @contextlib.contextmanager
    def reading(self, variables: Sequence[Any]) -> Iterator[None]:
        """Lets the chief read variables of which each replica has a part, without the others.

        Reading one asks all workers for their parts. They do so now, together, and within this
        everybody knows the sum or the mean, as the variable has it.
        """
        spread = [] if self.is_alone else [v for v in variables if _is_spread(v)]
        with self.named_losses():
            values = [variable.read_value() for variable in spread]
        for variable, value in zip(spread, values, strict=True):
            variable._get_cross_replica = lambda value=value: value
        try:
            yield
        finally:
            for variable in spread:
                del variable._get_cross_replica

    def _summed(self, values: np.ndarray) -> np.ndarray:
        if self.is_alone:
            return values
        with self.named_losses():
            return self._sum(tf.constant(values)).numpy()

    def _sum_of_all(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the sum over all workers; of this one's replicas the first gives the values."""

        def on_replica(values: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            first = tf.equal(context.replica_id_in_sync_group % self.share.num_replicas, 0)
            return context.all_reduce(SUM, tf.where(first, values, tf.zeros_like(values)))

        summed = self.strategy.run(on_replica, args=(values,))
        return self.strategy.experimental_local_results(summed)[0]

    @contextlib.contextmanager
    def named_losses(self) -> Iterator[None]:
        """Says it where another worker is gone: this one cannot go on without it.

        Raises:
          WorkerLostError: instead of TensorFlow's error.
        """
        try:
            yield
        except LOST as error:
            if self.is_alone or COLLECTIVE not in str(error):
                raise
            raise WorkerLostError(
                f"Another worker of this run is gone: this is worker {self.share.worker} of "
                f"{self.share.num_workers}, and it cannot go on alone.\n"
                "Look at what the others say. Then start all of them again with the same commands: "
                "the run goes on from its newest checkpoint."
            ) from error


def _is_spread(variable: Any) -> bool:
    """Returns whether each replica writes to a variable for itself, until it is read."""
    on_read = tf.VariableSynchronization.ON_READ
    return variable.synchronization == on_read and hasattr(variable, "_get_cross_replica")


def _place_in_cluster(resolver: Any) -> tuple[int, int]:
    """Returns the number of this worker, the chief's being 0, and how many there are."""
    jobs = {} if resolver is None else resolver.cluster_spec().as_dict()
    num_chiefs, num_workers = len(jobs.get("chief", ())), len(jobs.get("worker", ()))
    if num_chiefs + num_workers < 2:
        return 0, 1
    number = resolver.task_id
    return (number if resolver.task_type == "chief" else num_chiefs + number), (
        num_chiefs + num_workers
    )
