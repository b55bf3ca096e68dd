"""Reads and checks a `.keras` file before Keras sees it.

    with checked_copy("teacher.keras", trust=False) as (version, path):
        keras.models.load_model(path, compile=False)

Keras imports, calls and loads what the file's configuration names. Here the file is read as data:
one zip with a configuration, its version and the weights; no class or function beyond
`allowed_objects.py`; weights that lie in the file as plain arrays. What was checked is written into
a private file, and Keras opens that one: the file at the user's path may change meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from streamkd.models import allowed_objects
from streamkd.models.weights_file import check_weights

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
# Bytes of the largest configuration that is read; NASNetLarge has 1.3 MB.
MAX_CONFIG_BYTES = 64 << 20
MAX_METADATA_BYTES = 1 << 20
# Levels of lists and dicts in a configuration; a model in a model in a model has about 30.
MAX_DEPTH = 200
# Times that compressed weights may grow, above a megabyte; Keras does not compress them.
MAX_GROWTH = 100
# Arguments of layers by which memory grows: each has that many weights, or more.
_SIZES = ("units", "filters", "output_dim", "input_dim", "num_heads", "key_dim", "value_dim")


class DamagedModelError(ValueError):
    """The file is not a `.keras` file, or is damaged; the text is the reason alone."""


class UntrustedModelError(ValueError):
    """The file may act when it is loaded; the text is the reason alone."""


def saved_version(path: Path) -> int:
    """Returns the major Keras version written in a `.keras` file.

    Raises:
      DamagedModelError: it is no `.keras` file, or does not say its version.
    """
    if path.suffix != ".keras":
        raise DamagedModelError("its name does not end in .keras")
    with _opened(path) as parts:
        return _version(parts)


@contextlib.contextmanager
def checked_copy(path: Path, is_registered: Callable[[str], bool]) -> Iterator[Path]:
    """Yields a private copy of a `.keras` file that only computes; it is removed at the end.

    Raises:
      DamagedModelError: it is no `.keras` file, or damaged.
      UntrustedModelError: something in it may act when it is loaded.
    """
    with tempfile.TemporaryDirectory(prefix="streamkd-") as directory:
        copy = Path(directory) / "model.keras"
        with _opened(path) as parts, zipfile.ZipFile(copy, "w") as kept:
            _check_parts(parts)
            config = _read_json(parts, CONFIG, MAX_CONFIG_BYTES)
            _check_config(config, is_registered)
            kept.writestr(METADATA, json.dumps(_read_json(parts, METADATA, MAX_METADATA_BYTES)))
            kept.writestr(CONFIG, json.dumps(_without_compilation(config)))
            with parts.open(WEIGHTS) as weights, kept.open(WEIGHTS, "w", force_zip64=True) as out:
                _copy_bounded(weights, out, MAX_GROWTH * max(path.stat().st_size, 1 << 20))
        with zipfile.ZipFile(copy) as parts, parts.open(WEIGHTS) as weights:
            num_weights = check_weights(weights, UntrustedModelError, DamagedModelError)
        _check_sizes(config, num_weights)
        yield copy


def why_untrusted(path: Path, is_registered: Callable[[str], bool]) -> str | None:
    """Returns why a `.keras` file would be refused without `--trust`; None if it would not be."""
    try:
        with checked_copy(path, is_registered):
            return None
    except (UntrustedModelError, DamagedModelError) as error:
        return str(error)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens the zip, which must begin and end where the file does."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedModelError("it is no ordinary file")
    with os.fdopen(descriptor, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise DamagedModelError("it does not begin as a zip")
        file.seek(-min(22, file.seek(0, os.SEEK_END)), os.SEEK_END)
        if file.read(4) != b"PK\x05\x06":  # 22 bytes end a zip to which nothing was added
            raise DamagedModelError("its zip is cut short, or something stands behind it")
        try:
            with zipfile.ZipFile(file) as parts:
                if min((e.header_offset for e in parts.infolist()), default=0):
                    raise DamagedModelError("something stands in front of its zip")
                yield parts
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
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


def _version(parts: zipfile.ZipFile) -> int:
    try:
        metadata = _read_json(parts, METADATA, MAX_METADATA_BYTES)
        return int(metadata["keras_version"].partition(".")[0])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedModelError(f"it does not say which Keras wrote it: {error!s:.160}") from error


def _check_config(config: Any, is_registered: Callable[[str], bool]) -> None:
    if not isinstance(config, dict) or "class_name" not in config:
        raise DamagedModelError(f"its {CONFIG} describes no model")
    for entry in _dicts(_without_compilation(config)):
        if "class_name" not in entry:
            continue
        reason = allowed_objects.why_refused(entry, is_registered)
        if reason is not None:
            raise UntrustedModelError(reason)


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


def _without_compilation(config: Any) -> Any:
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


def _check_sizes(config: Any, num_weights: int) -> None:
    """Refuses a layer that is larger than all weights in the file, before memory is taken."""
    for entry in _dicts(config):
        inner = entry.get("config")
        if not isinstance(inner, Mapping):
            continue
        for name in _SIZES:
            size = inner.get(name)
            if isinstance(size, int) and size > max(num_weights, 1):
                raise DamagedModelError(
                    f"the layer {entry.get('class_name')} has {name}={size}, and the file holds "
                    f"{num_weights:,} weights"
                )
