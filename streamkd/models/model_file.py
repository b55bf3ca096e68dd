"""Reads and checks a `.keras` file before Keras sees it.

    with opened(path) as file, file.checked_copy(is_registered) as copy:
        keras.models.load_model(copy.path, compile=False)

Keras imports, calls and loads what the file's configuration names. Here the file is read as data:
one zip with a configuration, its version and the weights; no class or function beyond
`allowed_objects.py`; weights that lie in the file as plain arrays. What was checked is written into
a private file, and Keras opens that one: the file at the user's path may change meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import os
import re
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from streamkd.models import allowed_objects
from streamkd.models.model_graph import why_graph_is_refused
from streamkd.models.weights_file import PartOfFile, check_weights

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
# Bytes of the largest configuration that is read; NASNetLarge has 1.3 MB.
MAX_CONFIG_BYTES = 64 << 20
MAX_METADATA_BYTES = 1 << 20
# Bytes of the largest list of a zip's parts; that of Keras has about 200.
MAX_DIRECTORY_BYTES = 1 << 20
# Levels of lists and dicts in a configuration; a model in a model in a model has about 30.
MAX_DEPTH = 200
# Layers, initializers and the like in a configuration; NASNetLarge has about 10,000.
MAX_OBJECTS = 100_000
# Times that compressed weights may grow, above a megabyte; Keras does not compress them.
MAX_GROWTH = 100
# Arguments of layers by which Keras repeats a step, with the most that is allowed.
_COUNTS = {"num_ops": 100, "num_chains": 100, "chain_depth": 100, "power_iterations": 100}
_MAX_UPSAMPLING = 1024
_SPECIAL = re.compile(r"[][*+?{}()|^$\\]")  # in a pattern
# Arguments of layers by which memory grows: each has that many weights, or more.
_SIZES = ("units", "filters", "output_dim", "input_dim", "num_heads", "key_dim", "value_dim")

# What a damaged zip makes Python's reader raise.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
    IndexError,
)


class DamagedModelError(ValueError):
    """The file is not a `.keras` file, or is damaged; the text is the reason alone."""


class UntrustedModelError(ValueError):
    """The file may act when it is loaded; the text is the reason alone.

    Attributes:
      module: that defines the object which was refused; None for one of Keras.
    """

    def __init__(self, reason: str, module: str | None = None) -> None:
        super().__init__(reason)
        self.module = module


class NoModelFileError(DamagedModelError):
    """The file is no `.keras` file, or does not say which Keras wrote it."""


class CheckedCopy(NamedTuple):
    """A private file that only computes, the number of its weights, and its bytes."""

    path: Path
    num_weights: int
    config_bytes: int
    num_bytes: int


class ModelFile:
    """A `.keras` file that is open; it is opened once, whatever happens to its name.

    Attributes:
      version: major version of the Keras that wrote it.
    """

    def __init__(self, parts: zipfile.ZipFile, num_bytes: int) -> None:
        self._parts = parts
        self._num_bytes = num_bytes
        self._version = _version(parts)
        self.version = int(self._version.partition(".")[0])

    @contextlib.contextmanager
    def checked_copy(self, is_registered: Callable[[str], bool]) -> Iterator[CheckedCopy]:
        """Yields a private copy of a file that only computes; it is removed at the end.

        Raises:
          DamagedModelError: the file is damaged.
          UntrustedModelError: something in it may act when it is loaded.
        """
        with tempfile.TemporaryDirectory(prefix="streamkd-") as directory:
            copy = Path(directory) / "model.keras"
            with _damages(), zipfile.ZipFile(copy, "w") as kept:
                config = self._write_checked(kept, is_registered)
            with zipfile.ZipFile(copy) as kept, copy.open("rb") as file:
                part = PartOfFile(file, *_place_of(kept.getinfo(WEIGHTS), file))
                num_weights = check_weights(part, UntrustedModelError, DamagedModelError)
                config_bytes = kept.getinfo(CONFIG).file_size
            check_sizes(config, num_weights)
            yield CheckedCopy(copy, num_weights, config_bytes, copy.stat().st_size)

    def _write_checked(self, kept: zipfile.ZipFile, is_registered: Callable[[str], bool]) -> Any:
        """Writes the parts, without compression, and returns the checked configuration."""
        parts = self._parts
        _check_parts(parts)
        config = _read_json(parts, CONFIG, MAX_CONFIG_BYTES)
        check_config(config, is_registered, is_keras_3=self.version >= 3)
        kept.writestr(METADATA, json.dumps({"keras_version": self._version}))
        kept.writestr(CONFIG, json.dumps(without_compilation(config)))
        with parts.open(WEIGHTS) as source, kept.open(WEIGHTS, "w", force_zip64=True) as out:
            _copy_bounded(source, out, MAX_GROWTH * max(self._num_bytes, 1 << 20))
        return config


@contextlib.contextmanager
def opened(path: Path) -> Iterator[ModelFile]:
    """Opens a `.keras` file, whose zip must begin and end where the file does.

    Raises:
      NoModelFileError: it is no `.keras` file, or does not say its version.
    """
    if path.suffix != ".keras":
        raise NoModelFileError("its name does not end in .keras")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NoModelFileError("it is no ordinary file")
    with os.fdopen(descriptor, "rb") as file, contextlib.ExitStack() as stack:
        try:
            with _damages():
                parts = stack.enter_context(_zip_of(file))
                model = ModelFile(parts, os.fstat(file.fileno()).st_size)
        except DamagedModelError as error:
            raise NoModelFileError(str(error)) from error
        yield model


def _zip_of(file: IO[bytes]) -> zipfile.ZipFile:
    """Returns the zip that is the whole of a file."""
    if file.read(4) != b"PK\x03\x04":
        raise DamagedModelError("it does not begin as a zip")
    file.seek(-min(22, file.seek(0, os.SEEK_END)), os.SEEK_END)
    end = file.read(22)  # the bytes that end a zip to which nothing was added
    if end[:4] != b"PK\x05\x06":
        raise DamagedModelError("its zip is cut short, or something stands behind it")
    if int.from_bytes(end[12:16], "little") > MAX_DIRECTORY_BYTES:
        raise DamagedModelError(f"its zip lists over {MAX_DIRECTORY_BYTES >> 20} MiB of names")
    parts = zipfile.ZipFile(file)
    if min((part.header_offset for part in parts.infolist()), default=0):
        raise DamagedModelError("something stands in front of its zip")
    return parts


def _place_of(part: zipfile.ZipInfo, file: IO[bytes]) -> tuple[int, int]:
    """Returns where an uncompressed part of a zip begins, and its number of bytes."""
    file.seek(part.header_offset + 26)
    lengths = file.read(4)  # of the name and of the extra field, which end the part's header
    begin = (
        part.header_offset + 30 + sum(int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
    )
    return begin, part.file_size


@contextlib.contextmanager
def _damages() -> Iterator[None]:
    """Makes the errors of a damaged zip one error."""
    try:
        yield
    except _ZIP_ERRORS as error:
        if isinstance(error, DamagedModelError | UntrustedModelError):
            raise
        raise DamagedModelError(f"its zip is damaged: {error}") from error


def _check_parts(parts: zipfile.ZipFile) -> None:
    """Refuses a zip without exactly one of each part, or with others."""
    names = parts.namelist()
    for name in (CONFIG, METADATA, WEIGHTS):
        if names.count(name) != 1:
            raise DamagedModelError(f"it has {names.count(name)} parts named {name}, not one")
    for name in names:
        if name not in (CONFIG, METADATA, WEIGHTS) and not name.endswith("/"):
            raise UntrustedModelError(f"it has a part {name!r:.80}, which a layer would read")


def _read_json(parts: zipfile.ZipFile, name: str, max_bytes: int) -> Any:
    with parts.open(name) as part:
        text = part.read(max_bytes + 1)
    if len(text) > max_bytes:
        raise DamagedModelError(f"its {name} has over {max_bytes >> 20} MiB")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise DamagedModelError(f"its {name} cannot be read: {reason}") from error


def _version(parts: zipfile.ZipFile) -> str:
    try:
        version = _read_json(parts, METADATA, MAX_METADATA_BYTES)["keras_version"]
        int(version.partition(".")[0])
        return str(version)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedModelError(f"it does not say which Keras wrote it: {error!s:.160}") from error


def check_config(
    config: Any,
    is_registered: Callable[[str], bool],
    *,
    is_keras_3: bool,
    by_class_name: bool = False,
) -> None:
    """Refuses a configuration that may act, or describes no model that can be built.

    Args:
      config: of the whole model; what it was compiled with is removed from it.
      is_registered: whether the user's program has registered a class or function of a name.
      is_keras_3: whether Keras 3 wrote it.
      by_class_name: whether Keras looks for registered classes by `class_name`, as in HDF5 files.

    Raises:
      DamagedModelError: it cannot be built.
      UntrustedModelError: something in it may act when it is built.
    """
    if not isinstance(config, dict) or "class_name" not in config:
        raise DamagedModelError(f"its {CONFIG} describes no model")
    num_objects = 0
    for entry in _dicts(without_compilation(config)):
        if "class_name" not in entry:
            continue
        num_objects += 1
        if num_objects > MAX_OBJECTS:
            raise DamagedModelError(f"its {CONFIG} has over {MAX_OBJECTS:,} layers and their parts")
        if by_class_name:  # whatever other name the entry gives
            name, entry = entry["class_name"], {**entry, "registered_name": None}
            if isinstance(name, str) and entry.get("module") is None and is_registered(name):
                continue
        reason = allowed_objects.why_refused(entry, is_registered)
        if reason is not None:
            raise UntrustedModelError(reason, allowed_objects.foreign_module(entry))
    for entry in _dicts(config):
        reason = why_graph_is_refused(entry, is_keras_3=is_keras_3)
        if reason is not None:
            raise DamagedModelError(reason)


def _dicts(config: Any) -> Iterator[dict[str, Any]]:
    """Yields every dict within a configuration, without recursion."""
    pending = [(config, 1)]
    while pending:
        value, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise DamagedModelError(f"its {CONFIG} is nested more than {MAX_DEPTH} levels deep")
        if isinstance(value, dict):
            yield value
            pending += [(part, depth + 1) for part in value.values()]
        elif isinstance(value, list):
            pending += [(part, depth + 1) for part in value]


def without_compilation(config: Any) -> Any:
    """Returns the configuration without losses, metrics and optimizers, which are not loaded."""
    for entry in _dicts(config):
        entry.pop("compile_config", None)
    return config


def _copy_bounded(source: IO[bytes], out: IO[bytes], max_bytes: int) -> None:
    while chunk := source.read(1 << 22):
        max_bytes -= len(chunk)
        if max_bytes < 0:
            raise DamagedModelError("its weights are far larger than the file")
        out.write(chunk)


def check_sizes(config: Any, num_weights: int) -> None:
    """Refuses a layer that is larger than all weights in the file, before memory is taken."""
    for entry in _dicts(config):
        inner = entry.get("config")
        if not isinstance(inner, Mapping):
            continue
        _check_counts(str(entry.get("class_name")), inner)
        _check_patterns(inner)
        for name in _SIZES:
            size = inner.get(name)
            if isinstance(size, int) and size > max(num_weights, 1):
                raise DamagedModelError(
                    f"the layer {entry.get('class_name')} has {name}={size}, and the file holds "
                    f"{num_weights:,} weights"
                )


def _check_counts(class_name: str, config: Mapping[str, Any]) -> None:
    """Refuses a layer that repeats a step more often than any of use does."""
    most = {**_COUNTS, **({"size": _MAX_UPSAMPLING} if class_name.startswith("UpSampling") else {})}
    for name in most.keys() & config.keys():
        value = config[name]
        for count in value if isinstance(value, list) else [value]:
            if isinstance(count, int) and count > most[name]:
                raise DamagedModelError(
                    f"the layer {class_name} has {name}={count}, and {most[name]} is the most"
                )


def _check_patterns(config: Mapping[str, Any]) -> None:
    """Refuses a pattern for names of layers that may take for ever to match."""
    policies = config.get("policy_map")
    for name in policies if isinstance(policies, Mapping) else ():
        if _SPECIAL.search(name.replace(".*", "", 1)):
            raise DamagedModelError(
                f"its dtype policies are for layers of the pattern {name!r:.80}; a name with at "
                "most one `.*` is taken"
            )
