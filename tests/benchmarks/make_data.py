"""Makes the folders of images that benchmarks and slow tests read, from public archives.

    python tests/benchmarks/make_data.py --out data --cifar10 cifar-10-python.tar.gz
    python tests/benchmarks/make_data.py --out data --mnist train-images-idx3-ubyte.gz \\
        train-labels-idx1-ubyte.gz t10k-images-idx3-ubyte.gz t10k-labels-idx1-ubyte.gz
    export STREAMKD_DATA=data

Download the archives first; the script downloads nothing, and refuses an archive whose checksum is
another one.

  CIFAR-10  cifar-10-python.tar.gz, "CIFAR-10 python version", from the home page of the data set by
            Alex Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html
  MNIST     the four files train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz,
            t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz of "The MNIST database of
            handwritten digits" by Yann LeCun, Corinna Cortes and Christopher Burges

The script makes cifar10/train/<class>/*.jpg and cifar10/test/<class>/*.jpg (JPEG of quality 75),
mnist/train/<digit>/*.png and mnist/test/<digit>/*.png: 50,000, 10,000, 60,000 and 10,000 files.

Two more folders are copies of public files, which need no script:

  imagenet  The 1,000 photographs `*.JPEG` of the GitHub repository
            EliSchwartz/imagenet-sample-images, one of each ImageNet class, such as
            n01440764_tench.JPEG, all in one folder; sorted by name they are classes 0 to 999.
  tflite    Three quantised MobileNets of the GitHub repository google-coral/test_data, trained on
            ImageNet, with 1,001 outputs, of which 0 is background. SHA-256 of the files measured:
            mobilenet_v1_0.25_128_quant.tflite
              cb273c23ee76374b05b9583177e28aa19744858a7679c56a250e83d0333da785
            mobilenet_v1_0.75_192_quant.tflite
              41daeb22fdcf947e0e5ec32373aa9df7c31f3ef45dbd0ef7b5940fbce3c20f6a
            mobilenet_v2_1.0_224_quant.tflite
              7aad0c74c5e3c06e5eb3c827e13304fdd68a83da6087d92ee169c24ff9fd4776

Archives of the folders serve as well: cifar10.tar.gz and mnist.tar.gz, which begin with train/ and
test/, and imagenet-sample.tar, which holds the photographs.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# MD5 of the archives, by file name.
CHECKSUMS = {
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
CIFAR10_ARCHIVE = "cifar-10-python.tar.gz"
# Batches of the CIFAR-10 archive and the class names, below its only folder.
CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_PARTS = {
    "train": [f"data_batch_{number}" for number in range(1, 6)],
    "test": ["test_batch"],
}
CIFAR10_SIZE_PX = 32
JPEG_QUALITY = 75
MNIST_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
# First bytes of an idx file: two zeros, unsigned bytes, number of dimensions.
IDX_MAGIC = b"\x00\x00\x08"
# One image after the other: class name, uint8 pixels.
Images = Iterator[tuple[str, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder of all data sets")
    parser.add_argument("--cifar10", type=Path, metavar="ARCHIVE", help=CIFAR10_ARCHIVE)
    parser.add_argument("--mnist", type=Path, nargs=4, metavar="FILE", help="in any order")
    args = parser.parse_args()
    if args.cifar10 is None and args.mnist is None:
        parser.error("name the archives: --cifar10 ARCHIVE, --mnist FILE FILE FILE FILE, or both")
    if args.cifar10 is not None:
        print(make_cifar10(args.cifar10, args.out))
    if args.mnist is not None:
        print(make_mnist(args.mnist, args.out))


def make_cifar10(archive: Path, out: Path, *, checksums: dict[str, str] | None = CHECKSUMS) -> Path:
    """Returns the folder `cifar10` below `out`, made from CIFAR-10's archive for Python.

    Args:
      checksums: MD5 by file name; None compares nothing.
    """
    check({CIFAR10_ARCHIVE: archive}, checksums)
    with tarfile.open(archive) as files:
        names = unpickled(files, "batches.meta")[b"label_names"]

        def images(part: str) -> Images:
            for batch in CIFAR10_PARTS[part]:
                content = unpickled(files, batch)
                size = (3, CIFAR10_SIZE_PX, CIFAR10_SIZE_PX)
                pixels = content[b"data"].reshape(-1, *size).transpose(0, 2, 3, 1)
                for label, image in zip(content[b"labels"], pixels, strict=True):
                    yield names[label].decode("ascii"), image

        return make_folder(out / "cifar10", images, ".jpg", quality=JPEG_QUALITY)


def make_mnist(
    files: list[Path], out: Path, *, checksums: dict[str, str] | None = CHECKSUMS
) -> Path:
    """Returns the folder `mnist` below `out`, made from MNIST's four files.

    Args:
      files: in any order; they are known by their names.
      checksums: MD5 by file name; None compares nothing.
    """
    by_name = {file.name: file for file in files}
    missing = [name for pair in MNIST_FILES.values() for name in pair if name not in by_name]
    if missing:
        raise SystemExit(
            f"MNIST needs the file {missing[0]}; given were {', '.join(sorted(by_name))}.\n"
            "Give the four files under the names of their publisher."
        )
    check(by_name, checksums)

    def images(part: str) -> Images:
        pixels, labels = (read_idx(by_name[name]) for name in MNIST_FILES[part])
        for label, image in zip(labels.tolist(), pixels, strict=True):
            yield str(label), image

    return make_folder(out / "mnist", images, ".png")


def check(archives: dict[str, Path], checksums: dict[str, str] | None) -> None:
    """Refuses archives that are not there or have another checksum.

    Args:
      archives: paths by the names of `checksums`.
      checksums: MD5 by file name; None compares nothing.
    """
    for name, path in archives.items():
        if not path.is_file():
            raise SystemExit(f"There is no file {path}.\nDownload {name} first.")
        if checksums is None or name not in checksums:
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "md5").hexdigest()
        if digest != checksums[name]:
            raise SystemExit(
                f"{path} is not the public {name}.\n"
                f"  MD5 of the file:   {digest}\n"
                f"  MD5 of the public: {checksums[name]}\n"
                "Download it again."
            )


class ArraysOnly(pickle.Unpickler):
    """Unpickles NumPy arrays, numbers, bytes, lists and dictionaries, and refuses other classes."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]  # its module has another name in every NumPy
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise SystemExit(f"The archive wants {module}.{name}, which no batch of CIFAR-10 needs.")


def unpickled(files: tarfile.TarFile, name: str) -> dict[bytes, Any]:
    """Returns a batch of CIFAR-10, written by Python 2, whose keys are bytes."""
    file = files.extractfile(f"{CIFAR10_FOLDER}/{name}")
    assert file is not None
    return ArraysOnly(io.BytesIO(file.read()), encoding="bytes").load()


def read_idx(path: Path) -> np.ndarray:
    """Returns the uint8 array of an idx file: magic, sizes as big-endian uint32, numbers."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != IDX_MAGIC:
        raise SystemExit(f"{path} is no idx file of unsigned bytes.\nDownload it again.")
    num_dimensions = data[3]
    shape = np.frombuffer(data, ">u4", num_dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * num_dimensions).reshape(shape)


def make_folder(
    target: Path, images: Callable[[str], Images], suffix: str, **settings: Any
) -> Path:
    """Returns a folder with train/<class>/ and test/<class>/; it appears when it is complete.

    Args:
      target: must not exist.
      images: takes 'train' or 'test'.
      suffix: of the files, which are numbered in the archive's order.
      settings: of Pillow's `Image.save`.
    """
    if target.exists():
        raise SystemExit(f"{target} is there already.\nRemove it to make it again.")
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for part in ("train", "test"):
        for number, (class_name, pixels) in enumerate(images(part)):
            folder = unfinished / part / class_name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{number:05}{suffix}", **settings)
    unfinished.rename(target)
    return target


if __name__ == "__main__":
    main()
