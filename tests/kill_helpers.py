"""Processes to be killed, and started again a hundred times.

    child = start(command_line, ["train", ...], log)
    child.kill()

A process that has imported TensorFlow, but not used it, forks them: it takes seconds to import, and
a TensorFlow that was used does not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

IMPORTED_BEFORE = [
    "tensorflow",
    "tf_keras",
    "keras",
    "streamkd.cli.main",
    "streamkd.cli.train",
    "streamkd.training.distiller",
    "streamkd.store.collection",
    "streamkd.stream.join",
]


def start(function: Callable[..., None], *args: Any) -> BaseProcess:
    """Starts `function` in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED_BEFORE)
    process = context.Process(target=function, args=args, daemon=True)
    process.start()
    return process


def command_line(words: list[str], log: Path, temporary: Path) -> None:
    """Runs `streamkd` with some words, as a command of its own would.

    Args:
      words: of the command line.
      log: gets its output.
      temporary: for files that are not of the run.
    """
    from streamkd.cli.main import main

    os.environ["TMPDIR"] = str(temporary)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os._exit(main(words))


class Counted:
    """A model, its optimizer and the rest of a checkpoint, every number of which is its step."""

    def __init__(self, num_weights: int) -> None:
        import tf_keras

        layers = tf_keras.layers
        self.model = tf_keras.Sequential([layers.Input((num_weights // 4,)), layers.Dense(4)])
        self.optimizer = tf_keras.optimizers.SGD(1.0, momentum=0.9)
        self.optimizer.build(self.model.trainable_variables)
        self._variables = [*self.model.variables, *self.optimizer.variables]

    def checkpoints(self, directory: Path) -> Any:
        from streamkd.runs.checkpoint import Checkpoints

        return Checkpoints(directory, model=self.model, optimizer=self.optimizer)

    def become(self, step: int) -> None:
        for variable in self._variables:
            variable.assign(np.full(variable.shape, step, variable.dtype.as_numpy_dtype))

    def numbers(self) -> set[int]:
        """Returns the numbers that the variables consist of: one, unless two states are mixed."""
        return {int(n) for variable in self._variables for n in np.unique(variable.numpy())}


def save_for_ever(directory: Path, num_weights: int, acknowledged: Any) -> None:
    """Resumes from the newest checkpoint, and saves one step after the other.

    Args:
      directory: of the checkpoints.
      num_weights: of the model.
      acknowledged: a pipe, to which every step is written once it is saved.
    """
    counted = Counted(num_weights)
    checkpoints = counted.checkpoints(directory)
    checkpoints.remove_leftovers()
    restored = checkpoints.restore()
    step = 0 if restored is None else restored[0]["step"]
    while True:
        step += 1
        counted.become(step)
        arrays = {"of the callbacks": np.full(100, step)}
        # A step that has a checkpoint already must not be written over.
        for _ in range(1 + (step % 4 == 0)):
            checkpoints.save(step, {"value": step}, arrays=arrays)
        acknowledged.send(step)
