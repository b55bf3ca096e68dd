"""The memory of a training run: epoch after epoch, and at ten thousand and a million images.

    python tests/benchmarks/training_memory.py                     about ten minutes
    python tests/benchmarks/training_memory.py --keep DIRECTORY    uses what was made again
    python tests/benchmarks/training_memory.py --quick             two minutes, to see that it works

Two tables of private memory (`RssAnon` of `/proc/self/status`, after the C library has returned
free memory), in which mapped files and the page cache do not count. Every run is in a process of
its own, with a run directory, so that it saves as runs do. Linux.

The first: 20 epochs on 10,000 files of CIFAR-10, with validation, from files and from the pixel
cache, read after every epoch. Aim: from the third epoch to the last it grows by less than 1 %.

The second: the same number of steps on 10,000 and on a million images, made as in
`stream_scale.py`. "Joined" is the manifest, labels and rows on top of the imports, and grows with
them; the memory of the run on top of that should not.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import stream_scale
from stream_scale import BATCH, IMAGE_SIZE, MIB, NUM_FILES, private_mib

# The epoch after which memory should be flat: the first epoch compiles and fills the cache.
FIRST_FLAT_EPOCH = 3
# The largest growth from that epoch to the last.
MAX_GROWTH = 0.01
PROCESS = "all but manifest and rows, MiB"
# The largest ratio of two sizes. The allocator alone makes a difference of some MiB.
MAX_RATIO = 1.05
VALIDATION_IMAGES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--part", nargs="+", choices=["epochs", "sizes"], default=["epochs", "sizes"]
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--num-files", type=int, default=NUM_FILES, help="of the epochs")
    parser.add_argument("--images", type=int, nargs="+", default=[NUM_FILES, 10**6])
    parser.add_argument("--steps", type=int, default=2048, help="at every size")
    parser.add_argument("--keep", type=Path, help="where stores stay; a temporary one by default")
    parser.add_argument("--quick", action="store_true", help="few steps; the numbers mean little")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.num_files, args.images, args.steps = 640, [NUM_FILES, 2 * NUM_FILES], 96
    if args.child:
        name, *rest = args.child
        print(json.dumps({"epochs": run_epochs, "size": run_size}[name](args, *rest)))
        return
    directory = args.keep or Path(tempfile.mkdtemp(prefix="streamkd-"))
    try:
        lines = []
        if "epochs" in args.part:
            lines += epochs_table([answer(args, "epochs", cache) for cache in ("none", "memory")])
        if "sizes" in args.part:
            for num_images in args.images:
                stream_scale.Child("make", directory, num_images).close()
            sizes = sorted(args.images)
            said = {n: answer(args, "size", str(directory), str(n)) for n in sizes}
            lines += sizes_table(said)
        print()
        for line in lines:
            print(line)
    finally:
        if not args.keep:
            shutil.rmtree(directory)


def answer(args: argparse.Namespace, *child: str) -> Any:
    """Returns the answer of a child."""
    command = [sys.executable, __file__, "--epochs", str(args.epochs), "--steps", str(args.steps)]
    command += ["--num-files", str(args.num_files), *["--quick"] * args.quick, "--child", *child]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def epochs_table(readings: list[list[float]]) -> list[str]:
    """Prints the memory after every epoch, and returns the aims, met or not."""
    titles = ("from files", "from the cache")
    print(f"\n{'MiB after epoch':<16}" + "".join(f"{title:>18}" for title in titles))
    for epoch, row in enumerate(zip(*readings, strict=True), start=1):
        print(f"{epoch:<16}" + "".join(f"{mib:>18.1f}" for mib in row), flush=True)
    lines = []
    for title, mib in zip(titles, readings, strict=True):
        grown = mib[-1] / mib[FIRST_FLAT_EPOCH - 1] - 1
        met = "met" if grown < MAX_GROWTH else "not met"
        lines.append(
            f"{met:<8} {title}: {grown:+.2%} from epoch {FIRST_FLAT_EPOCH} to {len(mib)}, "
            f"less than {MAX_GROWTH:.0%}"
        )
    return lines


def sizes_table(said: dict[int, dict[str, float]]) -> list[str]:
    """Prints the memory at every size side by side, and returns the aim, met or not."""
    sizes = list(said)
    print(f"\n{'':<40}" + "".join(f"{size:>14,}" for size in sizes))
    for title in said[sizes[0]]:
        print(f"{title:<40}" + "".join(f"{said[size][title]:>14.1f}" for size in sizes))
    small, large = (said[size][PROCESS] for size in (sizes[0], sizes[-1]))
    met = "met" if large <= MAX_RATIO * small else "not met"
    return [
        f"{met:<8} {PROCESS}: {large:.0f} at {sizes[-1]:,} images, {small:.0f} at {sizes[0]:,} "
        f"({large / small:.3f}, at most {MAX_RATIO})"
    ]


# The rest runs in the children.


def run_epochs(args: argparse.Namespace, cache: str) -> list[float]:
    """Returns the memory after every epoch of a run, in MiB."""
    prepare()
    import streamkd as kd

    images = kd.scan(common.data_directory("cifar10") / "train")
    validation = kd.scan(common.data_directory("cifar10") / "test")
    images = images.select(slice(None, None, len(images) // args.num_files))
    validation = validation.select(slice(None, None, len(validation) // VALIDATION_IMAGES))
    readings: list[float] = []
    with tempfile.TemporaryDirectory(prefix="streamkd-") as scratch:
        store = kd.teach(
            images, teacher, Path(scratch) / "store.h5", image_size=IMAGE_SIZE, progress=False
        )
        stream = kd.join(
            images, store, batch_size=BATCH, seed=1, cache=None if cache == "none" else cache
        )
        distiller().fit(
            stream,
            epochs=args.epochs,
            validation=validation,
            run=Path(scratch) / "run",
            progress=False,
            callbacks=[after_epochs(lambda: readings.append(settled_mib()))],
        )
    return readings


def run_size(args: argparse.Namespace, directory: str, num_images: str) -> dict[str, float]:
    """Returns the memory of a run of so many steps, in MiB."""
    prepare()
    import streamkd as kd
    import streamkd.stream.join
    import streamkd.training.distiller

    student = distiller()
    images_file = Path(directory) / f"{num_images}.jsonl"
    values = {"imports and student, MiB": settled_mib()}
    images = kd.scan(images_file)
    stream = kd.join(images, images_file.with_suffix(".h5"), batch_size=BATCH, seed=1)
    values["joined, MiB"] = settled_mib()

    def stop() -> bool:
        return int(student.recipe.optimizer.iterations) >= args.steps

    with common.PeakMemory() as peak, tempfile.TemporaryDirectory(prefix="streamkd-") as scratch:
        epochs = args.steps // stream.end_of_epoch(1) + 1
        student.fit(stream, epochs=epochs, run=Path(scratch) / "run", progress=False, stop=stop)
        values["steps"] = float(student.recipe.optimizer.iterations)
        values["at the peak, MiB"] = peak.num_bytes / MIB
    values["at the end, MiB"] = settled_mib()
    itself = values["at the end, MiB"] - values["joined, MiB"]
    values["the run itself, MiB"] = itself
    values[PROCESS] = values["imports and student, MiB"] + itself
    return values


def prepare() -> None:
    """Prepares the process before it imports TensorFlow."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", "The teacher .*is right on")


def settled_mib() -> float:
    """Returns the private memory after the garbage collector has run, in MiB."""
    gc.collect()
    return private_mib()


def teacher(images: np.ndarray) -> np.ndarray:
    return (1 + images[:, 0, 0, :1] / 255) * np.arange(1, 11, dtype=np.float32)


def distiller() -> Any:
    """Returns a distiller with a student so small that it is soon done."""
    import tf_keras

    import streamkd as kd

    layers = tf_keras.layers
    inputs = layers.Input((*IMAGE_SIZE, 3))
    pixels = layers.Rescaling(1 / 255)(inputs)
    for filters in (8, 16):
        pixels = layers.Conv2D(filters, 3, strides=2, use_bias=False)(pixels)
        pixels = layers.ReLU()(layers.BatchNormalization()(pixels))
    outputs = layers.Dense(10)(layers.GlobalAveragePooling2D()(pixels))
    optimizer = tf_keras.optimizers.Adam(1e-3)
    return kd.Distiller(tf_keras.Model(inputs, outputs), optimizer=optimizer, steps_per_call=32)


def after_epochs(work: Callable[[], None]) -> Any:
    """Returns a callback that does some work after every epoch."""
    import tf_keras

    class AfterEpochs(tf_keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            work()

    return AfterEpochs()


if __name__ == "__main__":
    main()
