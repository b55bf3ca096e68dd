"""Stock Keras callbacks in streamkd's loop: called as `fit` calls them, and saved with the run.

callbacks = KerasCallbacks([EarlyStopping("val_loss")], student, optimizer, tf_keras, epochs=30)
callbacks.epoch_end(0, {"loss": 0.5, "val_loss": 0.4})
callbacks.stops        # True once one of them set `model.stop_training`

While they are called, the student has the optimizer of the run, as a compiled model has its own.
Between their calls it has what it had before: a student that the user compiled stays as it was.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from streamkd.models.families import KERAS_3
from streamkd.training.callback_checks import DIRECTIONS, is_kind_of, settle_direction

# Need no batch by itself: what they do at the end of a batch is right at the end of several.
EPOCH_LEVEL_CALLBACKS = ("TerminateOnNaN",)
# Attributes that say what a callback was made with or for. Keras 3 changes the sign of `min_delta`
# once, when it first looks at the metric, and would do so again in a run that goes on.
UNSAVED_ATTRIBUTES = ("model", "_model", "params", "min_delta")
# Write files that several workers must not write at once; Keras 3 knows nothing of workers.
WRITERS = ("CSVLogger", "ModelCheckpoint", "TensorBoard")
BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
TEST_BATCH_HOOKS = ("on_test_batch_begin", "on_test_batch_end")
# Columns of metrics.csv that `fit` does not log; a callback that sets the learning rate adds that.
UNLOGGED_METRICS = ("epoch", "step", "learning_rate", "images_per_second", "input_wait")
# What a callback of tf_keras calls the learning rate.
SHORT_LEARNING_RATE = "lr"
MISSING = object()


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
        self._optimizer = optimizer
        self._family = family
        self._epochs = epochs
        self._before: dict[str, Any] | None = None
        self._fresh: list[dict[str, Any]] = []
        self._left_to_chief = [
            callback
            for callback in self._callbacks
            if not is_chief and _writes_for_all(callback, family)
        ]
        self._logs: dict[str, Any] = {}
        # Of all workers alike: they take the same steps in a call, and read metrics together.
        self._hear_batches = [c for c in self._callbacks if _hears_batches(c)]
        self._hear_tests = [c for c in self._callbacks if _overrides(c, TEST_BATCH_HOOKS)]
        self.wants_batches = any(
            type(callback).__name__ not in EPOCH_LEVEL_CALLBACKS for callback in self._hear_batches
        )

    def __len__(self) -> int:
        return len(self._callbacks)

    @property
    def stops(self) -> bool:
        return self._before is not None and bool(self._student.stop_training)

    def train_begin(
        self,
        saved: dict[str, Any] | None,
        arrays: dict[str, np.ndarray],
        *,
        num_steps: int = 0,
        steps_per_epoch: int | None = None,
        directions: Mapping[str, str] | None = None,
    ) -> None:
        """Begins, and gives the callbacks what `state` returned when the run was stopped.

        Args:
          saved, arrays: of the run that goes on; None and nothing where one begins.
          num_steps: that were done.
          steps_per_epoch: None where epochs differ.
          directions: 'min' or 'max' by metric, of the user's metrics.
        """
        if not self._callbacks:
            return
        for callback in self._callbacks:
            settle_direction(callback, {**(directions or {}), **DIRECTIONS})
        names = ("optimizer", "stop_training")
        self._before = {name: vars(self._student).get(name, MISSING) for name in names}
        self._student.stop_training = False
        self._count(num_steps)
        self._call("set_model", self._student)
        self._call("set_params", {"verbose": 0, "epochs": self._epochs, "steps": steps_per_epoch})
        with self._appending() if saved is not None else contextlib.nullcontext():
            self._call("on_train_begin", {})
        self._fresh = [_simple_attributes(callback) for callback in self._callbacks]
        self.restore(saved, arrays)

    def restore(self, saved: dict[str, Any] | None, arrays: dict[str, np.ndarray]) -> None:
        """Gives the callbacks what `state` returned."""
        for name, callback in zip(self._names, self._callbacks, strict=True):
            vars(callback).update((saved or {}).get(name, {}))
            vars(callback).update(_lists_of(arrays, name))

    def train_end(self) -> None:
        self._call("on_train_end", self._logs)

    def close(self) -> None:
        """Gives the student back what it had."""
        for name, value in (self._before or {}).items():
            _set_attribute(self._student, name, value)
        self._before = None

    def epoch_begin(self, epoch: int) -> None:
        self._call("on_epoch_begin", epoch, {})

    def epoch_end(self, epoch: int, metrics: dict[str, Any]) -> dict[str, float]:
        """Calls them with the metrics; returns the numbers they added or changed, except the
        learning rate."""
        self._logs = known(metrics)
        before = dict(self._logs)
        self._call("on_epoch_end", epoch, self._logs)
        numbers = {name: _as_number(value) for name, value in self._logs.items()}
        left_out = (*UNLOGGED_METRICS, SHORT_LEARNING_RATE)
        return {
            name: number
            for name, number in numbers.items()
            if number is not None and name not in left_out and before.get(name) != number
        }

    def batch_begin(self, batch: int) -> None:
        self._call("on_train_batch_begin", batch, {}, to=self._hear_batches)

    def batch_end(self, batch: int, num_steps: int, metrics: Callable[[], dict[str, Any]]) -> None:
        """Calls them after a step, or several.

        Args:
          batch: number of the last step in its epoch, from 0.
          num_steps: of the whole run so far.
          metrics: returns those of the epoch so far.
        """
        if self._hear_batches:
            self._count(num_steps)
            self._call("on_train_batch_end", batch, known(metrics()), to=self._hear_batches)

    def test_begin(self) -> None:
        self._call("on_test_begin", {})

    def test_batch_begin(self, batch: int) -> None:
        self._call("on_test_batch_begin", batch, {}, to=self._hear_tests)

    def test_batch_end(self, batch: int, metrics: Callable[[], dict[str, Any]]) -> None:
        if self._hear_tests:
            self._call("on_test_batch_end", batch, _as_of_test(metrics()), to=self._hear_tests)

    def test_end(self, metrics: dict[str, Any]) -> None:
        self._call("on_test_end", _as_of_test(metrics))

    def _call(self, hook: str, *arguments: Any, to: Sequence[Any] | None = None) -> None:
        """Calls a hook of all callbacks, or of some, in the order in which they were given."""
        for callback in self._callbacks if to is None else to:
            if callback in self._left_to_chief:
                continue
            # What it saves is the student as it was given, and it looks at no optimizer.
            saves = type(callback) is self._family.callbacks.ModelCheckpoint
            with contextlib.nullcontext() if saves else self._lent_optimizer():
                getattr(callback, hook)(*arguments)

    @contextlib.contextmanager
    def _lent_optimizer(self) -> Iterator[None]:
        """Gives the student the optimizer of the run.

        Keras must not track it: whatever it once tracked is restored from a checkpoint as soon as
        another takes its place, and be it long after, when the user compiles the student.
        """
        own = vars(self._student).get("optimizer", MISSING)
        _set_attribute(self._student, "optimizer", self._optimizer)
        try:
            yield
        finally:
            _set_attribute(self._student, "optimizer", own)

    @contextlib.contextmanager
    def _appending(self) -> Iterator[None]:
        """Lets no CSVLogger empty its file."""
        loggers = [c for c in self._callbacks if is_kind_of(c, "CSVLogger")]
        before = [logger.append for logger in loggers]
        for logger in loggers:
            logger.append = True
        yield
        for logger, value in zip(loggers, before, strict=True):
            logger.append = value

    def _count(self, num_steps: int) -> None:
        """Sets the counter by which tf_keras' TensorBoard numbers its steps."""
        counter = getattr(self._student, "_train_counter", None)
        if counter is not None:
            counter.assign(num_steps)

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
    return {
        name: value
        for name, value in metrics.items()
        if value is not None and name not in UNLOGGED_METRICS
    }


def _writes_for_all(callback: Any, family: Any) -> bool:
    """Returns whether a callback writes files that are the same at every worker.

    Those of tf_keras that save the model do so on all workers together, the others' to a
    temporary place.
    """
    names = WRITERS if family.__name__ == KERAS_3 else WRITERS[:1]
    return type(callback).__name__ in names


def _as_of_test(metrics: dict[str, Any]) -> dict[str, Any]:
    """Returns the metrics of a validation as `evaluate` logs them."""
    return {name.removeprefix("val_"): value for name, value in known(metrics).items()}


def _as_number(value: Any) -> float | None:
    """Returns what a callback logged as a number; None where it is none."""
    if isinstance(value, str):
        return None
    try:
        return float(value) if np.ndim(value) == 0 else None
    except (TypeError, ValueError):
        return None


def _set_attribute(student: Any, name: str, value: Any) -> None:
    """Sets an attribute of a model past all that Keras does with it."""
    if value is MISSING:
        vars(student).pop(name, None)
    else:
        vars(student)[name] = value


def _hears_batches(callback: Any) -> bool:
    """Returns whether a callback has something to do after steps."""
    if is_kind_of(callback, "ModelCheckpoint") and callback.save_freq == "epoch":
        hooks = _overrides(callback, BATCH_HOOKS, but="ModelCheckpoint")
    elif is_kind_of(callback, "TensorBoard") and _rests_within_epochs(callback):
        hooks = _overrides(callback, BATCH_HOOKS, but="TensorBoard")
    else:
        hooks = _overrides(callback, BATCH_HOOKS)
    return hooks


def _rests_within_epochs(tensorboard: Any) -> bool:
    return tensorboard.update_freq == "epoch" and not tensorboard._should_trace


def _overrides(callback: Any, hooks: Sequence[str], but: str | None = None) -> bool:
    """Returns whether a callback has one of some hooks of its own; `but` is a class whose hooks do
    not count."""
    bases = (base for base in type(callback).__mro__ if base.__name__ not in ("Callback", but))
    return any(hook in place for place in map(vars, (callback, *bases)) for hook in hooks)


def _simple_attributes(callback: Any) -> dict[str, Any]:
    """Returns the attributes of a callback that JSON can hold."""
    found = {}
    for name, value in vars(callback).items():
        if name in UNSAVED_ATTRIBUTES:
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
