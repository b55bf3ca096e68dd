"""Files of other frameworks in odd states: made for one image, of whole numbers, odd ends."""

import numpy as np
import pytest
import tensorflow as tf

from streamkd.errors import OptionError, TeacherError
from streamkd.models import output_kind
from streamkd.teachers.image_axes import ImageAxes, InParts, as_whole_numbers
from streamkd.teachers.load_teacher import load_teacher
from streamkd.teachers.tflite_teacher import _last_operation

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(0, 0.01, (192, 3)).astype(np.float32)
LOGITS = PIXELS.reshape(5, -1) @ KERNEL
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)


def onnx_file(path, steps, *, takes="FLOAT", answers="FLOAT", last="y", **arrays):
    """Writes a model whose `steps` lead from 'x', as numbers 'f' of a row, to `last`."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [helper.make_node(*step[:3], **dict(step[3:])) for step in steps]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", getattr(kinds, takes), ["n", 8, 8, 3])],
        [helper.make_tensor_value_info(last, getattr(kinds, answers), None)],
        [
            onnx.numpy_helper.from_array(np.asarray(value), name)
            for name, value in {"kernel": KERNEL, **arrays}.items()
        ],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return str(path)


END = [("MatMul", ["f", "kernel"], ["l"]), ("Softmax", ["l"], ["y"])]
CAST = ("Cast", ["x"], ["c"], ("to", 1))


class TestOneImageAtATime:
    def test_a_shape_that_was_written_down_at_export_is_asked_one_by_one(self, tmp_path, capfd):
        steps = [("Reshape", ["x", "row"], ["f"]), *END]
        teacher = load_teacher(onnx_file(tmp_path / "t.onnx", steps, row=np.array([1, 192])))
        answers = output_kind.to_logits(PROBABILITIES, "probabilities")
        np.testing.assert_allclose(teacher(PIXELS), answers, atol=1e-4)
        assert "onnxruntime" not in capfd.readouterr().err

    def test_an_answer_of_one_row_to_many_images_is_asked_one_by_one(self, tmp_path):
        steps = [("Flatten", ["x"], ["f"]), *END, ("Reshape", ["y", "row"], ["z"])]
        path = onnx_file(tmp_path / "t.onnx", steps, last="z", row=np.array([1, -1]))
        teacher = load_teacher(path)
        assert teacher(PIXELS).shape == (5, 3)

    def test_a_saved_model_is_too(self, tmp_path):
        answer = tf.function(lambda x: {"y": tf.matmul(tf.reshape(x, (1, 192)), KERNEL)})
        spec = tf.TensorSpec((None, 8, 8, 3), tf.float32)
        module = tf.Module()
        module.answer = answer.get_concrete_function(spec)
        tf.saved_model.save(module, str(tmp_path / "saved"), {"serving_default": module.answer})
        with pytest.warns(UserWarning, match="would be refused without --trust"):
            teacher = load_teacher(str(tmp_path / "saved"), trust=True)
        np.testing.assert_allclose(teacher(PIXELS), LOGITS, atol=1e-4)

    def test_images_of_a_wrong_size_are_refused_as_before(self):
        def ask(images):
            raise TeacherError(f"fails on {len(images)}")

        with pytest.raises(TeacherError, match="fails on 1"):
            InParts(ask, None)(PIXELS)

    def test_a_model_of_any_batch_is_asked_once(self):
        asked = []
        ask = InParts(lambda images: asked.append(len(images)) or images[:, 0, 0], None)
        assert ask(PIXELS).shape == ask(PIXELS).shape == (5, 3)
        assert asked == [5, 5]


class TestWholeNumbers:
    def test_pixels_are_rounded(self):
        numbers = as_whole_numbers(np.float32([-1, 0.4, 254.6, 300]), "none", "t")
        np.testing.assert_array_equal(numbers, [0, 0, 255, 255])

    @pytest.mark.parametrize("takes", ["UINT8", "INT32", "INT64"])
    def test_preprocessed_pixels_are_not_cut_off_in_silence(self, tmp_path, takes):
        steps = [CAST, ("Flatten", ["c"], ["f"]), *END]
        path = onnx_file(tmp_path / "t.onnx", steps, takes=takes)
        answers = output_kind.to_logits(PROBABILITIES, "probabilities")
        np.testing.assert_allclose(load_teacher(path)(PIXELS), answers, atol=1e-4)
        with pytest.raises(OptionError, match=r"--preprocess is scale, .*'t\.onnx' takes whole"):
            load_teacher(path, preprocess="scale")(PIXELS)

    def test_a_saved_model_of_bytes_refuses_them_too(self, tmp_path):
        spec = tf.TensorSpec((None, 8, 8, 3), tf.uint8)
        module = tf.Module()
        module.answer = tf.function(
            lambda x: {"y": tf.matmul(tf.reshape(tf.cast(x, tf.float32), (-1, 192)), KERNEL)}
        ).get_concrete_function(spec)
        tf.saved_model.save(module, str(tmp_path / "saved"), {"serving_default": module.answer})
        with pytest.warns(UserWarning, match="would be refused without --trust"):
            teacher = load_teacher(str(tmp_path / "saved"), trust=True, preprocess="scale")
        with pytest.raises(OptionError, match="Leave --preprocess out"):
            teacher(PIXELS)

    def test_numbers_of_classes_are_taken(self, tmp_path):
        steps = [("Flatten", ["x"], ["f"]), *END[:1], ("ArgMax", ["l"], ["y"], ("axis", 1))]
        path = onnx_file(tmp_path / "t.onnx", steps, answers="INT64")
        teacher = load_teacher(path, output="class")
        teacher.num_outputs = 3
        np.testing.assert_array_equal(teacher(PIXELS).argmax(axis=1), LOGITS.argmax(axis=1))

    def test_texts_are_refused_before_they_are_paid(self, tmp_path):
        module = tf.Module()
        module.answer = tf.function(
            lambda x: {"label": tf.strings.as_string(x[:, 0, 0, 0])}
        ).get_concrete_function(tf.TensorSpec((None, 8, 8, 3), tf.float32))
        tf.saved_model.save(module, str(tmp_path / "saved"), {"serving_default": module.answer})
        words = r"'saved' answers with string \(output 'label'\), and answers are numbers\.\n"
        with (
            pytest.warns(UserWarning, match="would be refused without --trust"),
            pytest.raises(TeacherError, match=words),
        ):
            load_teacher(str(tmp_path / "saved"), trust=True)


class Operations:
    """The list of operations of a TensorFlow Lite model, and the shapes of its tensors."""

    def __init__(self, *operations, shapes):
        self._operations, self._shapes = operations, shapes

    def _get_ops_details(self):
        return [
            {"op_name": name, "inputs": [source], "outputs": [target]}
            for name, source, target in self._operations
        ]

    def get_tensor_details(self):
        return [{"index": index, "shape": shape} for index, shape in self._shapes.items()]


class TestLastOperation:
    @pytest.mark.parametrize("name", ["SOFTMAX", "LOGISTIC", "FULLY_CONNECTED"])
    def test_a_delegate_does_not_hide_it(self, name):
        operations = (("A", 0, 1), (name, 1, 2), ("DEQUANTIZE", 2, 3), ("DELEGATE", 0, 3))
        shapes = {0: [1, 8], 1: [1, 3], 2: [1, 3], 3: [1, 3]}
        assert _last_operation(Operations(*operations, shapes=shapes), 3) == name

    @pytest.mark.parametrize(
        ("before", "after", "found"),
        [
            ([1, 3], [1, 1, 1, 3], "SOFTMAX"),
            ([1, 2, 3], [1, 6], ""),  # two softmaxes beside each other
            ([1, 3, 1], [1, 3], ""),  # of one number each, which is always 1
        ],
    )
    def test_a_softmax_is_one_over_all_outputs(self, before, after, found):
        operations = (("SOFTMAX", 0, 1), ("RESHAPE", 1, 2))
        model = Operations(*operations, shapes={0: before, 1: before, 2: after})
        assert _last_operation(model, 2) == found


def test_an_input_whose_shape_is_not_known_is_refused_in_words():
    with pytest.raises(TeacherError, match="'t' takes an input of a shape that is not known"):
        ImageAxes.of_shape([], "t")
