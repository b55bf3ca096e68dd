"""What was read from a model's layers is compared with the model's answers before it counts."""

import keras
import numpy as np
import pytest
from helpers import draw_image, small_model
from run_helpers import SAME_LINES_FOR_BOTH, fit

from streamkd.codes import StreamkdWarning
from streamkd.errors import StudentError
from streamkd.manifest.manifest import scan
from streamkd.models import families
from streamkd.models.head_check import check_student_head, head_difference
from streamkd.models.logits_head import LogitsModel, logits_model
from streamkd.results.evaluate import evaluate
from streamkd.stream.join import join
from streamkd.teachers.teach import teach
from streamkd.teachers.teacher import Teacher
from streamkd.training.student_checks import check_fits

PIXELS = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype(np.float32)
# Random weights are right by chance.
AT_CHANCE = pytest.mark.filterwarnings("ignore:The teacher 'small' is right on")


@pytest.fixture
def sharp(family, monkeypatch):
    """A model whose Dense layers are Keras' own class and compute three times their logits.

    As a later version of Keras might, or a program that changed the class.
    """
    call = family.layers.Dense.call

    def sharpened(self, inputs):
        activation, self.activation = self.activation, family.activations.linear
        logits = call(self, inputs)
        self.activation = activation
        return activation(3 * logits)

    monkeypatch.setattr(family.layers.Dense, "call", sharpened)
    return small_model(family)


def softened(logits, temperature):
    numbers = np.asarray(logits, np.float64) / temperature
    powers = np.exp(numbers - numbers.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def assert_own_targets(logits, model, pixels):
    """Asserts that softened logits are the model's own probabilities, softened."""
    own = np.log(np.asarray(model(pixels), np.float64))
    for temperature in (1, 20):
        expected = softened(own, temperature)
        np.testing.assert_allclose(softened(logits, temperature), expected, atol=1e-5)


def test_a_teacher_whose_head_is_not_what_it_seems_answers_as_it_is(sharp):
    teacher = Teacher.from_model(sharp, name="sharp.keras")
    assert teacher.removed == "softmax"
    with pytest.warns(StreamkdWarning) as warned:
        logits = teacher(PIXELS)
    assert_own_targets(logits, sharp, PIXELS)
    assert (teacher.removed, teacher.output_kind) == (None, "probabilities")
    assert warned[0].message.code == "head_not_found"
    message = str(warned[0].message)
    assert message.startswith(
        "The layers of 'sharp.keras' show a softmax at the end, and the softmax of the logits "
        "before it differs by 0."
    )
    assert message.endswith(
        " from what the model answers.\nSo the model's own answers are taken; if they are "
        "probabilities, their logarithms are the logits."
    )
    np.testing.assert_array_equal(teacher(PIXELS), logits)  # and says so once


@AT_CHANCE
@SAME_LINES_FOR_BOTH
def test_a_store_goes_on_as_its_teacher_began(images, directory, sharp, tmp_path):
    path = tmp_path / "sharp.h5"
    options = {"codec": "float32", "batch_size": 8, "progress": False}
    with pytest.warns(StreamkdWarning, match="show a softmax"):
        store = teach(images, sharp, path, **options)
    before = path.read_bytes()
    assert store.header.teacher["output"] == "probabilities"
    assert store.header.teacher["removed"] is None
    teach(images, sharp, path, **options)  # without a warning, which would be an error
    assert path.read_bytes() == before
    draw_image(directory / "bee" / "99999.png", 77, 1, (8, 8))
    more = scan(directory)
    logits = teach(more, sharp, path, **options)
    batch = join(more, None, image_size=(8, 8), batch_size=len(more), shuffle=False)
    pixels = next(iter(batch.batches(0, 1)))[0].numpy()
    rows = logits.gather(logits.images_of_keys(more.keys))
    assert len(rows) == len(images) + 1
    assert_own_targets(rows, sharp, pixels)


@AT_CHANCE
def test_a_store_of_probabilities_goes_on_where_logits_are_found_now(images, tmp_path, monkeypatch):
    model, path = small_model("keras"), tmp_path / "old.h5"
    with monkeypatch.context() as earlier:
        earlier.setattr(type(families.KERAS_3), "own_kind", lambda self, layer: None)
        old = teach(images, model, path, batch_size=8, progress=False)
    assert old.header.teacher["removed"] is None
    before = path.read_bytes()
    teach(images, model, path, batch_size=8, progress=False)
    assert path.read_bytes() == before


def test_a_student_whose_head_is_not_what_it_seems_is_refused(sharp):
    with pytest.raises(StudentError) as refused:
        check_student_head(logits_model(sharp), sharp, (8, 8, 3), "small")
    message = str(refused.value)
    assert message.startswith(
        "The layers of the student 'small' show a softmax at the end, and the softmax of the "
        "logits before it differs by 0."
    )
    assert message.endswith(
        " from what the student answers.\nLeave its softmax out: return logits."
    )


def test_it_is_refused_before_the_first_step(images, store, sharp, tmp_path):
    stream = join(images, store, batch_size=8)
    before = sharp.get_weights()
    with pytest.raises(StudentError, match="Leave its softmax out"):
        fit(stream, sharp, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert all(map(np.array_equal, before, sharp.get_weights()))


@SAME_LINES_FOR_BOTH
def test_an_evaluation_takes_the_models_own_answers(images, sharp):
    with pytest.warns(StreamkdWarning, match="The layers of 'small' show a softmax"):
        report = evaluate(sharp, images, progress=False)
    batch = join(images, None, image_size=(8, 8), batch_size=len(images), shuffle=False)
    own = np.asarray(sharp(next(iter(batch.batches(0, 1)))[0].numpy()), np.float64)
    nll = -np.log(own[np.arange(len(images)), images.labels]).mean()
    assert report.to_dict()["nll"] == pytest.approx(nll, rel=1e-4)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("scale", [1, 30])
def test_rounding_is_no_difference(family, policy, scale):
    layers = family.layers
    model = family.Sequential(
        [
            family.Input((8, 8, 3)),
            layers.Rescaling(1 / 255, dtype=policy),
            layers.Conv2D(16, 3, activation="relu", dtype=policy),
            layers.Flatten(dtype=policy),
            layers.Dense(10, activation="softmax", dtype=policy),
        ]
    )
    model.set_weights([scale * weight for weight in model.get_weights()])
    assert head_difference(logits_model(model), model, PIXELS) is None


def test_a_model_that_answers_differently_each_time_is_not_judged(family):
    head = family.layers.Dense(3, activation="softmax")
    head.build((None, 192))

    def restless(pixels, training=False):
        noise = np.random.default_rng().normal(size=(len(pixels), 192)).astype(np.float32)
        return head(noise)

    other = LogitsModel(restless, removed="softmax", inspected=True)
    assert head_difference(other, restless, PIXELS) is None


def test_nothing_is_asked_where_nothing_was_taken_off():
    def never(pixels, training=False):
        raise AssertionError

    assert head_difference(LogitsModel(never, None, True), never, PIXELS) is None


def without_input(family):
    layers = family.layers
    return family.Sequential(
        [
            family.Sequential([layers.Rescaling(1 / 255), layers.Conv2D(4, 3)]),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )


@SAME_LINES_FOR_BOTH
def test_a_sequential_without_an_input_trains_by_its_logits(images, store, family, tmp_path):
    student = without_input(family)
    _, history = fit(join(images, store, batch_size=8), student, tmp_path / "run")
    assert logits_model(student).removed == "softmax"
    assert history.last["loss"] > 0
    report = evaluate(tmp_path / "run", images, progress=False)
    assert report.num_images == len(images)


def quantised_student():
    layers = keras.layers
    kernel = layers.Dense(4, name="scores")
    head = layers.Dense(3, name="head")
    student = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), kernel, head])
    kernel.quantize("int8")
    return student, kernel


def test_a_student_of_whole_numbers_is_refused_by_the_names_of_its_layers(images, store):
    student, _ = quantised_student()
    with pytest.raises(StudentError) as refused:
        check_fits(logits_model(student), student, join(images, store, batch_size=8))
    assert str(refused.value) == (
        f"The student {student.name!r} is quantised, and the kernels of 1 of its layers are whole "
        "numbers, which cannot be trained: 'scores'.\n"
        "Train it first and quantise it then; or set `trainable = False` on these layers."
    )


@pytest.mark.parametrize("way", ["frozen", "lora"])
def test_whole_numbers_that_need_not_learn_are_taken(images, store, way):
    student, kernel = quantised_student()
    if way == "frozen":
        kernel.trainable = False
    else:
        kernel.enable_lora(2)
    check_fits(logits_model(student), student, join(images, store, batch_size=8))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_student_whose_softmax_is_hidden_is_refused(images, store, family, policy):
    class Softmax(family.layers.Layer):
        def call(self, x):
            return family.activations.softmax(x)

    layers = family.layers
    student = family.Sequential(
        [
            family.Input((8, 8, 3)),
            layers.Flatten(),
            layers.Dense(3, dtype=policy),
            Softmax(dtype=policy),
        ]
    )
    with pytest.raises(StudentError, match="Leave its softmax out: return logits"):
        check_fits(logits_model(student), student, join(images, store, batch_size=8))
