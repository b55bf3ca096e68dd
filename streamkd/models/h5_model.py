"""Reads and checks a model in an HDF5 file (`.h5`) before Keras sees it.

    with opened(path) as file, file.checked_copy(is_registered) as copy:
        keras.models.load_model(copy.path, compile=False)

Such a file has the configuration and the version of Keras as attributes, and the weights as arrays.
What `model_file.py` says of `.keras` files holds here: the configuration is read as data, its
classes are those of `allowed_objects.py`, the weights are plain arrays in the file. The private
copy is written anew from what was checked.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from streamkd.models.model_file import (
    MAX_CONFIG_BYTES,
    CheckedCopy,
    DamagedModelError,
    NoModelFileError,
    UntrustedModelError,
    check_config,
    check_sizes,
)
from streamkd.models.weights_file import check_weights

_CONFIG, _VERSION, _BACKEND = "model_config", "keras_version", "backend"
# Groups that Keras reads weights from; the state of an optimizer is left out.
_WEIGHTS = ("model_weights", "top_level_model_weights")
# First words of the attributes in which Keras keeps the order of layers and of their weights.
_NAMES = ("layer_names", "weight_names", _VERSION, _BACKEND)
_ENDINGS = (".h5", ".hdf5")


class H5Model:
    """A model in an HDF5 file that is open; it is opened once, whatever happens to its name.

    Attributes:
      version: major version of the Keras that wrote it.
    """

    def __init__(self, source: IO[bytes], attributes: Any) -> None:
        self._source = source
        self._config = _text(attributes, _CONFIG)
        self._version = _text(attributes, _VERSION)
        try:
            self.version = int(self._version.partition(".")[0])
        except ValueError as error:
            raise DamagedModelError(
                f"it says {self._version!r:.80} where the version of Keras stands"
            ) from error

    @contextlib.contextmanager
    def checked_copy(self, is_registered: Callable[[str], bool]) -> Iterator[CheckedCopy]:
        """Yields a private copy of a file that only computes; it is removed at the end.

        Raises:
          DamagedModelError: the file is damaged.
          UntrustedModelError: something in it may act when it is loaded.
        """
        config = self._checked_config(is_registered)
        num_weights = check_weights(self._source, UntrustedModelError, DamagedModelError)
        check_sizes(config, num_weights)
        with tempfile.TemporaryDirectory(prefix="streamkd-") as directory:
            path = Path(directory) / "model.h5"
            text = json.dumps(config)
            with _damages():
                self._write(path, text)
            yield CheckedCopy(path, num_weights, len(text), path.stat().st_size)

    def _checked_config(self, is_registered: Callable[[str], bool]) -> Any:
        if len(self._config) > MAX_CONFIG_BYTES:
            raise DamagedModelError(f"its {_CONFIG} has over {MAX_CONFIG_BYTES >> 20} MiB")
        try:
            config = json.loads(self._config)
        except (ValueError, RecursionError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
            raise DamagedModelError(f"its {_CONFIG} cannot be read: {reason}") from error
        check_config(config, is_registered, is_keras_3=self.version >= 3, by_class_name=True)
        return config

    def _write(self, path: Path, config: str) -> None:
        """Writes the checked configuration and the weights into a new file."""
        import h5py

        with h5py.File(self._source, "r") as source, h5py.File(path, "w") as copy:
            copy.attrs[_CONFIG] = config.encode()
            copy.attrs[_VERSION] = self._version.encode()
            copy.attrs[_BACKEND] = b"tensorflow"
            for name in _WEIGHTS:
                if name in source:
                    _copy_group(source[name], copy.create_group(name))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[H5Model]:
    """Opens an HDF5 file that holds a model.

    Raises:
      NoModelFileError: it is no ordinary file.
      DamagedModelError: it holds no model, or does not say its version.
    """
    import h5py

    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NoModelFileError("it is no ordinary file")
    with os.fdopen(descriptor, "rb") as source:
        with _damages(), h5py.File(source, "r") as file:
            model = H5Model(source, file.attrs)
        yield model


@contextlib.contextmanager
def named_as_hdf5(path: Path) -> Iterator[Path]:
    """Yields a path of the same file by whose ending Keras knows that it is HDF5."""
    if path.suffix in _ENDINGS:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="streamkd-") as directory:
        link = Path(directory) / "model.h5"
        link.symlink_to(path.resolve())
        yield link


def _text(attributes: Any, name: str) -> str:
    """Returns an attribute that is one text."""
    if name not in attributes:
        raise DamagedModelError(f"it has no attribute {name!r}")
    value = attributes[name]
    try:
        text = value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise DamagedModelError(f"its attribute {name!r} is no text") from error
    if not isinstance(text, str):
        raise DamagedModelError(f"its attribute {name!r} is no text")
    return text


def _copy_group(source: Any, copy: Any) -> None:
    """Copies the checked arrays of a group and below, and the names that tell their order."""
    for name in source.attrs:
        if name.startswith(_NAMES):
            copy.attrs[name] = source.attrs[name]
    for name, part in source.items():
        if hasattr(part, "items"):
            _copy_group(part, copy.create_group(name))
        else:
            copy.create_dataset(name, data=part[()], dtype=part.dtype)


@contextlib.contextmanager
def _damages() -> Iterator[None]:
    """Makes the errors of a damaged HDF5 file one error."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, DamagedModelError | UntrustedModelError):
            raise
        raise DamagedModelError(f"its HDF5 is damaged: {error!s:.200}") from error
