"""Codecs on logits of real teachers: bytes a row, fidelity, and how fast rows come back.

    nice python tests/benchmarks/codecs.py

Prints mean KL(true ‖ rebuilt) at T = 1, 2, 4, 20 for each codec, and how many times closer that is
than TinyViT's form: the 100 largest probabilities in half precision with their classes, and the
remaining probability spread evenly over the other classes (404 bytes, of which 4 are a seed).
Teachers: three MobileNets on 1,000 ImageNet photographs, and a small network on CIFAR-10, trained
here for a minute. Then microseconds to read 256 rows of 1,000 classes and to decode them.

A quantised MobileNet ends in probabilities of 8 bits, which would make every codec look good; its
logits are computed here in float from the input of its last layer, and kept in the folder
`codec-logits` of the scratch directory. `make_data.py --help` says where models and photographs
come from.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import numpy as np

from streamkd.store import codecs
from streamkd.store.codecs import fidelity

MOBILENETS = {
    "mobilenet_v2_1.0_224_quant": 224,
    "mobilenet_v1_0.75_192_quant": 192,
    "mobilenet_v1_0.25_128_quant": 128,
}
BACKGROUND = 0  # the output that is no class
FORMS = ["float32", "float16", "packed:8", "packed:8+1", "packed:4", "packed:4+16", "packed:3"]
FORMS += ["packed:3+8", "packed:3+28", "packed:2+153", "packed:0+100", "packed:0+133"]
SMALL_FORMS = [
    "float32",
    "float16",
    "packed:8",
    "packed:8+1",
    "packed:4",
    "packed:4+2",
    "packed:0+4",
]


def mobilenet_logits(name: str, size: int) -> np.ndarray:
    """Returns float32 `[1000, 1000]`, the logits of the photographs, background left out."""
    import tensorflow as tf

    path = common.data_root() / "tflite" / f"{name}.tflite"
    if not path.exists():
        raise SystemExit(f"There is no {path}.\n`make_data.py --help` says where it comes from.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the interpreter will move to another package
        model = tf.lite.Interpreter(str(path), experimental_preserve_all_tensors=True)
    model.allocate_tensors()
    tensors = model.get_tensor_details()
    pooled = next(t for t in tensors if "Logits" in t["name"] and t["name"].endswith("AvgPool"))
    kernel = next(t for t in tensors if len(t["shape"]) == 4 and t["shape"][0] == 1001)
    bias = next(t for t in tensors if t["shape"].tolist() == [1001] and t["dtype"] == np.int32)

    def real(tensor: dict) -> np.ndarray:
        scale, zero = tensor["quantization"]
        return (model.get_tensor(tensor["index"]).astype(np.float64) - zero) * scale

    matrix, offsets = real(kernel).reshape(1001, -1), real(bias)
    logits = []
    for file in sorted(common.data_directory("imagenet").glob("*.JPEG")):
        image = tf.io.decode_jpeg(tf.io.read_file(str(file)), channels=3)
        image = tf.image.resize(tf.image.central_crop(image, 0.875), (size, size))
        pixels = tf.cast(tf.round(image), tf.uint8)[None].numpy()
        model.set_tensor(model.get_input_details()[0]["index"], pixels)
        model.invoke()
        logits.append(matrix @ real(pooled).reshape(-1) + offsets)
    logits = np.delete(np.array(logits, np.float32), BACKGROUND, axis=1)
    print(f"{name}: right on {(logits.argmax(axis=1) == np.arange(1000)).mean():.1%}")
    return logits


def cifar_logits() -> np.ndarray:
    """Returns float32 `[10000, 10]`, the logits of the test images by a network trained here."""
    import tf_keras

    root = common.data_directory("cifar10")
    load = tf_keras.utils.image_dataset_from_directory
    train = load(root / "train", image_size=(32, 32), batch_size=128, seed=1).take(150).cache()
    test = load(root / "test", image_size=(32, 32), batch_size=500, shuffle=False)
    layers = tf_keras.layers
    model = tf_keras.Sequential([layers.Rescaling(1 / 255, input_shape=(32, 32, 3))])
    for width in (16, 32, 64):
        model.add(layers.Conv2D(width, 3, padding="same", use_bias=False))
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
        model.add(layers.MaxPool2D())
    model.add(layers.Flatten())
    model.add(layers.Dropout(0.3))
    model.add(layers.Dense(10))
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(train, epochs=6, verbose=0)
    print(f"CIFAR-10 network: right on {model.evaluate(test, verbose=0)[1]:.1%}")
    return model.predict(test, verbose=0).astype(np.float32)


def cached(name: str, make) -> np.ndarray:
    folder = common.scratch_directory() / "codec-logits"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.npy"
    if not path.exists():
        np.save(path, make())
    return np.load(path)


def tinyvit(logits: np.ndarray, num_kept: int) -> np.ndarray:
    """Returns the logarithm of the probabilities that TinyViT rebuilds from `num_kept` of a row."""
    exponents = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities = exponents / exponents.sum(axis=1, keepdims=True)
    kept = np.argsort(-probabilities, axis=1, kind="stable")[:, :num_kept]
    values = np.take_along_axis(probabilities, kept, axis=1).astype(np.float16).astype(np.float64)
    # Half precision may sum to more than 1 or round to 0; its smallest number stands in for 0.
    rest = np.maximum(1 - values.sum(axis=1, keepdims=True), 1e-12)
    rebuilt = np.repeat(rest / (logits.shape[1] - num_kept), logits.shape[1], axis=1)
    np.put_along_axis(rebuilt, kept, np.maximum(values, 6e-8), axis=1)
    return np.log(rebuilt)


def first_sketch(logits: np.ndarray) -> np.ndarray:
    """Returns logits rebuilt from 8 kept ones and 3 bits from the least to the largest other."""
    rebuilt = logits.astype(np.float16).astype(np.float64)
    order = np.argsort(-rebuilt, axis=1, kind="stable")[:, 8:]
    rest = np.take_along_axis(rebuilt, order, axis=1)
    lowest = rest.min(axis=1, keepdims=True)
    step = (rest.max(axis=1, keepdims=True) - lowest) / 7
    np.put_along_axis(rebuilt, order, lowest + step * np.rint((rest - lowest) / step), axis=1)
    return rebuilt


def print_fidelity(name: str, logits: np.ndarray, forms: list[str]) -> None:
    num_classes = logits.shape[1]
    num_kept = min(100, num_classes // 2)
    peer = tinyvit(logits, num_kept)
    peers = {f"TinyViT, {num_kept} kept": (4 + 4 * num_kept, peer)}
    if num_classes == 1000:
        peers["sketch: 8 kept in float16, 3 bits"] = (415, first_sketch(logits))
    print(f"\n{name}, {num_classes:,} classes, {len(logits):,} images")
    print(f"{'form':<34} {'bytes':>5}  top-1   KL at T = 1, 2, 4, 20             times closer")
    reference = [fidelity.divergence(logits, peer, t).mean() for t in fidelity.TEMPERATURES]
    for form, (num_bytes, rebuilt) in peers.items():
        lost = [fidelity.divergence(logits, rebuilt, t).mean() for t in fidelity.TEMPERATURES]
        same = (rebuilt.argmax(axis=1) == logits.argmax(axis=1)).mean()
        print_row(form, num_bytes, same, lost, reference)
    for form in forms:
        measured = fidelity.measure(codecs.get(form), logits)
        lost = list(measured.divergences.values())
        print_row(form, measured.num_bytes, measured.agreement, lost, reference)


def print_row(form: str, num_bytes: int, same: float, lost: list, reference: list) -> None:
    numbers = " ".join(f"{number:8.1e}" for number in lost)
    ratios = " ".join(
        f"{before / now:7.2g}" if now else "      -"
        for before, now in zip(reference, lost, strict=True)
    )
    print(f"{form:<34} {num_bytes:>5}  {same:6.1%}  {numbers}  {ratios}")


def print_speed(logits: np.ndarray, repeats: int) -> None:
    """Prints microseconds for batches of 256 rows out of 20,000, every codec in turn."""
    copies = 20_000 // len(logits)
    stored, encoding = {}, {}
    for form in FORMS:
        start = time.perf_counter()
        parts = codecs.get(form).encode(logits)
        encoding[form] = (time.perf_counter() - start) / len(logits)
        stored[form] = {n: np.tile(p, (copies, *[1] * (p.ndim - 1))) for n, p in parts.items()}
    reading: dict[str, list[float]] = {form: [] for form in FORMS}
    decoding: dict[str, list[float]] = {form: [] for form in FORMS}
    draw = np.random.default_rng(0)
    for round_number in range(repeats):
        rows = draw.integers(0, copies * len(logits), 256)
        for form in common.rotated(stored, round_number):
            start = time.perf_counter()
            batch = {name: part[rows] for name, part in stored[form].items()}
            between = time.perf_counter()
            codecs.get(form).decode(batch, logits.shape[1])
            reading[form].append(between - start)
            decoding[form].append(time.perf_counter() - between)
    print("\n256 rows of 1,000 classes, µs, medians; times of float16's; µs a row to encode")
    base = np.median(reading["float16"]) + np.median(decoding["float16"])
    for form in FORMS:
        read, decode = np.median(reading[form]), np.median(decoding[form])
        print(
            f"{form:<14} read {1e6 * read:5.0f}  decode {1e6 * decode:5.0f}  both "
            f"{(read + decode) / base:4.2f} of float16's  encode {1e6 * encoding[form]:5.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200, help="batches timed")
    args = parser.parse_args()
    teachers = {
        name: cached(name, lambda name=name, size=size: mobilenet_logits(name, size))
        for name, size in MOBILENETS.items()
    }
    cifar = cached("cifar10", cifar_logits)
    for name, logits in teachers.items():
        print_fidelity(name, logits, FORMS)
    print_fidelity("CIFAR-10 network", cifar, SMALL_FORMS)
    print_speed(next(iter(teachers.values())), args.repeats)


if __name__ == "__main__":
    main()
