"""How exact the losses are: largest error against float64, beside the losses of Keras.

    python tests/benchmarks/losses.py [--cases 10000] [--seed 0]

Each case is a row of teacher and student logits and a label: normal ones of many sizes, a student
that is confidently wrong or right, equal rows, one class far above the others, logits in half
precision; 2, 10, 100 or 1,000 classes. The error of a loss is |loss − float64| / max(1, |float64|).
Besides, the largest error of the gradient with respect to the student's logits, for the divergence
at the temperature, whose gradient in float64 is T · (p_s − p_t), in parts of T. Keras' losses are
`keras.distillation.LogitsDistillation(temperature=4)` with its default loss, and with the loss
`KLDivergence()`. Both take the mean over a batch, so that
batches of one row are compared, of the first rows of each case.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

TEMPERATURE = 4.0
ROWS = 50
# Of these, the first are given to Keras' losses, one by one.
KERAS_ROWS = 4


def batches(num_cases: int, seed: int):
    """Yields (teacher, student, labels): float32 `[ROWS, num_classes]` twice, int `[ROWS]`."""
    random = np.random.default_rng(seed)
    for number in range(-(-num_cases // ROWS)):
        num_classes = (2, 10, 100, 1000)[number % 4]
        scale = 10.0 ** random.uniform(-2, 2)
        teacher, student = random.normal(0, scale, (2, ROWS, num_classes)).astype(np.float32)
        labels = random.integers(0, num_classes, ROWS)
        rows = np.arange(ROWS)
        match number // 4 % 5:
            case 1:  # confident disagreement
                teacher[rows, labels] += 60
                student[rows, labels - 1] += 60
            case 2:  # confident agreement
                teacher[rows, labels] += 60
                student[rows, labels] += 60
            case 3:
                student = teacher.copy()
            case 4:
                teacher, student = (
                    z.astype(np.float16).astype(np.float32) for z in (teacher, student)
                )
        yield teacher, student, labels


def our_losses():
    """Returns functions of (teacher, student, labels), and the same in float64, by name."""
    import loss_helpers
    import tensorflow as tf
    from run_helpers import distillation

    from streamkd.losses import batch_losses, logit_losses
    from streamkd.losses.distillation import distillation_loss

    pairs = {
        "kd": (
            lambda t, s, y: distillation_loss(t, s, temperature=TEMPERATURE),
            lambda t, s, y: distillation(t, s, TEMPERATURE),
        )
    }
    functions = {
        "mse": lambda t, s, y: logit_losses.logit_mse_loss(t, s),
        "hard": lambda t, s, y: logit_losses.hard_loss(t, s),
        "dkd": lambda t, s, y: logit_losses.dkd_loss(t, s, tf.constant(y)),
        "nkd": lambda t, s, y: logit_losses.nkd_loss(t, s, tf.constant(y)),
        "ttm": lambda t, s, y: logit_losses.ttm_loss(t, s),
        "wttm": lambda t, s, y: logit_losses.wttm_loss(t, s),
        "dist": lambda t, s, y: batch_losses.dist_loss(t, s),
        "mlkd": lambda t, s, y: batch_losses.mlkd_loss(t, s),
    }
    return pairs | {name: (f, loss_helpers.ORACLES[name]) for name, f in functions.items()}


def keras_losses():
    """Returns functions of (teacher, student) that give a loss for each row, by name."""
    import keras
    import tensorflow as tf

    def by_rows(**settings):
        distilled = keras.distillation.LogitsDistillation(temperature=TEMPERATURE, **settings)

        def losses(teacher, student):
            rows = zip(
                tf.split(teacher, len(teacher)), tf.split(student, len(student)), strict=True
            )
            return tf.stack([distilled.compute_loss(t, s) for t, s in rows])

        return losses

    return {
        "Keras, default": by_rows(),
        "Keras, KLDivergence()": by_rows(loss=keras.losses.KLDivergence()),
    }


def error_of(values, expected) -> float:
    difference = np.abs(np.asarray(values, np.float64) - expected)
    return float((difference / np.maximum(1, np.abs(expected))).max())


def gradient_error(function, teacher, student) -> float:
    """Returns the largest error of a gradient, in parts of T."""
    import tensorflow as tf
    from run_helpers import softmax

    watched = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        loss = tf.reduce_sum(function(tf.constant(teacher), watched))
    found = np.asarray(tape.gradient(loss, watched), np.float64) / TEMPERATURE
    softened = (softmax(z.astype(np.float64) / TEMPERATURE) for z in (teacher, student))
    on_teacher, on_student = softened
    return float(np.abs(found - (on_student - on_teacher)).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from run_helpers import distillation

    from streamkd.losses.distillation import distillation_loss

    ours, keras = our_losses(), keras_losses()
    errors = dict.fromkeys([*ours, *keras], 0.0)
    gradients = dict.fromkeys(["kd", *keras], 0.0)
    num_cases = 0
    for teacher, student, labels in batches(args.cases, args.seed):
        num_cases += len(teacher)
        exact = teacher.astype(np.float64), student.astype(np.float64)
        for name, (function, oracle) in ours.items():
            found = function(teacher, student, labels)
            errors[name] = max(errors[name], error_of(found, oracle(*exact, labels)))
        divergence = distillation(*exact, TEMPERATURE)
        for name, function in keras.items():
            found = function(teacher[:KERAS_ROWS], student[:KERAS_ROWS])
            errors[name] = max(errors[name], error_of(found, divergence[:KERAS_ROWS]))
        compared = {"kd": lambda t, s: distillation_loss(t, s, temperature=TEMPERATURE), **keras}
        for name, function in compared.items():
            rows = slice(None if name == "kd" else KERAS_ROWS)
            error = gradient_error(function, teacher[rows], student[rows])
            gradients[name] = max(gradients[name], error)
    print(f"{num_cases:,} cases; largest error of the loss, and of the gradient (1 is all of it)")
    for name, error in errors.items():
        gradient = f"{gradients[name]:.1e}" if name in gradients else ""
        print(f"{name:28} {error:.1e}  {gradient}")


if __name__ == "__main__":
    main()
