"""The training loop, a loop written by hand, and `fit`, in one run.

    python tests/benchmarks/loop.py                      all students, about an hour
    python tests/benchmarks/loop.py --students mnist-cnn --families keras --part step
    python tests/benchmarks/loop.py --quick              a minute, to see that it works

Two parts, each with a table of CPU and wall time, and at the end the aims, met or not.

The step: the same batch again and again, in memory, for every contender. "streamkd" is the compiled
loop of `streamkd.training`; "bare" is the loop of `training_peers.py`, which adds up the loss and
nothing else; `fit` has the same loss by `pack_targets` and `packed_loss`. A call of any loop takes
the same number of steps, and the script waits for its result. An epoch of `fit` counts from its
begin to its end, without the overhead of the call of `fit` and without a progress bar. "jit
gradients" is XLA around forward and gradient, "jit update" around the optimizer's update, "jit
step" around all of it.

The epoch: `Distiller.fit` on CIFAR-10's JPEG files from the pixel cache, which an earlier epoch has
filled, and the same student's epoch in the bare loop on arrays in memory, whose batches are
gathered in the compiled loop. They take turns: the bare loop's epochs run in a callback of `fit`,
one for every choice of XLA, another one first in every round. CPU time counts until as many batches
are prepared ahead as before.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import keras
import numpy as np
import tensorflow as tf
import tf_keras
import training_peers as peers
from training_peers import GRADIENTS, OFF, STEP, STUDENTS, UPDATE, Student

import streamkd as kd
from streamkd.models.logits_head import logits_model
from streamkd.training.batch_loss import BatchLoss
from streamkd.training.epoch_sums import metrics_of
from streamkd.training.state import TrainingState
from streamkd.training.step import TrainingSteps

FAMILIES = {"tf_keras": tf_keras, "keras": keras}
# XLA of the bare loop. streamkd has the first three, `fit` the first and the last.
JITS = (OFF, GRADIENTS, UPDATE, STEP)
OURS, BARE, FIT = "streamkd", "bare", "fit"
EPOCH, BARE_EPOCH = "streamkd, from files by the cache", "bare, arrays in memory"
# Seconds until batches are prepared ahead again.
REST_SECS = 0.5
LARGE = "mobilenet"
Rounds = dict[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", nargs="+", choices=STUDENTS, help="by default all")
    parser.add_argument(
        "--families",
        nargs="+",
        choices=FAMILIES,
        help="by default tf_keras, and mnist-cnn in both",
    )
    parser.add_argument("--part", nargs="+", choices=["step", "epoch"], default=["step", "epoch"])
    parser.add_argument("--repeats", type=int, default=25, help="rounds of the step")
    # Rounds are short and many: what else the machine does then meets both of a pair.
    parser.add_argument("--seconds", type=float, default=0.3, help="of streamkd in a round")
    parser.add_argument("--epochs", type=int, default=7, help="counted epochs")
    parser.add_argument("--epoch-student", choices=STUDENTS, default="cifar-cnn")
    parser.add_argument("--epoch-images", type=int, default=50_000)
    parser.add_argument("--jit", default="auto", help="of the Distiller in the epochs")
    parser.add_argument("--quick", action="store_true", help="few steps; the numbers mean nothing")
    args = parser.parse_args()
    if args.quick:
        args.repeats, args.seconds, args.epochs, args.epoch_images = 2, 0.1, 2, 2000
        args.students = args.students or ["mnist-mlp"]
    # The teacher answers at once and is right by chance; the same batch need not be shuffled.
    warnings.filterwarnings("ignore", "The teacher .*is right on")
    warnings.filterwarnings("ignore", "`shuffle=True` was passed")
    lines = []
    if "step" in args.part:
        for student in (STUDENTS[name] for name in args.students or STUDENTS):
            families = args.families or ["tf_keras", *["keras"] * (student.name == "mnist-cnn")]
            for family in families:
                lines += aims_of_step(student.name, family, steps(student, family, args))
    if "epoch" in args.part:
        lines += aims_of_epoch(epochs(STUDENTS[args.epoch_student], args))
    print()
    for line in lines:
        print(line)


def streamkd_loop(model: Any, optimizer: Any, jit: str) -> TrainingSteps:
    """Returns the compiled loop that `Distiller.fit` calls."""
    optimizer.build(model.trainable_variables)
    logits = logits_model(model).model
    return TrainingSteps(
        logits,
        TrainingState(model, logits, optimizer),
        BatchLoss(temperature=peers.TEMPERATURE, label_weight=peers.LABEL_WEIGHT),
        jit=jit == GRADIENTS,
        jit_update=jit == UPDATE,
    )


def steps(student: Student, family_name: str, args: argparse.Namespace) -> Rounds:
    """Prints the table of the step of one student and returns its numbers."""
    family, batch = FAMILIES[family_name], student.batch()
    dataset = tf.data.Dataset.from_tensors(batch).repeat()
    loops: dict[str, Callable[[int], common.Taken]] = {}
    first_losses = {}
    for jit in (OFF, GRADIENTS, UPDATE):
        run, first_losses[OURS, jit] = streamkd_contender(student, family, dataset, jit)
        loops[f"{OURS}, jit {jit}"] = run
    for jit in JITS:
        run, first_losses[BARE, jit] = bare_contender(student, family, dataset, jit)
        loops[f"{BARE}, jit {jit}"] = run
    check_equal(first_losses)
    packed = tf.data.Dataset.from_tensors(kd.pack_targets(*batch)).repeat()
    loops[f"{FIT}, as it is"] = fit_contender(student, family, packed)
    for jit, flag in ((OFF, False), (STEP, True)):
        settings = {"jit_compile": flag, "steps_per_execution": student.steps_per_call}
        loops[f"{FIT}, best, jit {jit}"] = fit_contender(student, family, packed, **settings)
    num_calls = calls_of(loops[f"{OURS}, jit {OFF}"], student, args.seconds)
    num_steps = num_calls * student.steps_per_call
    rounds = common.measure_rounds(
        {name: lambda run=run: run(num_steps) for name, run in loops.items()}, repeats=args.repeats
    )
    print(
        f"\n{student.name}, {family_name}: {'x'.join(map(str, student.image_shape))}, batches of "
        f"{student.batch_size}, {student.build(family).count_params():,} parameters, "
        f"{student.steps_per_call} steps a call, {num_steps} in a round\n"
    )
    common.print_rounds(rounds, reference=fastest(rounds, OURS))
    return rounds


def streamkd_contender(
    student: Student, family: Any, dataset: tf.data.Dataset, jit: str
) -> tuple[Callable[[int], common.Taken], float]:
    """Returns a function that takes some steps, and the loss of the first step."""
    loop = streamkd_loop(student.build(family), peers.adam(family), jit)
    iterator = iter(dataset)
    loop.run(iterator, tf.constant(1))
    run = in_calls(student, lambda num_steps: loop.run(iterator, num_steps)[0])
    return run, metrics_of(loop.state.sums.numpy())["loss"]


def bare_contender(
    student: Student, family: Any, dataset: tf.data.Dataset, jit: str
) -> tuple[Callable[[int], common.Taken], float]:
    """Returns a function that takes some steps, and the loss of the first step."""
    loop = peers.BareLoop(student.build(family), peers.adam(family), jit)
    iterator = iter(dataset)
    loss = float(loop.run(iterator, tf.constant(1)))
    return in_calls(student, lambda num_steps: loop.run(iterator, num_steps)), loss


def in_calls(student: Student, call: Callable[[tf.Tensor], Any]) -> Callable[[int], common.Taken]:
    """Returns a function that takes some steps, several a call, and waits for every result."""

    def run(num_steps: int) -> common.Taken:
        clock = common.Clock()
        for _ in range(num_steps // student.steps_per_call):
            call(tf.constant(student.steps_per_call)).numpy()
        return clock.taken(num_steps * student.batch_size)

    return run


def fit_contender(
    student: Student, family: Any, packed: tf.data.Dataset, **settings: Any
) -> Callable[[int], common.Taken]:
    """Returns a function that takes some steps in one epoch of `fit`."""
    model = student.build(family)
    peers.compile_for_fit(model, family, **settings)

    def run(num_steps: int) -> common.Taken:
        clock = peers.epoch_clock(family, num_steps * student.batch_size)
        model.fit(packed, steps_per_epoch=num_steps, verbose=0, callbacks=[clock])
        return clock.epochs[0]

    return run


def check_equal(first_losses: dict[tuple[str, str], float]) -> None:
    """Refuses contenders whose first losses differ."""
    expected = first_losses[BARE, OFF]
    for name, loss in first_losses.items():
        if not np.isclose(loss, expected, rtol=1e-4):
            raise SystemExit(f"The first loss of {name} is {loss}, and of the bare loop {expected}")


def calls_of(run: Callable[[int], common.Taken], student: Student, seconds: float) -> int:
    """Returns how many calls take about `seconds`."""
    run(student.steps_per_call)
    return max(1, round(seconds / run(student.steps_per_call).wall))


def fastest(rounds: Rounds, name: str) -> str:
    """Returns the fastest contender whose name begins with `name`."""
    names = [other for other in rounds if other.startswith(name)]
    return min(names, key=lambda other: float(np.median(rounds[other][:, 0])))


def epochs(student: Student, args: argparse.Namespace) -> Rounds:
    """Prints the table of whole epochs and returns its numbers."""
    images = kd.scan(common.data_directory("cifar10") / "train")
    images = images.select(slice(0, None, max(1, len(images) // args.epoch_images)))
    with tempfile.TemporaryDirectory(prefix="streamkd-") as scratch:
        store = kd.teach(
            images,
            instant_teacher,
            Path(scratch) / "store.h5",
            progress=False,
            image_size=student.image_shape[:2],
        )
        stream = kd.join(images, store, batch_size=student.batch_size, seed=1, cache="memory")
        rounds = alternate(student, stream, args)
    print(
        f"\n{student.name}, tf_keras: epochs of {len(images):,} files of CIFAR-10, batches of "
        f"{student.batch_size}\n"
    )
    common.print_rounds(rounds, reference=EPOCH)
    return rounds


def alternate(student: Student, stream: kd.Stream, args: argparse.Namespace) -> Rounds:
    """Returns the time of epochs of both, one after the other."""
    bare = bare_epochs(student, stream)
    taken: dict[str, list[common.Taken]] = {name: [] for name in (EPOCH, *bare)}

    def run_bare() -> None:
        round_number = len(taken[next(iter(bare))])
        for name in common.rotated(bare, round_number):
            taken[name].append(bare[name]())

    num_images = stream.end_of_epoch(1) * student.batch_size
    clock = peers.epoch_clock(tf_keras, num_images, rest_secs=REST_SECS, after=run_bare)
    distiller = kd.Distiller(
        student.build(tf_keras),
        optimizer=peers.adam(tf_keras),
        temperature=peers.TEMPERATURE,
        label_weight=peers.LABEL_WEIGHT,
        jit=args.jit,
        steps_per_call=student.steps_per_call,
    )
    # The first epoch fills the cache and compiles; the last may be a batch shorter than others.
    distiller.fit(stream, epochs=args.epochs + 2, progress=False, callbacks=[clock])
    taken[EPOCH] = clock.epochs
    return {
        name: np.array([[t.wall / t.num_images, t.cpu / t.num_images] for t in epochs[1:-1]])
        for name, epochs in taken.items()
    }


def bare_epochs(student: Student, stream: kd.Stream) -> dict[str, Callable[[], common.Taken]]:
    """Returns functions that run an epoch in the bare loop, one for every choice of XLA."""
    pixels, labels, logits = in_memory(stream)
    random = np.random.default_rng(1)

    def epoch(loop: peers.BareLoop) -> common.Taken:
        num_steps = len(labels) // student.batch_size
        order = random.permutation(len(labels))[: num_steps * student.batch_size]
        rows = tf.constant(order.reshape(num_steps, student.batch_size))
        clock = common.Clock()
        loop.run_rows(pixels, labels, logits, rows).numpy()
        return clock.taken(len(order))

    loops = {}
    for jit in JITS:
        loop = peers.BareLoop(student.build(tf_keras), peers.adam(tf_keras), jit)
        loops[f"{BARE_EPOCH}, jit {jit}"] = lambda loop=loop: epoch(loop)
    return loops


def in_memory(stream: kd.Stream) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns pixels uint8, labels int32 and teacher logits float32 of one epoch of a stream."""
    parts = [
        (pixels.numpy().astype(np.uint8), targets["labels"][:, 0], targets["teacher_logits"])
        for pixels, targets, _ in stream.dataset(0, stream.end_of_epoch(1))
    ]
    return tuple(tf.constant(np.concatenate(part)) for part in zip(*parts, strict=True))


def instant_teacher(images: np.ndarray) -> np.ndarray:
    return (1 + images[:, 0, 0, :1] / 255) * np.arange(1, 11, dtype=np.float32)


def aims_of_step(student: str, family: str, rounds: Rounds) -> list[str]:
    """Returns one line for each aim that the step of one student decides."""
    ours = fastest(rounds, OURS)
    matched = [
        (f"{OURS}, jit {jit}", f"{BARE}, jit {jit}", 0.97) for jit in (OFF, GRADIENTS, UPDATE)
    ]
    compared = [
        *matched,
        (ours, fastest(rounds, BARE), 0.97),
        (ours, f"{FIT}, as it is", 1.0 if student == LARGE else 1.5),
        (ours, fastest(rounds, f"{FIT}, best"), 1.0 if student == LARGE else 1.1),
    ]
    return [verdict(f"{student}, {family}", rounds, *names) for names in compared]


def aims_of_epoch(rounds: Rounds) -> list[str]:
    return [verdict("epoch", rounds, EPOCH, fastest(rounds, BARE_EPOCH), 0.95)]


def verdict(title: str, rounds: Rounds, ours: str, other: str, at_least: float) -> str:
    """Returns whether `ours` is at least so many times as fast as `other`."""
    wall, cpu = np.median(rounds[other] / rounds[ours], axis=0)
    return common.verdict(f"{title}: '{ours}' x '{other}'", wall, cpu, at_least=at_least)


if __name__ == "__main__":
    main()
