"""Estimators of the bias of missing classes, on the students of `examples/omitted_digits.py`.

    python examples/omitted_digits.py --data mnist --out runs/omitted --seeds 1 2 3
    python tests/benchmarks/class_bias.py --data mnist --runs runs/omitted --seeds 1 2 3

Half of the 10,000 training images that neither teacher nor student has learned give each bias,
without their labels; the labels of the other half give the errors. Test images are not read.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import streamkd as kd
from streamkd.models.inference import compiled_answer
from streamkd.models.logits_head import logits_model
from streamkd.results.bias_estimators import match_frequencies, softmax
from streamkd.results.evaluated_model import open_model
from streamkd.results.teacher_logits import teacher_logits

KEPT = {"no 3s": (0, 1, 2, 4, 5, 6, 7, 8, 9), "7s and 8s alone": (7, 8)}
EM_ITERATIONS = 3000
# Numbers of unlabelled images, and random draws of each.
SIZES, NUM_DRAWS = (50, 200, 1000, 5000), 10


def answers(run: Path, images: kd.Manifest) -> np.ndarray:
    """Returns a run's logits of images, float64 `[num_images, 10]`."""
    size = min(1000, len(images))
    options = {"image_size": (28, 28), "color_mode": "grayscale", "shuffle": False}
    stream = kd.join(images, None, batch_size=size, **options)
    answer = compiled_answer(logits_model(open_model(run)).model)
    num_batches = -(-len(images) // size)
    rows = [np.asarray(answer(batch[0])) for batch in stream.batches(0, num_batches)]
    return np.concatenate(rows)[: len(images)].astype(np.float64)


def matched(logits: np.ndarray, missing: np.ndarray, wanted: np.ndarray, temperature: float = 1):
    """Returns the biases with which the mean probability at a temperature is what is wanted."""
    return temperature * match_frequencies(logits / temperature, missing, wanted)


def em_frequencies(logits: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Returns the class frequencies by the EM of Saerens, Latinne and Decaestecker (2002)."""
    ratios = softmax(logits) / prior
    frequencies = np.full(len(prior), 1 / len(prior))
    for _ in range(EM_ITERATIONS):
        posterior = ratios * frequencies
        frequencies = (posterior / posterior.sum(axis=1, keepdims=True)).mean(axis=0)
    return frequencies


def relative(log_ratios: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Returns biases of the missing classes against the mean of the others."""
    return log_ratios[missing] - np.delete(log_ratios, missing).mean()


def estimates(
    student: dict[str, np.ndarray],
    teacher: dict[str, np.ndarray],
    missing: np.ndarray,
    known: np.ndarray,
    held_out: np.ndarray,
) -> dict[str, np.ndarray]:
    """Returns the biases of each estimator, `[len(missing)]`.

    Args:
      student, teacher: logits of the transfer set and of the unlabelled images.
      missing: numbers of the missing classes.
      known: frequency of every class.
      held_out: the unlabelled images that are of a class of the transfer set.
    """
    tuned, images = student["transfer"], student["images"]
    prior = softmax(tuned).mean(axis=0)

    def of_teacher(name: str, temperature: float, rows: Any = slice(None)) -> np.ndarray:
        return softmax(teacher[name][rows] / temperature).mean(axis=0)[missing]

    centred = [
        z["transfer"] - z["transfer"].mean(axis=1, keepdims=True) for z in (teacher, student)
    ]
    found = {
        "none": np.zeros(len(missing)),
        "transfer set: mean logit difference": (centred[0] - centred[1]).mean(axis=0)[missing],
    }
    for t in (1, 20):
        bias = matched(tuned, missing, of_teacher("transfer", t), t)
        found[f"transfer set: the teacher's mean at {t}"] = bias
    bias = matched(images[held_out], missing, of_teacher("images", 1, held_out))
    found["held-out transfer images: the teacher's mean at 1"] = bias
    found["Menon: log(frequency / mean)"] = relative(np.log(known / prior), missing)
    frequencies = em_frequencies(images, prior)
    found["EM of Saerens"] = relative(np.log(frequencies / prior), missing)
    for t in (0.25, 1, 4):
        found[f"known frequencies at {t}"] = matched(images, missing, known[missing], t)
    found["1/10 at 1"] = matched(images, missing, np.full(len(missing), 0.1))
    for t in (1, 20):
        bias = matched(images, missing, of_teacher("images", t), t)
        found[f"the teacher's mean at {t}"] = bias
    return found


def num_errors(logits: np.ndarray, labels: np.ndarray, missing: np.ndarray, bias: Any) -> int:
    biased = logits.copy()
    biased[:, missing] += bias
    return int(np.sum(biased.argmax(axis=1) != labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory with train")
    parser.add_argument("--runs", type=Path, required=True, help="--out of the example")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    args = parser.parse_args()
    split = {"validation_split": 1 / 6, "seed": 1}
    learned = kd.scan(args.data / "train", subset="training", **split)
    others = kd.scan(args.data / "train", subset="validation", **split)
    fitted, judged = np.arange(len(others)) % 2 == 0, np.arange(len(others)) % 2 == 1
    known = np.bincount(learned.labels) / len(learned)
    labels = others.labels[judged]
    names = others.class_names or []
    store = kd.open_store(args.runs / "teacher.h5")
    of_teacher = {
        "others": teacher_logits(names, others, store, progress=False)[0],
        "learned": teacher_logits(names, learned, store, progress=False)[0],
    }
    for name, kept in KEPT.items():
        transfer = learned.select(np.flatnonzero(np.isin(learned.labels, kept)))
        missing = np.setdiff1d(np.arange(10), kept)
        held_out = np.isin(others.labels[fitted], kept)
        teacher = {
            "transfer": of_teacher["learned"][np.isin(learned.labels, kept)],
            "images": of_teacher["others"][fitted],
        }
        rows: dict[str, list[str]] = {}
        draws = np.random.default_rng(0)
        by_size: dict[str, list[int]] = {}
        for seed in args.seeds:
            run = args.runs / f"{len(transfer)}-images-{seed}"
            of_others = answers(run, others)
            student = {"transfer": answers(run, transfer), "images": of_others[fitted]}
            for estimator, bias in estimates(student, teacher, missing, known, held_out).items():
                errors = num_errors(of_others[judged], labels, missing, bias)
                rows.setdefault(estimator, []).append(f"{errors} ({bias.mean():.1f})")
            for size in SIZES:
                for _ in range(NUM_DRAWS):
                    number = len(student["images"])
                    drawn = draws.choice(number, min(size, number), replace=False)
                    wanted = {
                        "teacher": softmax(teacher["images"][drawn]).mean(axis=0)[missing],
                        "1/10": np.full(len(missing), 0.1),
                    }
                    for whose, frequencies in wanted.items():
                        bias = matched(student["images"][drawn], missing, frequencies)
                        errors = num_errors(of_others[judged], labels, missing, bias)
                        by_size.setdefault(f"{size} images, {whose}", []).append(errors)
        print(f"\n{name}: errors in {len(labels):,} (mean bias), by seed")
        for estimator, cells in rows.items():
            print(f"  {estimator:<52}{', '.join(cells)}")
        for drawn_by, counts in by_size.items():
            print(f"  {drawn_by:<52}{np.mean(counts):.0f} (worst {max(counts)})")


if __name__ == "__main__":
    main()
