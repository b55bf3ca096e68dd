"""Runs that are stopped and resumed, and their comparison with a run that never stopped.

fit(stream, student, run, stop=after(5))         # five steps
fit(stream, student, run)                        # the other steps
assert what_remains(run) == what_remains(whole)
"""

from __future__ import annotations

import csv
import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import run_helpers
import tensorflow as tf

from streamkd.runs.run_directory import COLUMNS
from streamkd.training.distiller import Distiller
from streamkd.training.history import History

# Columns of metrics.csv that a clock decides.
CLOCK_COLUMNS = ("images_per_second", "input_wait")


def restless_student(
    family: Any, *, seed: int = 0, dropout_seed: int | None = 4, first: tuple = ()
) -> Any:
    """Returns a student with all that can make a step depend on more than its weights.

    Args:
      family: the module `tf_keras` or `keras`, or its name.
      seed: of the weights.
      dropout_seed: of the dropout layer.
      first: layers before the others.
    """
    family = importlib.import_module(family) if isinstance(family, str) else family
    layers = family.layers
    model = family.Sequential(
        [
            family.Input((8, 8, 3)),
            *first,
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(6),
            layers.BatchNormalization(momentum=0.9),
            layers.Dropout(0.3, seed=dropout_seed),
            layers.Dense(3, activation="softmax"),
        ],
        name="restless",
    )
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(scale=0.3, size=weight.shape))
    return model


def after(num_calls: int) -> Callable[[], bool]:
    """Returns a `stop` for `fit` that is True from its call `num_calls` on; a call is a step."""
    calls = []
    return lambda: calls.append(None) or len(calls) >= num_calls


def fit(stream: Any, student: Any, run: Path | None, **options: Any) -> tuple[Distiller, History]:
    """Trains as `run_helpers.fit` does, one step a call: `after(n)` stops after n steps."""
    return run_helpers.fit(stream, student, run, **{"steps_per_call": 1, "epochs": 3, **options})


def checkpoints_of(run: Path) -> list[Path]:
    """Returns the checkpoints of a run, the oldest first; asserts that nothing else is there."""
    checkpoints = sorted((run / "checkpoints").iterdir())
    assert all(path.name.startswith("step-") and path.suffix == "" for path in checkpoints), (
        checkpoints
    )
    return checkpoints


def tensors_of(checkpoint: Path) -> dict[str, np.ndarray]:
    """Returns every tensor of a checkpoint by its name, as TensorFlow's reader has it."""
    reader = tf.train.load_checkpoint(str(checkpoint / "tensors"))
    names = sorted(reader.get_variable_to_shape_map())
    return {name: reader.get_tensor(name) for name in names if "OBJECT_GRAPH" not in name}


def digest_of(tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(tensors.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def metrics_of(run: Path) -> list[dict[str, str]]:
    """Returns the lines of metrics.csv without the columns that a clock decides."""
    with open(run / "metrics.csv", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert all(set(COLUMNS) <= set(row) for row in rows)
    return [{name: row[name] for name in row if name not in CLOCK_COLUMNS} for row in rows]


def what_remains(run: Path) -> tuple[str, list[dict[str, str]]]:
    """Returns a digest of all tensors of the last checkpoint, and the lines of metrics.csv."""
    return digest_of(tensors_of(checkpoints_of(run)[-1])), metrics_of(run)
