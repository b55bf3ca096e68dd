"""The workers that train one student together: their input, their agreement, their errors.

    workers = Workers(student.distribute_strategy)
    iterator = workers.iterate(lambda worker_slice: stream.dataset(start, share=worker_slice))
    stops = workers.everyones([stop()]).any()            # the same answer on all workers
    begun = workers.from_chief(lambda: read(path))

A worker is a process: `tf.distribute` gives each the same program. Workers wait for each other in
every step, so all agree on a decision that one would take by its own clock or signal. One worker,
the chief, keeps the run on its disk, to which the others need no access.

Without a strategy, one worker has one replica, and the methods cost no time.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import OptionError, StreamkdError, WorkerLostError
from streamkd.manifest.tables import key_fields, key_of_fields
from streamkd.stream.order.worker_slice import WorkerSlice
from streamkd.tf_support.iterators import make_collectable

SUM = tf.distribute.ReduceOp.SUM
# TensorFlow's errors when another process is gone, and a part of their message.
LOST_ERRORS = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
LOST_WORD = "ollective"


class Workers:
    """All workers of a strategy, seen from one of them.

    Attributes:
      strategy: spreads each batch over its replicas.
      worker_slice: this worker's slice of each batch.

    Raises:
      OptionError: the strategy is a ParameterServerStrategy.
    """

    def __init__(self, strategy: Any) -> None:
        if isinstance(strategy, tf.distribute.ParameterServerStrategy):
            raise OptionError(
                "The student was built under ParameterServerStrategy, whose workers do not take "
                "their steps together.\nBuild the student under MirroredStrategy or "
                "MultiWorkerMirroredStrategy."
            )
        self.strategy = strategy
        number, count = _number_in_cluster(strategy.cluster_resolver)
        self.worker_slice = WorkerSlice(
            worker=number, num_workers=count, num_replicas=strategy.num_replicas_in_sync // count
        )
        self._sum = tf.function(self._sum_of_all, reduce_retracing=True, autograph=False)

    @property
    def is_chief(self) -> bool:
        """Whether this worker keeps the run on its disk, and reports on it."""
        return self.worker_slice.worker == 0

    @property
    def is_alone(self) -> bool:
        """Whether this is the only worker."""
        return self.worker_slice.num_workers == 1

    def iterate(self, dataset_of: Callable[[WorkerSlice], tf.data.Dataset]) -> Any:
        """Returns an iterator for the compiled loop over this worker's pieces of every batch.

        `dataset_of` returns an endless dataset of these pieces.
        """
        pieces = self.strategy.distribute_datasets_from_function(
            lambda context: dataset_of(WorkerSlice.of(context))
        )
        return make_collectable(iter(pieces))

    def on_replicas(self, pieces: Sequence[Any]) -> Any:
        """Returns one value for each replica of this worker, as `strategy.run` takes them."""
        if self.worker_slice.num_pieces == 1:
            return pieces[0]
        first = self.worker_slice.worker * self.worker_slice.num_replicas
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: pieces[context.replica_id_in_sync_group - first]
        )

    def everyones(self, numbers: Sequence[float]) -> np.ndarray:
        """Returns every worker's numbers, float64 `[num_workers, numbers]`, on all workers."""
        given = np.zeros((self.worker_slice.num_workers, len(numbers)))
        given[self.worker_slice.worker] = numbers
        return self._summed(given)

    def from_all(self, value: Any) -> list[Any]:
        """Returns the value of each worker, JSON, on all workers."""
        if self.is_alone:
            return [value]
        data = json.dumps(value).encode()
        lengths = self.everyones([len(data)])[:, 0].astype(np.int64)
        given = np.zeros((self.worker_slice.num_workers, -(-int(lengths.max()) // 8)), np.int64)
        given[self.worker_slice.worker].view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        rows = self._summed(given)
        texts = [row.tobytes()[:length] for row, length in zip(rows, lengths, strict=True)]
        return [json.loads(text) for text in texts]

    def bytes_from_chief(self, data: bytes) -> bytes:
        """Returns the chief's bytes on all workers; the bytes of the others are ignored."""
        if self.is_alone:
            return data
        length = int(self.everyones([len(data)])[0, 0])
        given = np.zeros(-(-length // 8), np.int64)
        if self.is_chief:
            given.view(np.uint8)[:length] = np.frombuffer(data, np.uint8)
        return self._summed(given).tobytes()[:length]

    def from_chief(self, function: Callable[[], Any]) -> Any:
        """Calls `function` on the chief; returns its result, JSON, on all workers.

        Raises:
          StreamkdError: the refusal of the chief's call, with its image's key, on all workers.
        """
        if self.is_alone:
            return function()
        answer, refusal = None, None
        if self.is_chief:
            try:
                answer = {"value": function()}
            except StreamkdError as error:
                refusal = error
                answer = _refusal_fields(error)
        answer = json.loads(self.bytes_from_chief(json.dumps(answer).encode()))
        if refusal is not None:
            raise refusal
        if "refusal" in answer:
            raise _refusal_of_fields(answer)
        return answer["value"]

    @contextlib.contextmanager
    def reading(self, variables: Sequence[Any]) -> Iterator[None]:
        """Lets the chief read replica-local variables alone within this context.

        Such a variable is the sum or the mean of the replicas' values. Reading one asks all
        workers, so all fetch the values together, on entry.
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
        """Returns the sum over all workers; each worker's first replica gives its values."""

        def on_replica(values: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            first = tf.equal(context.replica_id_in_sync_group % self.worker_slice.num_replicas, 0)
            return context.all_reduce(SUM, tf.where(first, values, tf.zeros_like(values)))

        summed = self.strategy.run(on_replica, args=(values,))
        return self.strategy.experimental_local_results(summed)[0]

    @contextlib.contextmanager
    def named_losses(self) -> Iterator[None]:
        """Raises WorkerLostError instead of TensorFlow's error if another worker is gone."""
        try:
            yield
        except LOST_ERRORS as error:
            if self.is_alone or LOST_WORD not in str(error):
                raise
            raise WorkerLostError(
                f"Another worker of this run is gone: this is worker {self.worker_slice.worker} of "
                f"{self.worker_slice.num_workers}, and it cannot continue alone.\n"
                "Look at the messages of the others. Then start all workers again with the same "
                "commands: the run resumes from its newest checkpoint."
            ) from error


def _refusal_fields(refusal: StreamkdError) -> dict[str, Any]:
    """Returns a refusal as JSON."""
    key = {} if refusal.key is None else {"image": key_fields(refusal.key)}
    return {"refusal": type(refusal).__name__, "message": str(refusal), **key}


def _refusal_of_fields(fields: dict[str, Any]) -> StreamkdError:
    """Returns the refusal that `_refusal_fields` was given."""
    kinds = {kind.__name__: kind for kind in _kinds_of_refusal(StreamkdError)}
    key = key_of_fields(fields["image"]) if "image" in fields else None
    return kinds[fields["refusal"]](fields["message"], key=key)


def _kinds_of_refusal(kind: type[StreamkdError]) -> list[type[StreamkdError]]:
    """Returns a class of refusals and all classes derived from it, wherever they are defined."""
    return [kind, *(each for sub in kind.__subclasses__() for each in _kinds_of_refusal(sub))]


def _is_spread(variable: Any) -> bool:
    """Returns whether each replica writes a variable for itself until it is read."""
    on_read = tf.VariableSynchronization.ON_READ
    return variable.synchronization == on_read and hasattr(variable, "_get_cross_replica")


def _number_in_cluster(resolver: Any) -> tuple[int, int]:
    """Returns this worker's number, 0 for the chief, and the number of workers."""
    jobs = {} if resolver is None else resolver.cluster_spec().as_dict()
    num_chiefs, num_workers = len(jobs.get("chief", ())), len(jobs.get("worker", ()))
    if num_chiefs + num_workers < 2:
        return 0, 1
    first = 0 if resolver.task_type == "chief" else num_chiefs
    return first + resolver.task_id, num_chiefs + num_workers
