"""What a file or a directory is, by its bytes, for the refusal of one that was given for another.

kind = kind_of_path("teacher.h5")
kind.words          # "a logit store"
kind.use            # "Give a store as `--store`."
kind.code           # "store"
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from typing import IO, NamedTuple

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
_GIVE_TEACHER = (
    "Give a model as `--teacher`, or as MODEL of `streamkd evaluate`; a model of this format "
    "cannot be trained further."
)
# Fields of an ONNX model: its number, and how its value is written (0: a number, 2: bytes).
_ONNX_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_ONNX_GRAPH = 7
# Fields of the largest model; they are its versions, functions and notes, and the one graph.
_MAX_ONNX_FIELDS = 100_000
# Objects in the root of an HDF5 file that Keras 3 writes with `save_weights`.
_WEIGHTS_OF_KERAS_3 = {"layers", "_layer_checkpoint_dependencies", "vars"}


class PathKind(NamedTuple):
    """What lies at a path.

    Attributes:
      words: such as "a logit store".
      use: a sentence that says where such a thing is to be given, or how it becomes what is wanted.
      code: 'keras', 'h5', 'weights', 'saved_model', 'run', 'store', 'tflite', 'onnx' for a model
        or a store; empty for anything else.
    """

    words: str
    use: str
    code: str = ""


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
        return PathKind("a SavedModel directory", _GIVE_TEACHER, "saved_model")
    if os.path.isfile(os.path.join(name, "config.json")) and (
        os.path.isdir(os.path.join(name, "checkpoints"))
        or os.path.isfile(os.path.join(name, "student.keras"))
    ):
        use = "Give a run as MODEL: `streamkd evaluate RUN IMAGES`."
        return PathKind("a run directory", use, "run")
    return PathKind("a directory", "Give a directory of images as IMAGES.")


def _kind_of_file(name: str, head: bytes) -> PathKind | None:
    if not head:
        return PathKind("an empty file", "Look whether it was copied as a whole.")
    if head.startswith(_STORE):
        return PathKind("a logit store", "Give a store as `--store`.", "store")
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
        return _kind_of_hdf5(name)
    if head.startswith(b"PAR1"):
        use = (
            "Write its images into one folder a class, and give the directory of these folders. "
            "Logits in it become a store with `streamkd import`."
        )
        return PathKind("a Parquet file", use)
    if head.startswith(b"\x93NUMPY"):
        use = "Logits in it become a store with `streamkd import`."
        return PathKind("an array of NumPy", use)
    if os.path.basename(name) == "saved_model.pb":
        use = "Give the directory that holds the file."
        return PathKind("the program of a SavedModel", use)
    if head[4:8] == b"TFL3":
        return PathKind("a TensorFlow Lite model", _GIVE_TEACHER, "tflite")
    if _is_onnx(name):
        return PathKind("an ONNX model", _GIVE_TEACHER, "onnx")
    return None


def _kind_of_zip(name: str, head: bytes) -> PathKind:
    """Returns the kind of a zip, by the names of the file and of its first part."""
    ending = os.path.splitext(name)[1].lower()
    if ending == ".keras" or head[30:].startswith((b"metadata.json", b"config.json")):
        return PathKind("a Keras model", _GIVE_MODEL, "keras")
    if ending == ".npz":
        use = "Logits in it become a store with `streamkd import`."
        return PathKind("a file of arrays of NumPy", use)
    if ending in (".pt", ".pth"):
        use = "Save the model as a `.keras` file, or write it as ONNX with `torch.onnx.export`."
        return PathKind("a PyTorch model", use)
    return _archive("a ZIP archive", "unzip {}", name)


def _kind_of_hdf5(name: str) -> PathKind:
    """Returns the kind of an HDF5 file, by the attributes and the names in its root."""
    import h5py

    try:
        with h5py.File(name, "r") as file:
            if "model_config" in file.attrs:
                return PathKind("a Keras model in HDF5", _GIVE_MODEL, "h5")
            is_weights = "layer_names" in file.attrs or (
                bool(file.keys()) and set(file.keys()) <= {*_WEIGHTS_OF_KERAS_3, "optimizer"}
            )
    except (OSError, RuntimeError, ValueError):
        return PathKind("an HDF5 file that is damaged or cut short", "Copy it again, as a whole.")
    if is_weights:
        use = (
            "Build the model in Python, `model.load_weights(...)`, and save it whole with "
            "`model.save('model.keras')`."
        )
        return PathKind("the weights of a Keras model, without the model", use, "weights")
    use = "Logits in it become a store with `streamkd import`."
    return PathKind("an HDF5 file without the first line of a store", use)


def _is_onnx(name: str) -> bool:
    """Returns whether a file is a protocol buffer of the fields of an ONNX model, to its end."""
    found, num_fields = set(), 0
    try:
        with open(name, "rb") as file:
            for field, wire, _, _ in protobuf_fields(file, 0, os.fstat(file.fileno()).st_size):
                num_fields += 1
                if _ONNX_FIELDS.get(field) != wire or num_fields > _MAX_ONNX_FIELDS:
                    return False
                found.add(field)
    except ValueError:
        return False
    return {1, _ONNX_GRAPH} <= found


def protobuf_fields(file: IO[bytes], begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields the fields of a protocol buffer: number, wire type, and where its value lies.

    Args:
      file: an open file.
      begin, end: bytes of the file that are the buffer.

    Raises:
      ValueError: the bytes are no protocol buffer.
    """
    place = begin
    while place < end:
        file.seek(place)
        tag, place = _number(file, place)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            _, after = _number(file, place)
        elif wire == 2:
            length, place = _number(file, place)
            after = place + length
        elif wire in (1, 5):
            after = place + (8 if wire == 1 else 4)
        else:
            raise ValueError(f"wire type {wire}")
        if after > end or field == 0:
            raise ValueError("a field that reaches beyond the end")
        yield field, wire, place, after
        place = after


def _number(file: IO[bytes], place: int) -> tuple[int, int]:
    """Returns a number of variable length where the file stands, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value, place + shift // 7 + 1
    raise ValueError("a number without end")


def _archive(words: str, command: str, name: str) -> PathKind:
    use = f"Unpack it with `{command.format(shlex.quote(name))}`, and give the directory of images."
    return PathKind(words, use)
