"""What a file or a directory is, by its bytes, for the refusal of one that was given for another.

kind = kind_of_path("teacher.h5")
kind.words          # "a logit store"
kind.use            # "Give a store as `--store`."
"""

from __future__ import annotations

import os
import shlex
from typing import NamedTuple

# Bytes that are looked at: a tar says what it is at byte 257.
_HEAD_BYTES = 512
_STORE = b"streamkd logit store"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
# First bytes of archives, and the command that unpacks them.
_ARCHIVES = (
    (b"\x1f\x8b", "a gzip archive", "tar -xf {}"),
    (b"BZh", "a bzip2 archive", "tar -xf {}"),
    (b"\xfd7zXZ\0", "an xz archive", "tar -xf {}"),
    (b"(\xb5/\xfd", "a zstd archive", "tar -xf {}"),
    (b"7z\xbc\xaf'\x1c", "a 7z archive", "7z x {}"),
    (b"Rar!\x1a", "a RAR archive", "unrar x {}"),
)
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1")
_GIVE_IMAGES = "Give the directory that holds its folders of images."
_GIVE_MODEL = "Give a model as `--teacher`, as `--student`, or as MODEL of `streamkd evaluate`."


class PathKind(NamedTuple):
    """What lies at a path.

    Attributes:
      words: such as "a logit store".
      use: a sentence that says where such a thing is to be given, or how it becomes what is wanted.
    """

    words: str
    use: str


def kind_of_path(path: str | os.PathLike[str]) -> PathKind | None:
    """Returns what lies at a path; None if its bytes do not say it, or cannot be read."""
    name = os.fsdecode(path)
    try:
        if os.path.isdir(name):
            return _kind_of_directory(name)
        if not os.path.isfile(name):
            return None
        with open(name, "rb") as file:
            head = file.read(_HEAD_BYTES)
            return _kind_of_file(name, head)
    except OSError:
        return None


def _kind_of_directory(name: str) -> PathKind:
    if os.path.isfile(os.path.join(name, "saved_model.pb")):
        return PathKind("a SavedModel directory", _GIVE_MODEL)
    if os.path.isfile(os.path.join(name, "config.json")) and os.path.isdir(
        os.path.join(name, "checkpoints")
    ):
        return PathKind("a run directory", "Give a run as MODEL: `streamkd evaluate RUN IMAGES`.")
    return PathKind("a directory", "Give a directory of images as IMAGES.")


def _kind_of_file(name: str, head: bytes) -> PathKind | None:
    if not head:
        return PathKind("an empty file", "Look whether it was copied as a whole.")
    if head.startswith(_STORE):
        return PathKind("a logit store", "Give a store as `--store`.")
    if head.startswith(_ZIP):
        return _kind_of_zip(name, head)
    for magic, words, command in _ARCHIVES:
        if head.startswith(magic):
            return _archive(words, command, name)
    if head[257:262] == b"ustar":
        return _archive("a tar archive", "tar -xf {}", name)
    if head.startswith(_IMAGES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return PathKind("an image", _GIVE_IMAGES)
    if head[4:8] == b"ftyp":
        is_image = head[8:12] in _IMAGE_BRANDS
        return PathKind("an image" if is_image else "a video", _GIVE_IMAGES)
    if head.startswith(_HDF5):
        use = "Logits in it become a store with `streamkd import`."
        return PathKind("an HDF5 file without the first line of a store", use)
    if head.startswith(b"PAR1"):
        use = "Write its images into one folder a class, and give the directory of these folders."
        return PathKind("a Parquet file", use)
    if head.startswith(b"\x93NUMPY"):
        use = "Logits in it become a store with `streamkd import`."
        return PathKind("an array of NumPy", use)
    if head[4:8] == b"TFL3":
        return PathKind("a TensorFlow Lite model", _GIVE_MODEL)
    return None


def _kind_of_zip(name: str, head: bytes) -> PathKind:
    """Returns the kind of a zip, by the names of the file and of its first part."""
    ending = os.path.splitext(name)[1].lower()
    if ending == ".keras" or head[30:].startswith((b"metadata.json", b"config.json")):
        return PathKind("a Keras model", _GIVE_MODEL)
    if ending == ".npz":
        use = "Logits in it become a store with `streamkd import`."
        return PathKind("a file of arrays of NumPy", use)
    if ending in (".pt", ".pth"):
        return PathKind("a PyTorch model", "Save the model as a `.keras` file.")
    return _archive("a ZIP archive", "unzip {}", name)


def _archive(words: str, command: str, name: str) -> PathKind:
    use = f"Unpack it with `{command.format(shlex.quote(name))}`, and give the directory of images."
    return PathKind(words, use)
