"""Stock Keras callbacks in streamkd's loop: called as `fit` calls them, and saved with the run.

callbacks = KerasCallbacks([EarlyStopping("val_loss")], student, optimizer, family, epochs=30)
callbacks.epoch_end(0, {"loss": 0.5, "val_loss": 0.4})
callbacks.stops        # True once a callback has set `model.stop_training`

During a call the student has the optimizer of the run, as a compiled model has its own. Between
calls it has its own attributes again: a student that the user compiled stays as it was.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from streamkd.models.family_base import Family
from streamkd.training.callback_checks import DIRECTIONS, is_kind_of, settle_direction

# Callbacks that may be called once after several steps, although they have a batch hook.
EPOCH_LEVEL_CALLBACKS = ("TerminateOnNaN",)
# Attributes that hold a callback's model or arguments. Keras 3 changes the sign of `min_delta` when
# it first looks at the metric, and would change it again in a resumed run.
UNSAVED_ATTRIBUTES = ("model", "_model", "params", "min_delta")
BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
TEST_BATCH_HOOKS = ("on_test_batch_begin", "on_test_batch_end")
# Columns of metrics.csv that `fit` does not log; callbacks that set the learning rate log it.
UNLOGGED_METRICS = ("epoch", "step", "learning_rate", "images_per_second", "input_wait")
# Name of the learning rate in the logs of tf_keras' callbacks.
SHORT_LEARNING_RATE = "lr"
# Value of an attribute that the student does not have.
MISSING = object()


class KerasCallbacks:
    """The callbacks of one call of `fit`.

    Args:
      callbacks: a list that `check_callbacks` returned.
      epochs: of the whole run.
      is_chief: whether this worker writes the files of the run.

    Attributes:
      wants_batches: whether a callback wants to be called after every single step.
    """

    def __init__(
        self,
        callbacks: Sequence[Any],
        student: Any,
        optimizer: Any,
        family: Family,
        *,
        epochs: int,
        is_chief: bool = True,
    ) -> None:
        self._callbacks = list(callbacks)
        self._names = _names(self._callbacks)
        self._student = student
        self._optimizer = optimizer
        self._family = family
        self._checkpoint_kind = family.keras.callbacks.ModelCheckpoint
        self._epochs = epochs
        self._before: dict[str, Any] | None = None  # the student's attributes
        self._fresh: list[dict[str, Any]] = []  # the callbacks' attributes as training begins
        self._left_to_chief = [
            callback
            for callback in self._callbacks
            if not is_chief and type(callback).__name__ in family.chief_only_callbacks
        ]
        self._logs: dict[str, Any] = {}
        # The same on all workers, which take the same steps in a call and read metrics together.
        self._hear_batches = [c for c in self._callbacks if _hears_batches(c, family)]
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
        """Begins training, and restores the callbacks of a resumed run.

        Args:
          saved, arrays: returned by `state` when the run was stopped; None and {} in a new run.
          num_steps: done so far.
          steps_per_epoch: None if epochs differ in length.
          directions: 'min' or 'max' by name, of the user's metrics.
        """
        if not self._callbacks:
            return
        for callback in self._callbacks:
            settle_direction(callback, self._family, {**(directions or {}), **DIRECTIONS})
        names = ("optimizer", "stop_training")
        self._before = {name: vars(self._student).get(name, MISSING) for name in names}
        self._student.stop_training = False
        self._family.count_steps(self._student, num_steps)
        self._call("set_model", self._student)
        self._call("set_params", {"verbose": 0, "epochs": self._epochs, "steps": steps_per_epoch})
        with self._appending() if saved is not None else contextlib.nullcontext():
            self._call("on_train_begin", {})
        self._fresh = [_simple_attributes(callback) for callback in self._callbacks]
        self.restore(saved, arrays)

    def restore(self, saved: dict[str, Any] | None, arrays: dict[str, np.ndarray]) -> None:
        """Gives the callbacks the attributes that `state` returned."""
        for name, callback in zip(self._names, self._callbacks, strict=True):
            vars(callback).update((saved or {}).get(name, {}))
            vars(callback).update(_lists_of(arrays, name))

    def train_end(self) -> None:
        self._call("on_train_end", self._logs)

    def close(self) -> None:
        """Gives the student its own attributes back."""
        for name, value in (self._before or {}).items():
            _set_attribute(self._student, name, value)
        self._before = None

    def epoch_begin(self, epoch: int) -> None:
        self._call("on_epoch_begin", epoch, {})

    def epoch_end(self, epoch: int, metrics: dict[str, Any]) -> dict[str, float]:
        """Calls the callbacks with an epoch's metrics; returns the numbers they added or changed.

        The learning rate is not among them.
        """
        self._logs = _logs_of(metrics)
        before = dict(self._logs)
        self._call("on_epoch_end", epoch, self._logs)
        numbers = {name: _as_number(value) for name, value in self._logs.items()}
        ignored = (*UNLOGGED_METRICS, SHORT_LEARNING_RATE)
        return {
            name: number
            for name, number in numbers.items()
            if number is not None and name not in ignored and before.get(name) != number
        }

    def batch_begin(self, batch: int) -> None:
        self._call("on_train_batch_begin", batch, {}, to=self._hear_batches)

    def batch_end(self, batch: int, num_steps: int, metrics: Callable[[], dict[str, Any]]) -> None:
        """Calls the callbacks after one or several steps.

        Args:
          batch: number of the last step in its epoch, from 0.
          num_steps: of the whole run so far.
          metrics: returns the metrics of the epoch so far.
        """
        if self._hear_batches:
            self._family.count_steps(self._student, num_steps)
            self._call("on_train_batch_end", batch, _logs_of(metrics()), to=self._hear_batches)

    def test_begin(self) -> None:
        self._call("on_test_begin", {})

    def test_batch_begin(self, batch: int) -> None:
        self._call("on_test_batch_begin", batch, {}, to=self._hear_tests)

    def test_batch_end(self, batch: int, metrics: Callable[[], dict[str, Any]]) -> None:
        if self._hear_tests:
            self._call("on_test_batch_end", batch, _test_logs_of(metrics()), to=self._hear_tests)

    def test_end(self, metrics: dict[str, Any]) -> None:
        self._call("on_test_end", _test_logs_of(metrics))

    def _call(self, hook: str, *arguments: Any, to: Sequence[Any] | None = None) -> None:
        """Calls a hook of all callbacks, or of those in `to`, in the order given."""
        for callback in self._callbacks if to is None else to:
            if callback in self._left_to_chief:
                continue
            # A ModelCheckpoint saves the student as the user gave it, and reads no optimizer.
            saves = type(callback) is self._checkpoint_kind
            with contextlib.nullcontext() if saves else self._lent_optimizer():
                getattr(callback, hook)(*arguments)

    @contextlib.contextmanager
    def _lent_optimizer(self) -> Iterator[None]:
        """Gives the student the optimizer of the run, past Keras' tracking.

        TensorFlow would later restore a tracked optimizer into the one that the user compiles with.
        """
        own = vars(self._student).get("optimizer", MISSING)
        _set_attribute(self._student, "optimizer", self._optimizer)
        try:
            yield
        finally:
            _set_attribute(self._student, "optimizer", own)

    @contextlib.contextmanager
    def _appending(self) -> Iterator[None]:
        """Lets CSVLoggers append to their files, which they would otherwise empty."""
        loggers = [c for c in self._callbacks if is_kind_of(c, "CSVLogger")]
        before = [logger.append for logger in loggers]
        for logger in loggers:
            logger.append = True
        yield
        for logger, value in zip(loggers, before, strict=True):
            logger.append = value

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Returns the callbacks' attributes that a checkpoint keeps: JSON, and arrays by name.

        They are numbers and texts that have changed since training began, and lists of arrays; the
        user gives a callback's arguments anew in every call of `fit`.
        """
        saved: dict[str, Any] = {}
        arrays: dict[str, np.ndarray] = {}
        for name, callback, fresh in zip(self._names, self._callbacks, self._fresh, strict=True):
            now = _simple_attributes(callback)
            saved[name] = {key: now[key] for key in now if fresh.get(key, ()) != now[key]}
            for key, value in vars(callback).items():
                if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
                    arrays |= {f"{name}/{key}/{i}": array for i, array in enumerate(value)}
        return saved, arrays


def _logs_of(metrics: dict[str, Any]) -> dict[str, Any]:
    """Returns the metrics that `fit` would log, except those without a value."""
    return {
        name: value
        for name, value in metrics.items()
        if value is not None and name not in UNLOGGED_METRICS
    }


def _test_logs_of(metrics: dict[str, Any]) -> dict[str, Any]:
    """Returns the metrics of a validation as `evaluate` logs them."""
    return {name.removeprefix("val_"): value for name, value in _logs_of(metrics).items()}


def _as_number(value: Any) -> float | None:
    """Returns a logged value as a number; None if it is no number."""
    if isinstance(value, str):
        return None
    try:
        return float(value) if np.ndim(value) == 0 else None
    except (TypeError, ValueError):
        return None


def _set_attribute(student: Any, name: str, value: Any) -> None:
    """Sets or removes an attribute of a model without Keras tracking it."""
    if value is MISSING:
        vars(student).pop(name, None)
    else:
        vars(student)[name] = value


def _hears_batches(callback: Any, family: Family) -> bool:
    """Returns whether a callback does something after steps."""
    if is_kind_of(callback, "ModelCheckpoint") and callback.save_freq == "epoch":
        return _overrides(callback, BATCH_HOOKS, ignored="ModelCheckpoint")
    if (
        is_kind_of(callback, "TensorBoard")
        and callback.update_freq == "epoch"
        and not family.is_tracing(callback)
    ):
        return _overrides(callback, BATCH_HOOKS, ignored="TensorBoard")
    return _overrides(callback, BATCH_HOOKS)


def _overrides(callback: Any, hooks: Sequence[str], ignored: str | None = None) -> bool:
    """Returns whether a callback overrides hooks, not counting those of the class `ignored`."""
    bases = (base for base in type(callback).__mro__ if base.__name__ not in ("Callback", ignored))
    return any(hook in vars(owner) for owner in (callback, *bases) for hook in hooks)


def _simple_attributes(callback: Any) -> dict[str, Any]:
    """Returns the attributes of a callback that JSON can hold."""
    attributes = {}
    for name, value in vars(callback).items():
        if name in UNSAVED_ATTRIBUTES:
            continue
        if isinstance(value, np.generic):
            value = value.item()
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            continue
        attributes[name] = json.loads(json.dumps(value))
    return attributes


def _names(callbacks: Sequence[Any]) -> list[str]:
    """Returns a name for each callback: its class, and its number within that class."""
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
    return {name: [numbered[i] for i in sorted(numbered)] for name, numbered in lists.items()}
