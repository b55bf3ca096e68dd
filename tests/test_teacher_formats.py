"""A table: each format of a teacher, and what must hold for it."""

import contextlib
import functools
import json
import os
import signal
import sys

import h5py
import keras
import numpy as np
import pytest
import store_helpers
import tensorflow as tf
import tf_keras
from format_helpers import (
    FORMATS,
    WITHOUT_TENSORFLOW,
    classifier,
    make,
    onnx_bytes,
    onnx_model,
    pixels,
    tflite_bytes,
)
from helpers import draw_directory
from predict_helpers import predict_server
from process_helpers import finished, paused

import streamkd as kd
from streamkd.codes import StreamkdWarning
from streamkd.errors import QueryBudgetError, StoreError, StudentError, TeacherError
from streamkd.teachers.image_axes import ImageAxes
from streamkd.teachers.load_teacher import load_teacher
from streamkd.teachers.onnx_graph import last_operation

# Made in milliseconds; the others are traced or converted by TensorFlow, which takes seconds.
QUICK = ("tf_keras.h5", "keras.h5", "run", "onnx-any-batch", "onnx-channels-first")
SERVED = "http"
TABLE = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FORMATS]
TABLE.append(SERVED)
LOAD = "import streamkd as kd; teacher = kd.load_teacher(sys.argv[{}], trust=True)"
# Asks about the first two blocks, then waits to be killed.
KILLED = f"""
import os, sys, warnings
warnings.simplefilter("ignore")
{LOAD.format(2)}
answer, asked = teacher.answer, []
def counted(images):
    asked.append(len(images))
    if len(asked) == 3:
        os.write(int(sys.argv[1]), b"x")
        sys.stdin.read()
    return answer(images)
teacher.answer = counted
kd.teach(sys.argv[3], teacher, sys.argv[4], batch_size=2, progress=False)
"""
ALONE = f"""
import sys
{LOAD.format(1)}
import numpy as np
answers = teacher(np.zeros((3, 8, 8, 3), np.float32))
print(answers.shape, "tensorflow" in sys.modules, "keras" in sys.modules)
"""


pytestmark = [
    pytest.mark.filterwarnings("ignore::streamkd.codes.StreamkdWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
    pytest.mark.filterwarnings("ignore:Statistics for quantized inputs were expected"),
]


def softmax(logits):
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("formats")


@pytest.fixture(scope="module")
def made(folder):
    """Returns the classifier in a format, written or served once."""
    with contextlib.ExitStack() as running:

        def made_once(name):
            if name != SERVED:
                return make(name, folder)
            pytest.importorskip("urllib3")
            reference = classifier(tf_keras)
            server = predict_server(lambda images: reference(images).numpy().tolist(), dtype=FLOAT)
            return Served(running.enter_context(server))

        yield functools.cache(made_once)


FLOAT = "DT_FLOAT"


class Served:
    """The classifier behind an address, with the attributes of a `Made`."""

    tolerance, options = 1e-5, {}

    def __init__(self, server):
        self.server, self.path = server, server.address

    def reference(self, images):
        return classifier(tf_keras)(images).numpy()


@pytest.mark.parametrize("name", TABLE)
def test_the_answers_are_those_of_the_model_that_was_saved(made, name):
    model = made(name)
    teacher = load_teacher(model.path, **model.options)
    images = pixels(7)
    np.testing.assert_allclose(
        softmax(teacher(images)), model.reference(images), atol=model.tolerance
    )
    assert (teacher.image_size, teacher.num_channels) == ((8, 8), 3)
    if name == SERVED:  # the server tells its version, and neither weights nor outputs
        assert (teacher.weights_digest, teacher.name) == ("version 1", model.path)
        return
    assert len(teacher.weights_digest) == 32 and teacher.name == model.path.name
    assert teacher.num_outputs == 5


@pytest.mark.parametrize("name", TABLE)
def test_the_softmax_is_found(made, name):
    model = made(name)
    teacher = load_teacher(model.path, **model.options)
    teacher(pixels(4))
    found = (teacher.removed, teacher.output_kind)
    assert found in {("softmax", "logits"), (None, "probabilities")}


@pytest.mark.parametrize("name", TABLE)
def test_batches_of_any_size_are_answered_alike(made, name):
    model = made(name)
    teacher = load_teacher(model.path, **model.options)
    images = pixels(7)
    together = teacher(images)
    for size in (1, 2, 5):
        parts = [teacher(images[start : start + size]) for start in range(0, 7, size)]
        np.testing.assert_allclose(np.concatenate(parts), together, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FORMATS, SERVED])
def test_a_killed_pass_goes_on_to_the_same_store(made, name, tmp_path):
    model = made(name)
    draw_directory(tmp_path / "images", {"ant": 3, "bee": 2, "cat": 1, "dog": 1, "emu": 1})
    words = (model.path, tmp_path / "images", tmp_path / "killed.h5")
    with paused(KILLED, *words) as child:
        child.send_signal(signal.SIGKILL)
    assert not kd.open_store(tmp_path / "killed.h5").finished
    for path in ("killed.h5", "whole.h5"):
        teacher = load_teacher(model.path, **model.options)
        kd.teach(tmp_path / "images", teacher, tmp_path / path, batch_size=2, progress=False)
    assert (tmp_path / "killed.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


@pytest.mark.parametrize("name", TABLE[:-1])
def test_a_file_that_is_cut_short_is_refused(made, name, tmp_path):
    model = made(name)
    path = tmp_path / model.path.name
    inner = {"run": "student.keras", "keras-saved-model": "saved_model.pb"}
    inner["tf_keras-saved-model"] = "saved_model.pb"
    if name in inner:
        path.mkdir()
        (path / "config.json").write_text("{}")
        source, target = model.path / inner[name], path / inner[name]
    else:
        source, target = model.path, path
    data = source.read_bytes()
    target.write_bytes(data[: len(data) // 2])
    with pytest.raises(TeacherError, match=r"(could not|cannot) be loaded|is not a `\.keras"):
        load_teacher(path, **model.options)


def test_a_wrong_address_and_another_model_behind_it_are_refused(made, tmp_path):
    server = made(SERVED).server
    unknown = (404, {"error": "Servable not found for request: Latest(nat)"}, {})
    server.failures.append(unknown)
    with pytest.raises(TeacherError, match=r"Servable not found for request: Latest\(nat\)"):
        load_teacher(server.address.replace("net", "nat"))(pixels(1))
    draw_directory(tmp_path / "images", dict.fromkeys("abcde", 1))
    options = {"batch_size": 2, "progress": False}
    teacher = load_teacher(server.address, max_queries=2)
    with pytest.raises(QueryBudgetError):
        kd.teach(tmp_path / "images", teacher, tmp_path / "s.h5", **options)
    server.version = "2"
    try:
        with pytest.raises(StoreError, match=r"begun with another teacher.*\n.*version 2"):
            kd.teach(tmp_path / "images", server.address, tmp_path / "s.h5", **options)
    finally:
        server.version = "1"


@pytest.mark.parametrize(
    "name",
    [
        "onnx-any-batch",
        SERVED,
        *(pytest.param(n, marks=pytest.mark.slow) for n in WITHOUT_TENSORFLOW[:-2]),
        pytest.param("onnx-channels-first", marks=pytest.mark.slow),
    ],
)
def test_a_format_of_another_library_loads_no_tensorflow(made, name):
    assert finished("-c", ALONE, made(name).path)[0].split("\n")[0] == "(3, 5) False False"


# HDF5.


def changed_h5(folder, change):
    """Returns a model in HDF5 after `change(file)`."""
    path = folder / "changed.h5"
    classifier(tf_keras).save(path)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def kernel_of(file):
    return next(name for name in _datasets(file) if "conv" in name and "kernel" in name)


def _datasets(file):
    names = []
    file.visititems(lambda name, part: names.append(name) if hasattr(part, "shape") else None)
    return names


def _external(file):
    name = kernel_of(file)
    shape = file[name].shape
    del file[name]
    file.create_dataset(name, shape, "f4", external=[("/etc/hostname", 0, 4 * np.prod(shape))])


def _linked(file):
    name = kernel_of(file)
    del file[name]
    file[name] = h5py.ExternalLink("other.h5", "/x")


def _virtual(file):
    name = kernel_of(file)
    shape = file[name].shape
    del file[name]
    layout = h5py.VirtualLayout(shape, "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=shape)
    file.create_virtual_dataset(name, layout)


def _lambda(file):
    text = file.attrs["model_config"]
    text = text if isinstance(text, str) else text.decode()
    file.attrs["model_config"] = text.replace('"class_name": "Rescaling"', '"class_name": "Lambda"')


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_external, "read from another file"),
        (_linked, "a link, not an array"),
        (_virtual, "read from another file"),
        (_lambda, "the layer Lambda"),
    ],
)
def test_an_hdf5_file_that_may_act_is_refused_without_trust(tmp_path, change, reason):
    path = changed_h5(tmp_path, change)
    with pytest.raises(TeacherError, match=f"may run code or touch files.*{reason}"):
        load_teacher(path)


def test_an_hdf5_model_with_an_optimizer_and_another_ending_is_told_by_its_bytes(tmp_path):
    model = tf_keras.models.clone_model(classifier(tf_keras))
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "m.h5")
    os.rename(tmp_path / "m.h5", tmp_path / "best.model")
    images = pixels(3)
    for trust in (False, True):
        teacher = load_teacher(tmp_path / "best.model", trust=trust)
        np.testing.assert_allclose(softmax(teacher(images)), model(images), atol=1e-5)


@pytest.mark.parametrize("family", [tf_keras, keras], ids=["tf_keras", "keras"])
def test_weights_alone_are_refused_with_the_remedy(tmp_path, family):
    path = tmp_path / "m.weights.h5"
    classifier(family).save_weights(path)
    with pytest.raises(TeacherError) as caught:
        load_teacher(path)
    assert str(caught.value) == (
        f"{path} holds the weights of a Keras model, without the model.\n"
        "Build the model in Python, `model.load_weights(...)`, and save it whole with "
        "`model.save('model.keras')`."
    )


@pytest.mark.parametrize("family", [tf_keras, keras], ids=["tf_keras", "keras"])
def test_a_registered_layer_of_ones_own_is_taken_from_hdf5(tmp_path, family):
    @family.saving.register_keras_serializable("formats")
    class Twice(family.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    path = tmp_path / "own.h5"
    model = family.Sequential([family.Input((2, 2, 3)), Twice(), family.layers.Flatten()])
    model.save(path)
    images = np.ones((1, 2, 2, 3), np.float32)
    try:
        assert load_teacher(path, output="logits")(images).tolist() == [[2] * 12]
        with h5py.File(path, "r+") as file:
            # A class that is not allowed, behind the name of one that is registered.
            config = json.loads(file.attrs["model_config"])
            layer = next(e for e in config["config"]["layers"] if "Twice" in e["class_name"])
            layer.update(class_name="Lambda", module="own", registered_name="formats>Twice")
            file.attrs["model_config"] = json.dumps(config)
        with pytest.raises(TeacherError, match="may run code or touch files"):
            load_teacher(path)
        model.save(path)
    finally:
        family.saving.get_custom_objects().pop("formats>Twice")
    with pytest.raises(TeacherError, match="'formats>Twice' is not on the list"):
        load_teacher(path)


# Directories, and files that are no teacher.


def test_a_saved_model_is_not_loaded_without_trust(folder):
    path = folder / "untouched"
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"\x08\x01")
    with pytest.raises(TeacherError) as caught:
        load_teacher(path)
    assert str(caught.value) == (
        f"{path} is a SavedModel directory: a program of TensorFlow, which may read and write "
        "files when it is asked.\nDo not load one from a stranger; add `--trust` if it is your "
        "own. Or give the model as a `.keras` file, or a Python function from images to logits."
    )


class Two(tf.Module):
    """Functions with several outputs, and with another kind of input."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.uint8)])
    def both(self, images):
        total = tf.reduce_sum(tf.cast(images, tf.float32), [1, 2])
        return {"classes": total, "twice": 2 * total}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def text(self, text):
        return {"classes": text}


def test_signatures_and_outputs_of_a_saved_model_are_chosen(tmp_path):
    module = Two()
    signatures = {"both": module.both, "text": module.text}
    tf.saved_model.save(module, str(tmp_path / "two"), signatures=signatures)

    def load(choice):
        return load_teacher(tmp_path / "two", trust=True, model_output=choice, output="logits")

    images = np.full((2, 4, 4, 3), 3.0, np.float32)
    with pytest.raises(TeacherError, match=r"2 signatures \('both', 'text'\)(.|\n)*`--output SIG"):
        load(None)
    with pytest.raises(TeacherError, match=r"2 outputs \(0: 'classes', 1: 'twice'\)"):
        load("both")
    with pytest.raises(TeacherError, match="takes string, and images are numbers"):
        load("text")
    assert load("both:classes")(images).tolist() == [[48, 48, 48]] * 2
    assert load("both:twice")(images).tolist() == [[96, 96, 96]] * 2
    digests = {load(f"both:{name}").weights_digest for name in ("classes", "twice")}
    assert len(digests) == 2


def test_a_store_is_no_teacher(tmp_path):
    store_helpers.teach(tmp_path / "s.h5")
    with pytest.raises(TeacherError, match="is a logit store: the answers of a teacher, and no"):
        load_teacher(tmp_path / "s.h5")


def test_the_classes_of_a_run_are_matched_by_name(tmp_path):
    model = make("run", tmp_path)
    (model.path / "config.json").write_text('{"class_names": ["emu", "dog", "cat", "bee", "ant"]}')
    draw_directory(tmp_path / "images", {"ant": 1, "bee": 1, "cat": 1, "dog": 1, "emu": 1})
    store = kd.teach(tmp_path / "images", model.path, tmp_path / "s.h5", progress=False)
    assert store.class_names == ["emu", "dog", "cat", "bee", "ant"]
    (model.path / "config.json").write_text('{"class_names": "emu"}')
    with pytest.raises(TeacherError, match=r"config.json is damaged, so the classes of the teac"):
        load_teacher(model.path)


def test_a_run_without_a_student_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TeacherError, match=r"is a run directory without student\.keras"):
        load_teacher(tmp_path)


@pytest.mark.parametrize("name", ["onnx-any-batch"])
def test_what_cannot_be_trained_is_named_where_a_keras_model_is_needed(made, name, tmp_path):
    path = made(name).path
    with pytest.raises(StudentError) as caught:
        kd.export(path, tmp_path / "out.keras", progress=False)
    assert str(caught.value).startswith(
        f"{path} is an ONNX model, and a Keras model is needed here.\n"
        "As `--teacher` of `streamkd teach` it is taken."
    )


def test_an_hdf5_model_is_evaluated(made, tmp_path):
    draw_directory(tmp_path / "images", dict.fromkeys("abcde", 1))
    report = kd.evaluate(made("keras.h5").path, tmp_path / "images", progress=False)
    assert report.num_images == 5


# ONNX.


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ([None, 224, 224, 3], ("NHWC", None, (224, 224), 3)),
        ([1, 3, 224, 192], ("NCHW", 1, (224, 192), 3)),
        ([None, None, None, 1], ("NHWC", None, None, 1)),
        ([4, 1, None, None], ("NCHW", 4, None, 1)),
        ([1, 3, 4, 4], ("NCHW", 1, (4, 4), 3)),
        ([1, 4, 4, 3], ("NHWC", 1, (4, 4), 3)),
        ([None, 28, 28], ("NHW", None, (28, 28), 1)),
        ([None, 784], ("flat", None, None, None)),
    ],
)
def test_the_axis_of_channels_is_found(shape, axes):
    found = ImageAxes.of_shape(shape, "t")
    assert (found.layout, found.batch, found.image_size, found.num_channels) == axes


@pytest.mark.parametrize("shape", [[1, 3, 3, 3], [1, 3, 5, 4], [None] * 4, [2, 10, 10, 7], [5]])
def test_a_shape_that_does_not_tell_its_axes_is_refused(shape):
    with pytest.raises(TeacherError, match="takes an input of shape"):
        ImageAxes.of_shape(shape, "t")


def test_rows_of_numbers_must_fit_the_images():
    axes = ImageAxes.of_shape([None, 48], "t")
    assert axes.arranged(np.zeros((2, 4, 4, 3))).shape == (2, 48)
    with pytest.raises(TeacherError, match="rows of 48 numbers, and an image of 4 x 4 x 1 has 16"):
        axes.arranged(np.zeros((2, 4, 4, 1)))


def onnx_file(path, shape, nodes=None, outputs=("answers",), inputs=("pixels",), arrays=()):
    """Writes a model that answers with the sums of the channels."""
    onnx = pytest.importorskip("onnx")
    info, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    nodes = nodes or [
        onnx.helper.make_node("ReduceSum", ["pixels", "axes"], [name], keepdims=0)
        for name in outputs
    ]
    axes = onnx.helper.make_tensor("axes", onnx.TensorProto.INT64, [2], [2, 3])
    graph = onnx.helper.make_graph(
        nodes,
        "sums",
        [info(name, kind, shape) for name in inputs],
        [info(name, kind, None) for name in outputs],
        [axes, *arrays],
    )
    model = onnx_model(graph)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": ["n", "c", "h", "w"]}, r"\[any, any, any, any\], which does not say which axis"),
        ({"shape": [1, 3, 2, 4, 4]}, r"\[1, 3, 2, 4, 4\], which is no batch of images"),
        ({"shape": [1, 3, 4, 4], "inputs": ["pixels", "age"]}, r"2 inputs \('pixels', 'age'\)"),
        ({"shape": [1, 3, 4, 4], "outputs": ["a", "b"]}, r"2 outputs \(0: 'a', 1: 'b'\)"),
    ],
)
def test_an_onnx_model_that_does_not_fit_is_refused(tmp_path, arguments, message):
    pytest.importorskip("onnxruntime")
    path = onnx_file(tmp_path / "m.onnx", **arguments)
    with pytest.raises(TeacherError, match=message):
        load_teacher(path)


def test_one_of_several_outputs_is_chosen_by_name_or_number(tmp_path):
    pytest.importorskip("onnxruntime")
    path = onnx_file(tmp_path / "m.onnx", [1, 3, 4, 4], outputs=["a", "b"])
    images = np.ones((2, 4, 4, 3), np.float32)
    teachers = [load_teacher(path, model_output=choice, output="logits") for choice in ("b", 1, 0)]
    assert teachers[0](images).tolist() == [[16, 16, 16]] * 2
    assert teachers[0].weights_digest == teachers[1].weights_digest != teachers[2].weights_digest
    with pytest.raises(TeacherError, match=r"--output is 'c', and the teacher 'm\.onnx' has no"):
        load_teacher(path, model_output="c")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("weights.bin", None),
        ("../weights.bin", "which is outside of its directory"),
        ("/etc/hostname", "which is outside of its directory"),
        ("link.bin", "which is outside of its directory"),
        ("gone.bin", "there is no such file"),
    ],
)
def test_files_beside_an_onnx_model_must_be_beside_it(tmp_path, place, message):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("weights.bin", "model/weights.bin"):
        (tmp_path / name).write_bytes(np.full(3, 2, "<f4").tobytes())
    (directory / "link.bin").symlink_to(tmp_path / "weights.bin")
    array = onnx.TensorProto(name="scale", data_type=onnx.TensorProto.FLOAT, dims=[3])
    array.data_location = onnx.TensorProto.EXTERNAL
    array.external_data.add(key="location", value=place)
    node = onnx.helper.make_node
    nodes = [
        node("ReduceSum", ["pixels", "axes"], ["sums"], keepdims=0),
        node("Mul", ["sums", "scale"], ["answers"]),
    ]
    path = onnx_file(directory / "m.onnx", [1, 3, 4, 4], nodes=nodes, arrays=[array])
    if message is None:
        teacher = load_teacher(path, output="logits")
        assert teacher(np.ones((1, 4, 4, 3), np.float32)).tolist() == [[32, 32, 32]]
        before = teacher.weights_digest
        (directory / "weights.bin").write_bytes(np.full(3, 4, "<f4").tobytes())
        assert load_teacher(path).weights_digest != before
    else:
        with pytest.raises(TeacherError, match=message):
            load_teacher(path)


def onnx_ending_in(folder, operation):
    """Writes a classifier of this last operation; returns its path."""
    pytest.importorskip("onnxruntime")
    path = folder / f"{operation}.onnx"
    path.write_bytes(onnx_bytes(channels_first=True, end=operation))
    return path


def test_an_onnx_model_that_ends_in_sigmoid_has_independent_labels(tmp_path):
    teacher = load_teacher(onnx_ending_in(tmp_path, "Sigmoid"))
    assert teacher.is_sigmoid and teacher.identity()["output"] == "sigmoid"
    inner = load_teacher(onnx_ending_in(tmp_path, "Identity"), output="logits")
    np.testing.assert_allclose(teacher(pixels(3)), inner(pixels(3)), atol=1e-3)


def test_answers_between_0_and_1_of_another_operation_are_not_guessed(tmp_path):
    with pytest.raises(TeacherError, match="sigmoid"):
        load_teacher(onnx_ending_in(tmp_path, "HardSigmoid"))(pixels(3))
    path = onnx_ending_in(tmp_path, "Sigmoid")
    assert not load_teacher(path, output="logits").is_sigmoid  # the user's word goes first


SIGMOID = ("Sigmoid", ["l"], ["s"])
ENDS = {
    "Reshape": ([SIGMOID, ("Reshape", ["s", "row"], ["y"])], "Sigmoid"),
    "Squeeze and Identity": (
        [SIGMOID, ("Squeeze", ["s"], ["q"]), ("Identity", ["q"], ["y"])],
        "Sigmoid",
    ),
    "Cast": ([SIGMOID, ("Cast", ["s"], ["y"])], "Cast"),
    "Mul": ([SIGMOID, ("Mul", ["s", "s"], ["y"])], "Mul"),
    "the same twice": ([SIGMOID, ("Identity", ["s"], ["y"]), ("Sigmoid", ["l"], ["y"])], ""),
    "in a circle": ([("Identity", ["y"], ["z"]), ("Identity", ["z"], ["y"])], ""),
    "nothing": ([SIGMOID], ""),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_last_operation_of_an_onnx_graph_is_found(tmp_path, end):
    onnx = pytest.importorskip("onnx")
    steps, wanted = ENDS[end]
    nodes = [onnx.helper.make_node(*step) for step in steps]
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_model(onnx.helper.make_graph(nodes, "g", [], [])).SerializeToString())
    assert last_operation(path, "y") == wanted


def test_a_sigmoid_of_another_domain_or_in_a_damaged_file_is_none(tmp_path):
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Sigmoid", ["l"], ["y"], domain="my.own")
    path = tmp_path / "m.onnx"
    data = onnx_model(onnx.helper.make_graph([node], "g", [], [])).SerializeToString()
    path.write_bytes(data)
    assert last_operation(path, "y") == ""
    path.write_bytes(data[:-3])
    assert last_operation(path, "y") == ""


# TensorFlow Lite.


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_a_quantised_model_of_normalised_pixels_takes_bytes_or_normalised_pixels(tmp_path, kind):
    """Both ways are the same model, up to the rounding of the input."""
    pytest.importorskip("ai_edge_litert")
    inner = classifier(tf_keras)
    model = tf_keras.Sequential(
        [tf_keras.Input((8, 8, 3)), tf_keras.layers.Rescaling(127.5, 127.5), inner]
    )
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    ends = np.stack([np.zeros((8, 8, 3)), np.full((8, 8, 3), 255)]).astype("f4")
    examples = np.concatenate([ends, pixels(30)]) / 127.5 - 1
    converter.representative_dataset = lambda: ([image[None]] for image in examples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = getattr(tf, kind)
    path = tmp_path / "m.tflite"
    path.write_bytes(converter.convert())
    images = pixels(5)
    for preprocess in ("none", "127.5,127.5"):
        answers = softmax(load_teacher(path, preprocess=preprocess)(images))
        np.testing.assert_allclose(answers, inner(images), atol=0.05)


@pytest.mark.slow
def test_a_lite_model_that_answers_one_image_at_a_time_is_asked_so(tmp_path):
    """Its reshape says 1 x 192, which a batch of two does not fit."""
    pytest.importorskip("ai_edge_litert")

    @tf.function(input_signature=[tf.TensorSpec([1, 8, 8, 3], tf.float32)])
    def sums(images):
        return tf.reshape(tf.reshape(images, [1, 192])[:, :5], [1, 5])

    converter = tf.lite.TFLiteConverter.from_concrete_functions([sums.get_concrete_function()])
    path = tmp_path / "m.tflite"
    path.write_bytes(converter.convert())
    images = pixels(3)
    answers = load_teacher(path, output="logits")(images)
    np.testing.assert_array_equal(answers, images.reshape(3, -1)[:, :5])


@pytest.mark.slow
def test_a_lite_model_for_another_number_of_channels_is_refused(tmp_path):
    pytest.importorskip("ai_edge_litert")
    (tmp_path / "m.tflite").write_bytes(tflite_bytes("float"))
    draw_directory(tmp_path / "images", {"ant": 1, "bee": 1})
    with pytest.raises(kd.StreamkdError, match="takes images of 3 channel"):
        kd.teach(
            tmp_path / "images", tmp_path / "m.tflite", tmp_path / "s.h5", color_mode="grayscale"
        )


@pytest.mark.parametrize(
    ("magic", "package", "extra"),
    [
        (b"\x1c\0\0\0TFL3", "ai-edge-litert", "tflite"),
        (b"\x08\x08\x3a\x00", "onnxruntime", "onnx"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, magic, package, extra):
    for module in ("ai_edge_litert.interpreter", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "m").write_bytes(magic)
    with pytest.raises(TeacherError, match=rf"{package} is not.*\n.*'streamkd\[{extra}\]'"):
        load_teacher(tmp_path / "m")


@pytest.mark.filterwarnings("default::streamkd.codes.StreamkdWarning")
def test_what_trust_lets_in_is_told(tmp_path):
    path = changed_h5(tmp_path, _lambda)
    told = pytest.warns(StreamkdWarning, match="would be refused without --trust: the layer Lambda")
    with told, pytest.raises(TeacherError):
        load_teacher(path, trust=True)
