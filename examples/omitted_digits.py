"""Digits that the transfer set lacks (Hinton, Vinyals and Dean, arXiv:1503.02531, section 3).

    python examples/omitted_digits.py --data mnist --out runs/omitted --seeds 1 2 3

`mnist` holds train/<digit>/*.png (60,000 files) and test/<digit>/*.png (10,000), as
`tests/benchmarks/make_data.py` makes it. A teacher of two hidden layers of 1,200 learns 50,000 of
the training images. Students of two hidden layers of 800 learn from its soft targets alone, at
temperature 20:

- on a transfer set without any 3;
- on a transfer set of 7s and 8s alone.

The 10,000 other training images, of all digits and without their labels, tell the bias of the
missing digits: with it, the student expects each of them as often as the teacher does. The bias is
folded into the student's last layer. No label of a test image is used for anything but the count of
errors. The same command resumes a run that was stopped.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tf_keras
from mnist_hinton import PIXELS, build_student, build_teacher

import streamkd as kd

# Digits are the classes of every model here, whatever the folders of its images.
READ = {"class_names": [str(digit) for digit in range(10)], "progress": False}
# Digits that a transfer set keeps, epochs of its students, and the paper's errors in 10,000 before
# and after the bias, of all digits and of the missing ones where the paper says them.
EXPERIMENTS = {
    "no 3s": ((0, 1, 2, 4, 5, 6, 7, 8, 9), 10, ("206 (133)", "109 (14)")),
    "7s and 8s alone": ((7, 8), 20, ("4730", "1320")),
}


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    """Returns the settings; by default those with which the table was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory with train and test")
    parser.add_argument("--out", type=Path, default=Path("runs/omitted"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of the students")
    parser.add_argument("--temperature", type=float, default=20.0)
    parser.add_argument("--teacher-epochs", type=int, default=25)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    # Of `build_teacher`; jitter alone is enough for so few epochs.
    parser.set_defaults(input_dropout=0.0, hidden_dropout=0.0, max_norm=4.0)
    return parser.parse_args(words)


def split(args: argparse.Namespace, subset: str, labels: str | None = "inferred") -> kd.Manifest:
    """Returns 50,000 training images, or the 10,000 others."""
    options = {"validation_split": 1 / 6, "subset": subset, "seed": 1}
    return kd.scan(args.data / "train", labels=labels, **options)


def train_teacher(args: argparse.Namespace, images: kd.Manifest) -> kd.LogitStore:
    """Returns the teacher's logits of all training images."""
    tf_keras.utils.set_random_seed(1)
    teacher = kd.Distiller(
        build_teacher(args),
        optimizer="adam",
        learning_rate=args.learning_rate,
        label_weight=1.0,
        jit=True,
    )
    labels_only = kd.join(images, None, batch_size=256, seed=1, cache="memory", **PIXELS)
    teacher.fit(labels_only, epochs=args.teacher_epochs, run=args.out / "teacher")
    everything = kd.scan(args.data / "train")
    path = args.out / "teacher.h5"
    return kd.teach(everything, teacher.student, path, codec="float32", **PIXELS)


def train_student(
    args: argparse.Namespace, transfer: kd.Manifest, store: kd.LogitStore, epochs: int, seed: int
) -> Path:
    """Returns the run of a student that learned the soft targets of a transfer set."""
    tf_keras.utils.set_random_seed(seed)
    student = kd.Distiller(
        build_student(),
        optimizer="adam",
        learning_rate=args.learning_rate,
        temperature=args.temperature,
        label_weight=0.0,
        jit=True,
    )
    stream = kd.join(transfer, store, batch_size=128, seed=seed, cache="memory")
    run = args.out / f"{len(transfer)}-images-{seed}"
    student.fit(stream, epochs=epochs, run=run)
    return run


def count_errors(model: object, test: kd.Manifest, missing: np.ndarray) -> str:
    """Returns the errors on all test images, and in brackets those on the missing digits."""
    absent = test.select(np.flatnonzero(np.isin(test.labels, missing)))
    counts = [kd.evaluate(model, part, **READ).num_errors for part in (test, absent)]
    return f"{counts[0]} ({counts[1]})"


def main() -> None:
    args = parse_args()
    started = time.perf_counter()
    images, test = split(args, "training"), kd.scan(args.data / "test")
    unlabelled = split(args, "validation", labels=None)
    store = train_teacher(args, images)
    teacher_errors = kd.evaluate(args.out / "teacher", test).num_errors

    table = ["errors in 10,000 (on the missing digits): the paper, then here, by seed"]
    biases = ["biases:"]
    for name, (kept, epochs, paper) in EXPERIMENTS.items():
        transfer = images.select(np.flatnonzero(np.isin(images.labels, kept)))
        missing = np.setdiff1d(np.arange(10), kept)
        before, after = [], []
        for seed in args.seeds:
            run = train_student(args, transfer, store, epochs, seed)
            report = kd.fit_class_bias(run, unlabelled, transfer=transfer, store=store)
            repaired = kd.fold_class_bias(run, report)
            repaired.save(run / "repaired.keras")
            before.append(count_errors(run, test, missing))
            after.append(count_errors(repaired, test, missing))
            shown = ", ".join(f"{digit}: {bias:+.1f}" for digit, bias in report.bias.items())
            biases.append(f"  {name}, seed {seed}: {shown}")
        for when, theirs, ours in zip(("before", "after"), paper, (before, after), strict=True):
            table.append(f"{name + ', ' + when:<26}{theirs:>12}   {', '.join(ours)}")
    print(*table, f"{'teacher':<26}{67:>12}   {teacher_errors}", *biases, sep="\n")
    print(f"{(time.perf_counter() - started) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
