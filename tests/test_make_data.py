"""The folders that `benchmarks/make_data.py` makes from CIFAR-10's and MNIST's public archives."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import sys
import tarfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

import streamkd as kd


@pytest.fixture
def make_data(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "benchmarks"))
    import make_data

    return make_data


class Python2Pickler(pickle._Pickler):
    """Writes strings and arrays as Python 2 and its NumPy wrote them into CIFAR-10's batches."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def save_bytes(self, data):
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)

    def save_text(self, text):
        self.save_bytes(text.encode("ascii"))

    def save_global(self, value, name=None):
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{name or value.__name__}\n".encode())

    dispatch[bytes] = save_bytes
    dispatch[str] = save_text
    dispatch[type] = save_global


def python2_pickle(content):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue()


def write_cifar10(path, batches):
    """Writes an archive of CIFAR-10's form."""
    files = {"batches.meta": python2_pickle({b"label_names": [b"cat", b"dog"]})} | batches
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def cifar10_batch(first):
    """Returns two images, a red cat and a blue dog whose green is the number of the image."""
    data = np.zeros((2, 3, 32, 32), np.uint8)
    data[0, 0], data[1, 2] = 200, 200
    data[:, 1] = np.array([first, first + 1])[:, None, None]
    return python2_pickle({b"data": data.reshape(2, -1), b"labels": [0, 1]})


@pytest.fixture
def cifar10(tmp_path):
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    batches = {name: cifar10_batch(2 * number) for number, name in enumerate(names)}
    return write_cifar10(tmp_path / "cifar-10-python.tar.gz", batches)


def write_idx(path, array):
    head = b"\x00\x00\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(head + array.tobytes()))
    return path


@pytest.fixture
def mnist(tmp_path, make_data):
    """Four files of 5 and of 3 images; every pixel of an image has its number."""
    files = []
    for (images, labels), num_images in zip(make_data.MNIST_FILES.values(), (5, 3), strict=True):
        numbers = np.arange(num_images, dtype=np.uint8)
        pixels = np.broadcast_to(numbers[:, None, None], (num_images, 28, 28))
        files.append(write_idx(tmp_path / images, pixels))
        files.append(write_idx(tmp_path / labels, numbers % 2))
    return files


def test_cifar10_becomes_class_folders_of_jpeg_files(make_data, cifar10, tmp_path):
    folder = make_data.make_cifar10(cifar10, tmp_path / "data", checksums=None)
    train, test = kd.scan(folder / "train"), kd.scan(folder / "test")
    assert (train.class_names, len(train), len(test)) == (["cat", "dog"], 10, 2)
    names = [path.name for path in sorted((folder / "train" / "dog").iterdir())]
    assert names == ["00001.jpg", "00003.jpg", "00005.jpg", "00007.jpg", "00009.jpg"]
    with Image.open(folder / "train" / "dog" / "00009.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (32, 32))
        np.testing.assert_allclose(np.asarray(image)[16, 16], (0, 9, 200), atol=6)


def test_mnist_becomes_class_folders_of_png_files(make_data, mnist, tmp_path):
    folder = make_data.make_mnist(mnist[::-1], tmp_path / "data", checksums=None)
    train, test = kd.scan(folder / "train"), kd.scan(folder / "test")
    assert (train.class_names, len(train), len(test)) == (["0", "1"], 5, 3)
    with Image.open(folder / "train" / "0" / "00004.png") as image:
        assert (image.mode, image.getextrema()) == ("L", (4, 4))


def test_an_archive_with_another_checksum_is_refused(make_data, cifar10, mnist, tmp_path):
    with pytest.raises(SystemExit, match=r"is not the public cifar-10-python.tar.gz\.\n  MD5 of"):
        make_data.make_cifar10(cifar10, tmp_path / "data")
    with pytest.raises(SystemExit, match=r"is not the public t.*-ubyte.gz\.(?s:.*)Download it"):
        make_data.make_mnist(mnist, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_checksum_is_the_md5_of_the_file(make_data, cifar10):
    import hashlib

    digest = hashlib.md5(cifar10.read_bytes()).hexdigest()
    make_data.check({"archive": cifar10}, {"archive": digest})


def test_a_missing_archive_is_named(make_data, mnist, tmp_path):
    with pytest.raises(SystemExit, match=r"There is no file .*nowhere\.\nDownload cifar-10"):
        make_data.make_cifar10(tmp_path / "nowhere", tmp_path / "data")
    with pytest.raises(SystemExit, match="MNIST needs the file t10k-labels-idx1"):
        make_data.make_mnist(mnist[:3], tmp_path / "data")


def test_an_archive_that_names_other_classes_is_refused(make_data, tmp_path):
    archive = write_cifar10(tmp_path / "a.tar.gz", {"batches.meta": pickle.dumps(pytest.approx)})
    with pytest.raises(SystemExit, match=r"The archive wants _pytest.*approx"):
        make_data.make_cifar10(archive, tmp_path / "data", checksums=None)


def test_a_file_that_is_no_idx_file_is_refused(make_data, mnist, tmp_path):
    mnist[0].write_bytes(gzip.compress(b"GIF89a"))
    with pytest.raises(SystemExit, match="is no idx file of unsigned bytes"):
        make_data.make_mnist(mnist, tmp_path / "data", checksums=None)


def test_a_folder_is_not_made_twice(make_data, mnist, tmp_path):
    make_data.make_mnist(mnist, tmp_path / "data", checksums=None)
    with pytest.raises(SystemExit, match=r"is there already\.\nRemove it"):
        make_data.make_mnist(mnist, tmp_path / "data", checksums=None)


def test_the_command_checks_the_checksum(make_data, cifar10, tmp_path, monkeypatch):
    words = ["make_data.py", "--out", str(tmp_path / "data"), "--cifar10", str(cifar10)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="is not the public"):
        make_data.main()
    monkeypatch.setattr(sys, "argv", words[:3])
    with pytest.raises(SystemExit, match="2"):
        make_data.main()
