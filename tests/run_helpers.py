"""Students, plain NumPy formulas, and the command line as a function, for tests of the loop.

code, answer, errors = command(capsys, "scan", directory)     # --json is added
assert snapshot(tmp_path) == before                          # nothing was written
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from streamkd.cli.main import main


class KilledError(BaseException):
    """The process ends, as it were: nothing catches it, and nothing is saved any more."""


# A process of ours that takes longer hangs: importing TensorFlow takes 20 s on a loaded machine.
MAX_SECONDS = 600
ROOT = Path(__file__).resolve().parent.parent


def dense_student(
    family: Any = "tf_keras",
    *,
    num_classes: int = 3,
    image_size: tuple[int, int] = (8, 8),
    activation: str | None = "softmax",
    regularizer: Any = None,
    seed: int = 0,
) -> Any:
    """Returns one dense layer on pixels: cheap to compile, and the same to the bit every time."""
    family = importlib.import_module(family) if isinstance(family, str) else family
    layers = family.layers
    model = family.Sequential(
        [
            family.Input((*image_size, 3)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(num_classes, activation=activation, kernel_regularizer=regularizer),
        ],
        name="dense",
    )
    rng = np.random.default_rng(seed)
    shapes = [w.shape for w in model.get_weights()]
    model.set_weights([rng.normal(scale=0.1, size=s).astype(np.float32) for s in shapes])
    return model


def drifting_model(family: Any = "tf_keras") -> Any:
    """Returns a model that answers otherwise each time it is saved and loaded.

    A layer of it says in its configuration twice the factor by which it multiplies.
    """
    family = importlib.import_module(family) if isinstance(family, str) else family

    @family.saving.register_keras_serializable("streamkd_tests")
    class Drifting(family.layers.Layer):
        def __init__(self, factor: float = 1.0, **options: Any) -> None:
            super().__init__(**options)
            self.factor = factor

        def call(self, inputs: Any) -> Any:
            return self.factor * inputs

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "factor": 2 * self.factor}

    return family.Sequential([family.Input((8, 8, 3)), Drifting(), dense_student(family)])


def exact_teacher(family: Any = "tf_keras", *, num_classes: int = 3) -> Any:
    """Returns a teacher, ending in softmax, that is right about every image of `draw_image`.

    Those hold the class k in blue, and 2kb - k² is largest where b = k.
    """
    model = dense_student(family, num_classes=num_classes)
    numbers = np.arange(num_classes, dtype=np.float32)
    kernel = np.zeros((8, 8, 3, num_classes), np.float32)
    kernel[:, :, 2] = 4 * 2 * numbers * 255 / 64
    model.set_weights([kernel.reshape(-1, num_classes), -4 * numbers**2])
    return model


def softmax(logits: Any) -> np.ndarray:
    """Returns probabilities, float64."""
    return np.exp(log_softmax(logits))


def log_softmax(logits: Any) -> np.ndarray:
    """Returns log-probabilities, float64."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def distillation(teacher: Any, student: Any, temperature: float) -> np.ndarray:
    """Returns temperature² · KL(teacher ‖ student), float64 `[batch]`."""
    p = log_softmax(np.asarray(teacher, np.float64) / temperature)
    q = log_softmax(np.asarray(student, np.float64) / temperature)
    return temperature**2 * (np.exp(p) * (p - q)).sum(axis=-1)


def cross_entropy(labels: Any, student: Any) -> np.ndarray:
    """Returns the cross-entropy with labels `[batch]` at temperature 1, float64 `[batch]`."""
    labels = np.asarray(labels)
    return -log_softmax(student)[np.arange(len(labels)), labels]


def weights_of(model: Any) -> list[np.ndarray]:
    """Returns copies of all weights."""
    return [np.array(w) for w in model.get_weights()]


def same_weights(first: Any, second: Any) -> bool:
    """Returns whether two models have the same weights, to the bit."""
    pairs = zip(weights_of(first), weights_of(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def snapshot(directory: Path) -> dict[str, bytes | None]:
    """Returns every path below `directory` with its bytes; None for a folder."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
    }


def process(*words: Any, **options: Any) -> subprocess.Popen:
    """Starts Python with some words, as a user would from any directory."""
    # With a UTF-8 locale, Python's standard output refuses what is not UTF-8.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8:strict"}
    return subprocess.Popen(
        [sys.executable, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
        **options,
    )


def finished(*words: Any, code: int = 0, **options: Any) -> tuple[str, str]:
    """Runs Python with some words to its end; returns standard output and standard error.

    Args:
      words: after the name of the interpreter.
      code: the exit code that it must have.
      options: of `subprocess.Popen`.
    """
    running = process(*words, **options)
    try:
        out, errors = running.communicate(timeout=MAX_SECONDS)
    finally:
        running.kill()
    assert running.returncode == code, errors
    return out, errors


def command(capsys: Any, *words: Any) -> tuple[int, dict[str, Any], str]:
    """Runs one command with --json; returns exit code, the one JSON object, standard error."""
    capsys.readouterr()
    code = main([*map(str, words), "--json"])
    out, errors = capsys.readouterr()
    assert len(out.splitlines()) == 1, f"one object, one line, and nothing else: {out!r}"
    return code, json.loads(out), errors


def refusal(capsys: Any, *words: Any) -> str:
    """Runs a command that must be refused, as a person would; returns the one message."""
    capsys.readouterr()
    code = main([*map(str, words), "--quiet"])
    out, errors = capsys.readouterr()
    assert code == 2, f"exit code {code}:\n{errors}"
    assert out == "" and "Traceback" not in errors
    assert errors.startswith("streamkd: ") and errors.count("streamkd: ") == 1, errors
    return errors.removeprefix("streamkd: ")
