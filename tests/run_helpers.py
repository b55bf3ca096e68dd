"""Students, runs, plain NumPy formulas, and the command line as a function, for tests of the loop.

distiller, history = fit(stream, student, run, epochs=2)
with killed(Checkpoints, "save", call=3, after=True):          # as a SIGKILL at that moment
    fit(stream, student, run)
code, answer, errors = command(capsys, "scan", directory)     # --json is added
assert snapshot(tmp_path) == before                          # nothing was written
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from streamkd.cli.main import main
from streamkd.cli.parser import build_parser

# For tests of lines that both families share: tf_keras takes its turn with `-m slow`.
SAME_LINES_FOR_BOTH = pytest.mark.parametrize(
    "family", [pytest.param("tf_keras", marks=pytest.mark.slow), "keras"], indirect=True
)


def in_pairs(name: str, *pairs: tuple[str, Any]) -> Any:
    """Parametrizes `family` and `name`: each pair of values in turn, and the others with `-m slow`.

    For tests of lines that both families share, with values that none of them sees: each family and
    each value is among the pairs.
    """
    families, values = (list(dict.fromkeys(column)) for column in zip(*pairs, strict=True))
    others = [(f, v) for f in families for v in values if (f, v) not in pairs]
    cases = [*pairs, *(pytest.param(*other, marks=pytest.mark.slow) for other in others)]
    return pytest.mark.parametrize(("family", name), cases, indirect=["family"])


# The keys of `evaluate --json`, which other programs rely on.
EVALUATION_KEYS = {
    "num_images",
    "accuracy",
    "top5_accuracy",
    "nll",
    "ece",
    "agreement",
    "kl_to_teacher",
    "teacher_accuracy",
    "num_errors",
    "num_parameters",
    "latency_ms",
}
# Arguments of `Distiller.fit`; the others of `fit` below are arguments of `Distiller`.
FIT_ARGUMENTS = (
    *("epochs", "validation", "resume", "callbacks", "class_weight", "save_every", "stop"),
    *("arguments", "progress", "extend"),
)


class KilledError(BaseException):
    """Stands for the end of the process: nothing catches it, and nothing is saved any more."""


@contextlib.contextmanager
def killed(owner: type, method: str, *, call: int = 1, after: bool = False) -> Iterator[None]:
    """Within it, the process ends at a call of a method, as far as a test can see.

    Args:
      owner, method: a class and the name of its method.
      call: number of the call, from 1.
      after: whether the call is still done.
    """
    real, calls = getattr(owner, method), itertools.count(1)

    def dying(*args: Any, **options: Any) -> Any:
        is_the_last = next(calls) == call
        if is_the_last and not after:
            raise KilledError
        result = real(*args, **options)
        if is_the_last:
            raise KilledError
        return result

    with mock.patch.object(owner, method, dying), pytest.raises(KilledError):
        yield


def fit(stream: Any, student: Any = None, run: Path | None = None, **options: Any) -> Any:
    """Trains with SGD, the quickest to compile, and without XLA unless `options` says otherwise.

    Args:
      stream: of `join`.
      student: by default the dense one.
      run: the run directory.
      options: of `Distiller` and of `Distiller.fit`.

    Returns:
      The distiller and the history.
    """
    from streamkd.training.distiller import Distiller

    fit_options = {name: options.pop(name) for name in FIT_ARGUMENTS if name in options}
    settings = {"optimizer": "sgd", "jit": "off", **options}
    distiller = Distiller(student or dense_student(), **settings)
    fit_options = {"epochs": 1, "progress": False, **fit_options}
    return distiller, distiller.fit(stream, run=run, **fit_options)


def make_steps(
    model: Any,
    optimizer: Any = None,
    *,
    temperature: float = 4.0,
    label_weight: float = 0.1,
    class_weights: Any = None,
    metrics: Any = None,
    **options: Any,
) -> Any:
    """Returns the compiled steps of a model that answers with logits.

    Args:
      model: of either family.
      optimizer: of that family; by default SGD of tf_keras.
      temperature, label_weight, class_weights: of the loss.
      metrics: `UserMetrics`, or None.
      options: of `TrainingSteps`.
    """
    import tf_keras

    from streamkd.training.batch_loss import BatchLoss
    from streamkd.training.state import TrainingState
    from streamkd.training.step import TrainingSteps

    optimizer = optimizer or tf_keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    loss = BatchLoss(
        temperature=temperature, label_weight=label_weight, class_weights=class_weights
    )
    if metrics is None:
        return TrainingSteps(model, TrainingState(model, model, optimizer), loss, **options)
    state = TrainingState(model, model, optimizer, metrics.metrics)
    return TrainingSteps(model, state, loss, update_metrics=metrics.update, **options)


def dense_student(
    family: Any = "tf_keras",
    *,
    num_classes: int = 3,
    image_size: tuple[int, int] = (8, 8),
    num_channels: int = 3,
    activation: str | None = "softmax",
    regularizer: Any = None,
    seed: int = 0,
) -> Any:
    """Returns one dense layer on pixels: cheap to compile, and the same to the bit every time."""
    family = importlib.import_module(family) if isinstance(family, str) else family
    layers = family.layers
    model = family.Sequential(
        [
            family.Input((*image_size, num_channels)),
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


def binary_cross_entropy(truths: Any, logits: Any) -> np.ndarray:
    """Returns −y·log(p) − (1 − y)·log(1 − p), mean over labels, float64 `[batch]`."""
    truths, logits = np.asarray(truths, np.float64), np.asarray(logits, np.float64)
    has, has_not = -np.log1p(np.exp(-logits)), -np.log1p(np.exp(logits))
    return -(truths * has + (1 - truths) * has_not).mean(axis=-1)


def sigmoid(logits: Any) -> np.ndarray:
    """Returns the probability of each label, float64."""
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def weights_of(model: Any) -> list[np.ndarray]:
    """Returns copies of all weights."""
    return [np.array(w) for w in model.get_weights()]


def same_weights(first: Any, second: Any) -> bool:
    """Returns whether two models have the same weights, to the bit."""
    pairs = zip(weights_of(first), weights_of(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def averages_of(family: Any, trajectory: list[list], momentum: float) -> list[list]:
    """Returns moving averages of weights, float64, for each entry of their trajectory.

    tf_keras begins with the first weights, Keras 3 with those after the first step.
    """
    first = trajectory[0] if family.__name__ == "tf_keras" else trajectory[1]
    averages = [[np.asarray(weight, np.float64) for weight in first]]
    for weights in trajectory[1:]:
        pairs = zip(averages[-1], weights, strict=True)
        averages.append([momentum * old + (1 - momentum) * new for old, new in pairs])
    return averages


def snapshot(directory: Path) -> dict[str, bytes | None]:
    """Returns every path below `directory` with its bytes; None for a folder."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
    }


def with_last_values(words: Any) -> list[str]:
    """Returns the words of a command, in which a flag of one value stands once, with its last.

    Tests add flags to words that would succeed, and a command refuses a flag that is given twice.
    """
    words = [*map(str, words)]
    parser = build_parser().commands.get(words[0]) if words else None
    flags = {} if parser is None else parser.arguments
    for first in range(len(words) - 1, -1, -1):
        word = words[first]
        argument = flags.get(word[2:]) if word.startswith("--") else None
        has_one = argument is not None and argument.nargs is None
        if has_one and type(argument).__name__ != "_AppendAction" and word in words[first + 1 :]:
            del words[first : first + 2]
    return words


def command(capsys: Any, *words: Any) -> tuple[int, dict[str, Any], str]:
    """Runs one command with --json; returns exit code, the one JSON object, standard error."""
    capsys.readouterr()
    code = main([*with_last_values(words), "--json"])
    out, errors = capsys.readouterr()
    assert len(out.splitlines()) == 1, f"one object, one line, and nothing else: {out!r}"
    return code, json.loads(out), errors


def refusal(capsys: Any, *words: Any) -> str:
    """Runs a command that must be refused, as a person would; returns the one message."""
    capsys.readouterr()
    code = main([*with_last_values(words), "--quiet"])
    out, errors = capsys.readouterr()
    assert code == 2, f"exit code {code}:\n{errors}"
    assert out == "" and "Traceback" not in errors
    assert errors.startswith("streamkd: ") and errors.count("streamkd: ") == 1, errors
    return errors.removeprefix("streamkd: ")
