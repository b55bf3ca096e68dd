"""One small classifier in every format that a teacher may have.

made = make("tflite-uint8", folder)          # a `Made`
load_teacher(made.path, **made.options)(pixels)     # about `made.reference(pixels)`
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

SIZE, NUM_CLASSES = 8, 5
FORMATS = (
    "tf_keras.keras",
    "keras.keras",
    "tf_keras.h5",
    "keras.h5",
    "tf_keras-saved-model",
    "keras-saved-model",
    "run",
    "tflite-float",
    "tflite-int8",
    "tflite-uint8",
    "onnx-any-batch",
    "onnx-channels-first",
)
# Formats that are answered without TensorFlow.
WITHOUT_TENSORFLOW = tuple(name for name in FORMATS if name.startswith(("tflite", "onnx")))


@dataclasses.dataclass(frozen=True)
class Made:
    """A model in a file.

    Attributes:
      path: of the file or the directory.
      reference: from pixels to the probabilities of the model that was saved.
      tolerance: largest difference of a probability that the format causes.
      options: that `load_teacher` needs.
    """

    path: Path
    reference: Callable[[np.ndarray], np.ndarray]
    tolerance: float
    options: dict[str, Any]


def pixels(count: int, seed: int = 0) -> np.ndarray:
    """Returns float32 `[count, 8, 8, 3]`, whole numbers from 0 to 255."""
    numbers = np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3))
    return numbers.astype(np.float32)


@functools.cache
def classifier(family: Any, activation: str | None = "softmax") -> Any:
    """Returns a model of a family whose weights are the same each time; it ends in softmax."""
    layers = family.layers
    model = family.Sequential(
        [
            family.Input((SIZE, SIZE, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, strides=2, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(NUM_CLASSES, activation=activation, name="top"),
        ]
    )
    draw = np.random.default_rng(1)
    model.set_weights([draw.normal(0, 1, w.shape).astype("f4") for w in model.get_weights()])
    return model


def _reference(family: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda images: np.asarray(classifier(family)(images))


def make(name: str, folder: Path) -> Made:
    """Writes the classifier in a format, one of `FORMATS`."""
    family = keras if name.startswith("keras") else tf_keras
    if name.endswith((".keras", ".h5")):
        path = folder / name
        classifier(family).save(path)
        return Made(path, _reference(family), 1e-5, {})
    if name.endswith("saved-model"):
        path = folder / name
        write = tf.saved_model.save if family is tf_keras else type(classifier(keras)).export
        write(classifier(family), str(path))
        return Made(path, _reference(family), 1e-5, {"trust": True})
    if name == "run":
        path = folder / name
        (path / "checkpoints").mkdir(parents=True)
        (path / "config.json").write_text("{}")
        classifier(tf_keras).save(path / "student.keras")
        return Made(path, _reference(tf_keras), 1e-5, {})
    if name.startswith("tflite"):
        pytest.importorskip("ai_edge_litert")
        path = folder / f"{name}.tflite"
        path.write_bytes(tflite_bytes(name.partition("-")[2]))
        return Made(path, _reference(tf_keras), 1e-5 if name == "tflite-float" else 0.05, {})
    pytest.importorskip("onnxruntime")
    path = folder / f"{name}.onnx"
    path.write_bytes(onnx_bytes(channels_first=name == "onnx-channels-first"))
    return Made(path, _reference(tf_keras), 1e-5, {})


@functools.cache
def tflite_bytes(kind: str) -> bytes:
    """Returns the classifier in TensorFlow Lite: 'float', or quantised to 'int8' or 'uint8'."""
    converter = tf.lite.TFLiteConverter.from_keras_model(classifier(tf_keras))
    if kind != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in pixels(32, seed=5))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = getattr(tf, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an interface that TensorFlow will remove
        return converter.convert()


def onnx_bytes(*, channels_first: bool, end: str = "Softmax") -> bytes:
    """Returns the classifier in ONNX.

    Channels first it takes three images at once, and channels last any number.
    """
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    kernel, bias, top, top_bias = classifier(tf_keras).get_weights()
    arrays = {
        "scale": np.float32(1 / 255),
        "kernel": kernel.transpose(3, 2, 0, 1),
        "bias": bias,
        "top": top,
        "top_bias": top_bias,
    }
    shape = [3, 3, SIZE, SIZE] if channels_first else ["batch", SIZE, SIZE, 3]
    first = "pixels"
    nodes = []
    if not channels_first:
        nodes.append(helper.make_node("Transpose", ["pixels"], ["first"], perm=[0, 3, 1, 2]))
        first = "first"
    nodes += [
        helper.make_node("Mul", [first, "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "kernel", "bias"], ["conv"], strides=[2, 2]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "top", "top_bias"], ["logits"]),
        helper.make_node(end, ["logits"], ["answers"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("pixels", kind, shape)],
        [helper.make_tensor_value_info("answers", kind, [shape[0], NUM_CLASSES])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()],
    )
    return onnx_model(graph).SerializeToString()


def onnx_model(graph: Any) -> Any:
    """Returns an ONNX model of a graph, of a version that every onnxruntime reads."""
    import onnx

    opset = onnx.helper.make_opsetid("", 17)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
