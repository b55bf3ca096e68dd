"""Stock Keras callbacks in streamkd's loop: called as `fit` calls them, and saved with the run.

callbacks = KerasCallbacks([EarlyStopping("val_loss")], student, optimizer, epochs=30)
callbacks.epoch_end(0, {"loss": 0.5, "val_loss": 0.4})
callbacks.stops        # True once one of them set `model.stop_training`
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from streamkd.errors import OptionError
from streamkd.keras_family import KERAS_3
from streamkd.training.optimizers import has_schedule, inner_optimizer

# Set the learning rate, which a schedule forbids.
LEARNING_RATE = ("ReduceLROnPlateau", "LearningRateScheduler")
# Need no batch by itself: what they do at the end of a batch is right at the end of several.
CONTENT_WITH_SEVERAL = ("TerminateOnNaN",)
# Attributes that say what a callback was made with or for. Keras 3 changes the sign of `min_delta`
# once, when it first looks at the metric, and would do so again in a run that goes on.
NOT_FOUND_OUT = ("model", "_model", "params", "min_delta")
# Write files that several workers must not write at once; Keras 3 knows nothing of workers.
WRITERS = ("CSVLogger", "ModelCheckpoint", "TensorBoard")
BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")


def check_callbacks(callbacks: Sequence[Any], family: Any) -> None:
    """Refuses callbacks that are of the other Keras family, or that do what a run does.

    Raises:
      OptionError: names the callback.
    """
    for callback in callbacks:
        name = type(callback).__name__
        if not isinstance(callback, family.callbacks.Callback):
            package = type(callback).__module__.partition(".")[0]
            raise OptionError(
                f"The callback {name} belongs to {package}, and the student to "
                f"{family.__name__}.\nGive a callback of {family.__name__}.callbacks."
            )
        if name == "BackupAndRestore":
            raise OptionError(
                "BackupAndRestore sets the student back to the beginning of an epoch, and a run "
                "goes on by itself from the step it was stopped at.\n"
                "Leave it out, and give run='DIRECTORY'."
            )


def learning_rate_callback(callbacks: Sequence[Any]) -> str | None:
    """Returns the name of the first callback that sets the learning rate, if there is one."""
    for callback in callbacks:
        for base in type(callback).__mro__:
            if base.__name__ in LEARNING_RATE:
                return type(callback).__name__
    return None


def check_learning_rate(callbacks: Sequence[Any], optimizer: Any) -> None:
    """Refuses a callback that sets the learning rate of an optimizer that has a schedule."""
    name = learning_rate_callback(callbacks)
    if name is not None and has_schedule(optimizer):
        schedule = type(inner_optimizer(optimizer)._learning_rate).__name__
        raise OptionError(
            f"The learning rate follows a schedule, {schedule}, and the callback {name} would set "
            "it.\nGive schedule='constant' or an optimizer with a number as its learning rate, or "
            f"leave {name} out."
        )


class KerasCallbacks:
    """The callbacks of one call of `fit`.

    Attributes:
      wants_batches: whether one of them wants to be called after every single step.
    """

    def __init__(
        self,
        callbacks: Sequence[Any],
        student: Any,
        optimizer: Any,
        family: Any,
        *,
        epochs: int,
        is_chief: bool = True,
    ) -> None:
        """Args: `is_chief`, whether this is the worker, of several, that writes files."""
        self._callbacks = list(callbacks)
        self._names = _names(self._callbacks)
        self._student = student
        self._before = getattr(student, "optimizer", None)
        self._list: Any = None
        self._fresh: list[dict[str, Any]] = []
        self._hears_batches = any(map(_hears_batches, self._callbacks))
        self.wants_batches = any(map(_wants_batches, self._callbacks))
        if self._callbacks:
            student.optimizer = optimizer
            student.stop_training = False
            called = [c for c in self._callbacks if is_chief or not _writes_for_all(c, family)]
            self._list = family.callbacks.CallbackList(
                called, model=student, epochs=epochs, steps=None, verbose=0
            )

    def __len__(self) -> int:
        return len(self._callbacks)

    @property
    def stops(self) -> bool:
        return bool(self._callbacks) and bool(self._student.stop_training)

    def train_begin(self, saved: dict[str, Any] | None, arrays: dict[str, np.ndarray]) -> None:
        """Begins, and gives the callbacks what `state` returned when the run was stopped."""
        if self._list is None:
            return
        if saved is not None:
            for callback in self._callbacks:
                if type(callback).__name__ == "CSVLogger":
                    callback.append = True  # or it would empty its file
        self._list.on_train_begin()
        self._fresh = [_simple_attributes(callback) for callback in self._callbacks]
        self.restore(saved, arrays)

    def restore(self, saved: dict[str, Any] | None, arrays: dict[str, np.ndarray]) -> None:
        """Gives the callbacks what `state` returned."""
        for name, callback in zip(self._names, self._callbacks, strict=True):
            vars(callback).update((saved or {}).get(name, {}))
            vars(callback).update(_lists_of(arrays, name))

    def train_end(self) -> None:
        if self._list is not None:
            self._list.on_train_end()

    def close(self) -> None:
        """Gives the student its own optimizer back."""
        if self._callbacks:
            self._student.optimizer = self._before

    def epoch_begin(self, epoch: int) -> None:
        if self._list is not None:
            self._list.on_epoch_begin(epoch)

    def epoch_end(self, epoch: int, metrics: dict[str, Any]) -> dict[str, float]:
        """Calls them with the metrics; returns what they added, except the learning rate."""
        if self._list is None:
            return {}
        logs = known(metrics)
        before = {*logs, "lr", "learning_rate"}
        self._list.on_epoch_end(epoch, logs)
        return {name: float(value) for name, value in logs.items() if name not in before}

    def batch_begin(self, batch: int) -> None:
        if self._list is not None and self.wants_batches:
            self._list.on_train_batch_begin(batch)

    def batch_end(self, batch: int, metrics: Callable[[], dict[str, Any]]) -> None:
        if self._list is not None and self._hears_batches:
            counter = getattr(self._student, "_train_counter", None)
            if counter is not None:  # by which tf_keras' TensorBoard numbers its steps
                counter.assign(batch + 1)
            self._list.on_train_batch_end(batch, known(metrics()))

    def test_begin(self) -> None:
        if self._list is not None:
            self._list.on_test_begin()

    def test_end(self, metrics: dict[str, Any]) -> None:
        if self._list is not None:
            self._list.on_test_end(known(metrics))

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Returns what the callbacks found out so far: JSON, and arrays by name.

        It is what changed since the beginning in their numbers, words, and lists of arrays; what
        they were made with is the user's to say again.
        """
        saved: dict[str, Any] = {}
        arrays: dict[str, np.ndarray] = {}
        for name, callback, fresh in zip(self._names, self._callbacks, self._fresh, strict=True):
            now = _simple_attributes(callback)
            saved[name] = {what: now[what] for what in now if fresh.get(what, ()) != now[what]}
            for what, value in vars(callback).items():
                if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
                    arrays |= {f"{name}/{what}/{i}": array for i, array in enumerate(value)}
        return saved, arrays


def known(metrics: dict[str, Any]) -> dict[str, Any]:
    """Returns the metrics as `fit` logs them: numbers, without those that were not counted."""
    left_out = ("epoch", "step", "learning_rate", "images_per_second", "input_wait")
    return {
        name: value for name, value in metrics.items() if value is not None and name not in left_out
    }


def _writes_for_all(callback: Any, family: Any) -> bool:
    """Returns whether a callback writes files that are the same at every worker.

    Those of tf_keras that save the model do so on all workers together, the others' to a
    temporary place.
    """
    names = WRITERS if family.__name__ == KERAS_3 else WRITERS[:1]
    return type(callback).__name__ in names


def _wants_batches(callback: Any) -> bool:
    """Returns whether a callback has something to do after every single step."""
    kind = type(callback)
    if kind.__name__ in CONTENT_WITH_SEVERAL:
        return False
    if kind.__name__ == "TensorBoard":
        return callback.update_freq != "epoch"
    if kind.__name__ == "ModelCheckpoint":
        return callback.save_freq != "epoch"
    return _hears_batches(callback)


def _hears_batches(callback: Any) -> bool:
    """Returns whether a callback overrides what is called after a step."""
    bases = (base for base in type(callback).__mro__ if base.__name__ != "Callback")
    return any(hook in place for place in map(vars, (callback, *bases)) for hook in BATCH_HOOKS)


def _simple_attributes(callback: Any) -> dict[str, Any]:
    """Returns the attributes of a callback that JSON can hold."""
    found = {}
    for name, value in vars(callback).items():
        if name in NOT_FOUND_OUT:
            continue
        if isinstance(value, np.generic):
            value = value.item()
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            continue
        found[name] = json.loads(json.dumps(value))
    return found


def _names(callbacks: Sequence[Any]) -> list[str]:
    """Returns a name for each: its class, and its number among those of that class."""
    seen: dict[str, int] = {}
    names = []
    for kind in (type(callback).__name__ for callback in callbacks):
        seen[kind] = seen.get(kind, 0) + 1
        names.append(f"{kind}-{seen[kind]}")
    return names


def _lists_of(arrays: dict[str, np.ndarray], callback: str) -> dict[str, list[np.ndarray]]:
    """Returns the lists of arrays of one callback, by attribute."""
    lists: dict[str, dict[int, np.ndarray]] = {}
    for key, array in arrays.items():
        owner, name, number = key.split("/")
        if owner == callback:
            lists.setdefault(name, {})[int(number)] = array
    return {name: [found[i] for i in sorted(found)] for name, found in lists.items()}
