"""Large photographs decoded in part and by Keras' directory loaders: speed and quality.

    python tests/benchmarks/scaled_decoding.py

Makes two directories of JPEG files of 12 megapixels from ImageNet's photographs: each enlarged to
4000×3000 (Lanczos; no detail at the scale of a pixel), and mosaics of many of them as they are
(detail in every pixel). Of each it prints

  images per second and CPU time an image, one epoch of files read into batches of 224×224: streams
  of labels alone with decode='scaled' and 'exact', and `image_dataset_from_directory` of both Keras
  families; full decoding with antialiasing; and the limit of them all, TensorFlow's decoder at 1/8
  or at the whole size, with no work on the pixels. All run in turn in one process, another one
  first in every round, at each of the batch sizes; printed are all of them;

  PSNR in dB, mean over the images and the lowest, of scaled decoding, and of full decoding without
  antialiasing, as Keras decodes; against two oracles of full decoding with antialiasing, Pillow's
  `Image.resize` and `tf.image.resize(antialias=True)`, and of the oracles against each other.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import keras
import numpy as np
import tensorflow as tf
import tf_keras
from PIL import Image

import streamkd as kd
from streamkd.image_options import ImageOptions, parse_image_size
from streamkd.pixels.decode import decode

WIDTH, HEIGHT = 4000, 3000
KINDS = ("enlarged", "mosaic")


def photographs() -> list[Path]:
    return sorted(common.data_directory("imagenet").rglob("*.JPEG"))


def load(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def mosaic(rng: random.Random, paths: list[Path]) -> Image.Image:
    """Returns rows of photographs at their own size; each row is as high as its lowest."""
    whole, top = Image.new("RGB", (WIDTH, HEIGHT)), 0
    while top < HEIGHT:
        row, left = [], 0
        while left < WIDTH:
            row.append((left, load(rng.choice(paths))))
            left += row[-1][1].width
        for left, image in row:
            whole.paste(image, (left, top))
        top += min(image.height for _, image in row)
    return whole


def large_photographs(kind: str, quality: int, num_images: int) -> Path:
    """Returns a directory with one class folder of large JPEG files, made at the first call."""
    target = common.scratch_directory() / "large" / f"{kind}-{quality}-{num_images}"
    if target.exists():
        return target
    folder = target.with_name(f"{target.name}.tmp") / "photographs"
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths = random.Random(1), photographs()
    chosen = rng.sample(paths, num_images)
    for number, path in enumerate(chosen):
        if kind == "enlarged":
            image = load(path).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        else:
            image = mosaic(rng, paths)
        image.save(folder / f"{number:03}.jpg", quality=quality)
    folder.parent.rename(target)
    return target


def keras_loader(family, directory: Path, image_size: tuple[int, int], batch_size: int):
    dataset = family.utils.image_dataset_from_directory(
        directory, image_size=image_size, batch_size=batch_size, shuffle=True, seed=1
    )
    return dataset.prefetch(tf.data.AUTOTUNE)


def decoder_alone(
    directory: Path, ratio: int, image_size: tuple[int, int] | None = None
) -> tf.data.Dataset:
    """Returns every file decoded at 1/ratio of its size, and resized with antialiasing if asked."""
    paths = tf.data.Dataset.from_tensor_slices(sorted(map(str, directory.rglob("*.jpg"))))

    def decoded(path: tf.Tensor) -> tuple[tf.Tensor]:
        pixels = tf.image.decode_jpeg(tf.io.read_file(path), channels=3, ratio=ratio)
        if image_size is None:
            return (tf.shape(pixels)[:1],)
        return (tf.image.resize(pixels, image_size, antialias=True)[None],)

    return paths.map(decoded, num_parallel_calls=tf.data.AUTOTUNE)


def run_through(dataset: tf.data.Dataset) -> int:
    return sum(len(pixels) for pixels, *_ in dataset)


def print_speed(
    directory: Path, image_size: tuple[int, int], batch_sizes: list[int], repeats: int
) -> None:
    """Prints one epoch of every contender, at every batch size that it has."""
    images = kd.scan(directory)
    datasets = {}
    for size in batch_sizes:
        for way in ("scaled", "exact"):
            options = {"image_size": image_size, "batch_size": size, "seed": 1}
            stream = kd.join(images, None, decode=way, **options)
            datasets[f"{way}, batch {size}"] = stream.dataset(0, len(images) // size)
        for name, family in (("tf_keras", tf_keras), ("Keras 3", keras)):
            loader = keras_loader(family, directory, image_size, size)
            datasets[f"{name} directory loader, batch {size}"] = loader
    datasets["full decoding, antialiased"] = decoder_alone(directory, 1, image_size)
    datasets["decoder alone, at 1/8"] = decoder_alone(directory, 8)
    datasets["decoder alone, whole"] = decoder_alone(directory, 1)
    contenders = {name: lambda d=dataset: run_through(d) for name, dataset in datasets.items()}
    measured = common.measure(contenders, repeats=repeats)
    reference = common.best(measured, "scaled")
    assert reference is not None
    common.print_table(measured, reference=reference)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio of pixels 0 to 255, in dB."""
    return float(10 * np.log10(255**2 / np.mean((np.float64(one) - np.float64(other)) ** 2)))


def print_quality(directory: Path, image_size: tuple[int, int], num_images: int) -> None:
    names = ("scaled", "exact", "TensorFlow's oracle")
    against: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for path in sorted(directory.rglob("*.jpg"))[:num_images]:
        data = path.read_bytes()
        pillow = np.asarray(load(path).resize(image_size[::-1], Image.Resampling.BILINEAR))
        full = tf.io.decode_image(data, channels=3, expand_animations=False)
        smooth = tf.image.resize(full, image_size, antialias=True).numpy()
        for way in names[:2]:
            pixels = decode(tf.constant(data), ImageOptions(image_size=image_size, decode=way))
            against[way].append((psnr(pixels, pillow), psnr(pixels, smooth)))
        against[names[2]].append((psnr(smooth, pillow), np.inf))
    print(f"{'PSNR in dB: mean, lowest':<26} {'Pillow':>15} {'TensorFlow':>15}")
    for name, pairs in against.items():
        columns = [f"{np.mean(c):8.1f} {np.min(c):6.1f}" for c in np.transpose(pairs)]
        print(f"{name:<26} {columns[0]} {columns[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-images", type=int, default=64, help="of each kind")
    parser.add_argument("--quality", type=int, default=92, help="of the JPEG files")
    parser.add_argument("--image-size", type=parse_image_size, default=(224, 224))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--num-compared", type=int, default=16, help="images whose PSNR is taken")
    args = parser.parse_args()
    for kind in KINDS:
        directory = large_photographs(kind, args.quality, args.num_images)
        sizes = [path.stat().st_size for path in directory.rglob("*.jpg")]
        print(
            f"\n{kind}: {len(sizes)} photographs of {WIDTH}x{HEIGHT}, quality {args.quality}, "
            f"{np.mean(sizes) / 1e6:.1f} MB each, to {args.image_size}"
        )
        print_speed(directory, args.image_size, args.batch_sizes, args.repeats)
        print_quality(directory, args.image_size, args.num_compared)


if __name__ == "__main__":
    main()
