"""Large photographs decoded in part beside Keras' directory loaders, in speed and in quality.

    python tests/benchmarks/scaled_decoding.py

Makes two directories of JPEG files of 12 megapixels from ImageNet's photographs: each enlarged to
4000×3000 (Lanczos; no detail at the scale of a pixel), and mosaics of many of them as they are
(detail in every pixel). Of each it prints

  images per second and CPU time an image, one epoch of files read into batches of 224×224: streams
  of labels alone with decode='scaled' and 'exact', and `image_dataset_from_directory` of both Keras
  families; all in turn, in one process; what full decoding with antialiasing takes; and the limit
  of them all, TensorFlow's decoder at 1/8, or at the whole size, with nothing done to the pixels;

  PSNR in dB, mean over the images and the lowest, of scaled decoding, and of full decoding without
  antialiasing, which is what Keras gives; against two oracles of full decoding with antialiasing:
  Pillow's `Image.resize`, and `tf.image.resize(antialias=True)`, beside each other.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import keras
import numpy as np
import tensorflow as tf
import tf_keras
from PIL import Image

import streamkd as kd
from streamkd.image_options import ImageOptions
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
    scratch = Path(
        os.environ.get("STREAMKD_SCRATCH", Path(tempfile.gettempdir()) / "streamkd-data")
    )
    target = scratch / "large" / f"{kind}-{quality}-{num_images}"
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


def print_speed(directory: Path, image_size: tuple[int, int], batch_size: int, repeats: int):
    images = kd.scan(directory)
    num_batches = len(images) // batch_size
    arguments = {"image_size": image_size, "batch_size": batch_size, "seed": 1}
    datasets = {
        decode: kd.join(images, None, decode=decode, **arguments).dataset(0, num_batches)
        for decode in ("scaled", "exact")
    }
    datasets["tf_keras directory loader"] = keras_loader(
        tf_keras, directory, image_size, batch_size
    )
    datasets["Keras 3 directory loader"] = keras_loader(keras, directory, image_size, batch_size)
    datasets["full decoding, antialiased"] = decoder_alone(directory, 1, image_size)
    datasets["decoder alone, at 1/8"] = decoder_alone(directory, 8)
    datasets["decoder alone, whole"] = decoder_alone(directory, 1)
    contenders = {name: lambda d=dataset: run_through(d) for name, dataset in datasets.items()}
    common.print_table(common.measure(contenders, repeats=repeats), reference="scaled")


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
    parser.add_argument("--image-size", type=kd.options.parse_image_size, default=(224, 224))
    parser.add_argument("--batch-size", type=int, default=8)
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
        print_speed(directory, args.image_size, args.batch_size, args.repeats)
        print_quality(directory, args.image_size, args.num_compared)


if __name__ == "__main__":
    main()
