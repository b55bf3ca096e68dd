"""The distiller: it trains, writes a run, resumes it, and refuses options that do not fit."""

from __future__ import annotations

import functools
import importlib
import json
import shutil

import numpy as np
import pytest
import run_helpers
import tensorflow as tf
import tf_keras
from helpers import draw_directory
from process_helpers import finished
from resume_helpers import metrics_of
from run_helpers import (
    dense_student,
    killed,
    same_weights,
    snapshot,
    softmax,
    weights_of,
)

from streamkd.errors import (
    BadImageError,
    ChangedImageError,
    ClassNamesError,
    DiskFullError,
    NonFiniteError,
    OptionError,
    OutputError,
    StudentError,
)
from streamkd.exports.export import export
from streamkd.manifest.manifest import scan
from streamkd.models.families import load_model
from streamkd.runs.checkpoint import Checkpoints
from streamkd.runs.run_directory import COLUMNS
from streamkd.stream.join import join
from streamkd.training.distiller import Distiller
from streamkd.training.step_calls import StepCalls

EPOCHS = 4
BATCH_SIZE = 8  # of 30 images: batches straddle the epochs


@pytest.fixture
def directory(shared):
    return shared[0]


@pytest.fixture
def store(shared):
    return shared[1]


@pytest.fixture
def broken(directory, tmp_path):
    """A copy of the directory in which bee/00014.png is no image any more."""
    shutil.copytree(directory, tmp_path / "broken")
    (tmp_path / "broken" / "bee" / "00014.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return scan(tmp_path / "broken")


@pytest.fixture
def changed(directory, tmp_path):
    """A copy of the directory in which bee/00014.png has one byte more, after its pixels."""
    shutil.copytree(directory, tmp_path / "changed")
    with open(tmp_path / "changed" / "bee" / "00014.png", "ab") as file:
        file.write(b"\0")
    return scan(tmp_path / "changed")


@pytest.fixture(scope="module")
def stream(shared):
    return join(scan(shared[0]), shared[1], batch_size=BATCH_SIZE, seed=3)


@pytest.fixture(scope="module")
def pixels(stream):
    """All images, float32 `[30, 8, 8, 3]`."""
    batches = join(stream.images, stream.store, batch_size=30, shuffle=False).batches(0, 1)
    return next(iter(batches))[0].numpy()


fit = functools.partial(run_helpers.fit, epochs=EPOCHS)


@pytest.fixture(scope="module")
def whole(stream, tmp_path_factory):
    """A run of the dense student that nothing stopped: its distiller."""
    return fit(stream, run=tmp_path_factory.mktemp("whole") / "run")[0]


def test_the_users_own_model_comes_back_with_its_softmax_and_better(stream, pixels, family):
    student = dense_student(family)
    layers, before = list(student.layers), np.asarray(student(pixels))
    distiller, history = fit(stream, student, learning_rate=0.1, temperature=2.0)
    assert distiller.student is student and student.layers == layers
    assert student.layers[-1].activation.__name__ == "softmax"
    after = np.asarray(student(pixels))
    np.testing.assert_allclose(after.sum(axis=1), 1, rtol=1e-5)
    kernel, bias = weights_of(student)
    logits = pixels.reshape(30, -1).astype(np.float64) / 255 @ kernel + bias
    np.testing.assert_allclose(after, softmax(logits), rtol=1e-4, atol=1e-6)
    assert np.abs(after - before).max() > 0.01
    losses = history.history["loss"]
    assert len(losses) == EPOCHS and losses[-1] < losses[0]


def test_weights_are_those_of_a_plain_training_loop(stream, family):
    """The same batches through a loop written with Keras' own losses, on probabilities' logs."""
    temperature, label_weight = 3.0, 0.3
    optimizer = family.optimizers.SGD(0.05, momentum=0.9)
    own = dense_student(family)
    fit(stream, own, optimizer=optimizer, temperature=temperature, label_weight=label_weight)

    plain = dense_student(activation=None)
    optimizer = tf_keras.optimizers.SGD(0.05, momentum=0.9)
    on_labels = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    on_teacher = tf_keras.losses.KLDivergence()
    for images, targets, _ in stream.batches(0, stream.end_of_epoch(EPOCHS)):
        soft_targets = tf.nn.softmax(targets["teacher_logits"] / temperature)
        with tf.GradientTape() as tape:
            logits = plain(images, training=True)
            loss = label_weight * on_labels(targets["labels"][:, 0], logits)
            divergence = on_teacher(soft_targets, tf.nn.softmax(logits / temperature))
            loss += (1 - label_weight) * temperature**2 * divergence
        gradients = tape.gradient(loss, plain.trainable_variables)
        optimizer.apply_gradients(zip(gradients, plain.trainable_variables, strict=True))
    for weight, expected in zip(weights_of(own), weights_of(plain), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-6)
    assert not same_weights(own, dense_student(family)), "it did train"


def test_xla_and_steps_per_call_change_nothing(stream):
    reference = fit(stream, optimizer=tf_keras.optimizers.SGD(0.05))
    for options in ({"jit": True}, {"steps_per_call": 1}, {"steps_per_call": 3}):
        optimizer = tf_keras.optimizers.SGD(0.05)
        distiller, history = fit(stream, optimizer=optimizer, **options)
        for weight, expected in zip(
            weights_of(distiller.student), weights_of(reference[0].student), strict=True
        ):
            np.testing.assert_allclose(weight, expected, atol=1e-6, err_msg=str(options))
        np.testing.assert_allclose(
            history.history["loss"], reference[1].history["loss"], rtol=1e-5, err_msg=str(options)
        )


def test_metrics_are_those_of_the_epochs_own_images(stream):
    """With a rate of nearly nothing, the epoch's numbers are those of a fixed student."""
    student = dense_student()
    _, history = fit(stream, student, optimizer=tf_keras.optimizers.SGD(1e-12), epochs=1)
    batches = list(stream.batches(0, stream.end_of_epoch(1)))
    answers = np.concatenate([student(b[0]).numpy().argmax(axis=1) for b in batches])
    labels = np.concatenate([b[1]["labels"][:, 0].numpy() for b in batches])
    teacher = np.concatenate([b[1]["teacher_logits"].numpy() for b in batches])
    assert len(answers) == 32
    assert history.last["accuracy"] == pytest.approx(np.mean(answers == labels))
    assert history.last["agreement"] == pytest.approx(np.mean(answers == teacher.argmax(axis=1)))


def test_validation_numbers_are_those_of_evaluate(stream, directory, images, capsys):
    student = dense_student()
    _, history = fit(stream, student, validation=images, learning_rate=0.05)
    data = tf_keras.utils.image_dataset_from_directory(
        directory, image_size=(8, 8), shuffle=False, batch_size=30
    )
    student.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = student.evaluate(data, verbose=0)
    assert history.last["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert history.last["val_accuracy"] == pytest.approx(accuracy)


LOADING = """
import sys
import keras, tf_keras
import numpy as np
pixels = np.load("pixels.npy")
for family in (tf_keras, keras):
    for name in ("student", "exported"):
        model = family.models.load_model(f"{family.__name__}/{name}.keras")
        assert model.layers[-1].activation.__name__ == "softmax"
        np.save(f"{family.__name__}/{name}.npy", model.predict(pixels, verbose=0))
assert not [name for name in sys.modules if name.partition(".")[0] == "streamkd"]
"""


def test_students_load_in_a_process_that_knows_nothing_of_streamkd(stream, pixels, tmp_path):
    np.save(tmp_path / "pixels.npy", pixels)
    answers = {}
    for family in ("tf_keras", "keras"):
        run = tmp_path / family
        distiller, _ = fit(stream, dense_student(family), run, epochs=1, learning_rate=0.1)
        export(run, run / "exported.keras", progress=False)
        answers[family] = np.asarray(distiller.student(pixels))
    finished("-c", LOADING, cwd=tmp_path)
    for family, expected in answers.items():
        for name in ("student", "exported"):
            loaded = np.load(tmp_path / family / f"{name}.npy")
            np.testing.assert_allclose(loaded, expected, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(loaded.sum(axis=1), 1, rtol=1e-5)


def test_a_run_writes_its_files(stream, images, store, tmp_path):
    run = tmp_path / "run"
    distiller, history = fit(stream, run=run, validation=images, epochs=2, temperature=2)
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints",
        "config.json",
        "metrics.csv",
        "student.keras",
    ]
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == [
        "step-0000000004",
        "step-0000000008",
    ]
    assert same_weights(tf_keras.models.load_model(run / "student.keras"), distiller.student)
    config = json.loads((run / "config.json").read_text())
    assert config["images"] == images.fingerprint
    assert config["store"]["fingerprint"] == store.header.fingerprint
    assert (config["temperature"], config["batch_size"], config["seed"]) == (2.0, 8, 3)
    assert config["class_names"] == ["ant", "bee", "cat"] and config["epochs"] == 2
    rows = metrics_of(run)
    assert tuple(rows[0]) == COLUMNS[:-2] and [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["step"] for row in rows] == ["4", "8"]
    assert float(rows[1]["val_loss"]) == history.last["val_loss"]
    assert history.run == str(run) and history.last["images_per_second"] > 0


# Another moment of it, and another family: test_resume.py.
@pytest.mark.parametrize(
    ("own", "num_epochs"), [("tf_keras", 3), pytest.param("keras", 1, marks=pytest.mark.slow)]
)
def test_a_run_killed_after_some_epochs_ends_as_if_it_had_not_been(
    stream, images, tmp_path, own, num_epochs
):
    options = {"validation": images, "optimizer": "adam", "learning_rate": 0.05}
    whole, _ = fit(stream, dense_student(own), run=tmp_path / "whole", **options)
    with killed(Checkpoints, "save", call=num_epochs, after=True):
        fit(stream, dense_student(own), run=tmp_path / "cut", **options)
    (tmp_path / "cut" / "checkpoints" / "step-0000000099.tmp").mkdir()
    # Another first state on purpose: everything has to come from the checkpoint.
    resumed, history = fit(stream, dense_student(own, seed=5), run=tmp_path / "cut", **options)
    assert same_weights(resumed.student, whole.student)
    assert same_weights(load_model(tmp_path / "cut" / "student.keras"), whole.student)
    assert metrics_of(tmp_path / "cut") == metrics_of(tmp_path / "whole")
    assert len(history.epochs) == EPOCHS
    assert not list((tmp_path / "cut").rglob("*.tmp*"))


def test_a_run_killed_within_an_epoch_repeats_that_epoch(stream, whole, tmp_path):
    with killed(StepCalls, "take", call=7):  # of 16
        fit(stream, run=tmp_path / "cut", steps_per_call=1)
    resumed, _ = fit(stream, run=tmp_path / "cut", steps_per_call=1)
    assert same_weights(resumed.student, whole.student)


def test_no_resume_starts_over(stream, tmp_path):
    run = tmp_path / "run"
    fit(stream, run=run)
    fresh, _ = fit(stream, temperature=2.0, epochs=2)
    again, history = fit(stream, run=run, temperature=2.0, epochs=2, resume=False)
    assert same_weights(again.student, fresh.student) and len(history.epochs) == 2
    assert json.loads((run / "config.json").read_text())["temperature"] == 2.0
    assert len(metrics_of(run)) == 2
    names = [path.name for path in sorted((run / "checkpoints").iterdir())]
    assert names == ["step-0000000004", "step-0000000008"]


def test_fewer_epochs_than_were_done_are_refused(stream, tmp_path):
    run = tmp_path / "run"
    fit(stream, run=run, epochs=2, optimizer=tf_keras.optimizers.SGD(0.1))
    with pytest.raises(OptionError, match=r"--epochs is 1, and the run .*/run has done 2\.\nGive"):
        fit(stream, run=run, epochs=1, optimizer=tf_keras.optimizers.SGD(0.1))
    fit(stream, run=run, epochs=3, optimizer=tf_keras.optimizers.SGD(0.1))
    assert len(metrics_of(run)) == 3, "with the user's own optimizer more epochs are fine"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0}, r"temperature is 0; it must be a positive number\."),
        ({"temperature": -2.0}, r"temperature is -2\.0; it must be a positive number\."),
        ({"label_weight": 1.5}, r"label_weight is 1\.5; it must lie between 0 and 1\."),
        ({"learning_rate": 0}, r"learning_rate is 0; it must be a positive number\."),
        ({"steps_per_call": 0}, r"steps_per_call is 0; it must be a positive whole number\."),
        ({"epochs": 0}, r"epochs is 0; it must be a positive whole number\."),
        ({"optimizer": "adamm"}, r"no optimizer 'adamm' in tf_keras\.\n"),
        ({"student_preprocess": "twice"}, r"The preprocessing is 'twice'; choose none, scale"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_options_that_cannot_be_are_refused(stream, tmp_path, options, words):
    with pytest.raises(OptionError, match=words):
        fit(stream, run=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("own", "other"), [("tf_keras", "keras"), ("keras", "tf_keras")])
def test_an_optimizer_of_the_other_family_is_refused(stream, own, other):
    optimizer = importlib.import_module(other).optimizers.SGD(0.1)
    with pytest.raises(OptionError, match=f"SGD belongs to {other}, and the student to {own}"):
        fit(stream, dense_student(own), optimizer=optimizer)


def test_a_schedule_that_does_not_describe_itself_is_refused(stream, family):
    class Halved(family.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.5

    with pytest.raises(OptionError) as info:
        fit(stream, dense_student(family), optimizer=family.optimizers.SGD(Halved()))
    said = str(info.value)
    assert said.startswith("The optimizer SGD has no get_config, so a resumed run could not be ")
    assert said.endswith(
        "\nAdd `get_config` to its class, or to the class of its learning rate schedule."
    )


def test_a_student_of_another_width_is_refused(stream):
    with pytest.raises(StudentError) as info:
        fit(stream, dense_student(num_classes=4))
    assert str(info.value) == (
        "The student's output disagrees with the store.\n"
        "  student: 'dense', outputs of shape [4]\n"
        "  store:  3 classes\n"
        "Give a student with 3 outputs."
    )


def test_a_student_of_several_outputs_is_refused(stream, family):
    inputs = family.Input((8, 8, 3))
    features = family.layers.Flatten()(inputs)
    student = family.Model(inputs, [family.layers.Dense(3)(features) for _ in range(2)])
    with pytest.raises(StudentError, match="has 2 outputs, and only one of them can be the logits"):
        fit(stream, student)


def test_a_student_of_another_input_is_refused(stream):
    with pytest.raises(StudentError) as info:
        fit(stream, dense_student(image_size=(9, 8)))
    assert str(info.value) == (
        "The student 'dense' does not take the images of the stream.\n"
        "  student: [9, 8, 3] (height, width, channels)\n"
        "  stream:  [8, 8, 3]\n"
        "Give `--image-size` and `--color-mode` as the student needs them."
    )


def subclassed(family, *, activation):
    class Subclassed(family.Model):
        def __init__(self):
            super().__init__(name="own")
            self.flatten = family.layers.Flatten()
            self.dense = family.layers.Dense(3, activation=activation)

        def call(self, inputs):
            return self.dense(self.flatten(inputs / 255))

    return Subclassed()


def test_probabilities_of_a_subclassed_student_are_refused(stream, family):
    with pytest.raises(
        StudentError, match=r"'own' answers with probabilities, .*cannot be looked into"
    ) as info:
        fit(stream, subclassed(family, activation="softmax"))
    assert str(info.value).endswith("Leave its softmax out: return logits.")


def test_a_subclassed_student_that_returns_logits_is_trained(stream, pixels, family):
    student = subclassed(family, activation=None)
    distiller, history = fit(stream, student, optimizer="sgd", learning_rate=0.1, epochs=2)
    assert distiller.student is student and history.last["loss"] < history.epochs[0]["loss"]


def test_a_stream_without_logits_learns_from_labels_alone(images):
    stream = join(images, None, image_size=(8, 8), batch_size=BATCH_SIZE)
    with pytest.raises(
        OptionError, match=r"label_weight is 0\.1, and the stream has no teacher logits\.\n.*=1\."
    ):
        fit(stream)
    _, history = fit(stream, label_weight=1, epochs=2, learning_rate=0.05)
    assert history.last["loss"] == pytest.approx(history.last["label_loss"])
    assert history.last["distillation_loss"] is None and history.last["agreement"] is None
    with pytest.raises(
        StudentError, match=r"disagrees with the classes of the images\.\n(.*\n)*.*images:  3"
    ):
        fit(stream, dense_student(num_classes=4), label_weight=1)


def test_unlabelled_images_learn_from_the_teacher_alone(directory, store):
    stream = join(scan(directory, labels=None), store, batch_size=BATCH_SIZE)
    _, history = fit(stream, epochs=2, label_weight=0.5, learning_rate=0.05)
    last = history.last
    assert last["label_loss"] is None and last["accuracy"] is None
    assert last["loss"] == pytest.approx(0.5 * last["distillation_loss"])


@pytest.mark.filterwarnings("ignore:The pixels of the student are preprocessed twice")
def test_preprocessing_becomes_the_first_layers_of_the_student(stream, pixels, family):
    student = dense_student(family)
    distiller, _ = fit(stream, student, student_preprocess="127.5,64", epochs=1)
    expected = np.asarray(student((pixels - 127.5) / 64))
    np.testing.assert_allclose(
        np.asarray(distiller.student(pixels)), expected, rtol=1e-4, atol=1e-6
    )


def test_a_loss_that_is_not_finite_is_refused_and_nothing_is_saved(stream, tmp_path):
    optimizer = tf_keras.optimizers.SGD(float("inf"))
    with pytest.raises(
        NonFiniteError, match=r"loss or the gradient of step 1 is not a finite number\.\n"
    ) as info:
        fit(stream, optimizer=optimizer, run=tmp_path / "run")
    assert "Lower the learning rate, `--learning-rate`, or clip" in str(info.value)
    assert not (tmp_path / "run").exists()


def test_weights_spoilt_by_the_last_step_of_an_epoch_are_not_saved(images, store, tmp_path):
    stream = join(images, store, batch_size=30)
    with pytest.raises(
        NonFiniteError, match=r"weights are no longer finite numbers after step 1\.\nLower"
    ):
        fit(stream, run=tmp_path / "run", optimizer=tf_keras.optimizers.SGD(float("inf")))
    assert not (tmp_path / "run").exists()


def test_a_bad_image_is_named_and_nothing_is_written(broken, tmp_path):
    stream = join(broken, None, image_size=(8, 8), batch_size=BATCH_SIZE)
    with pytest.raises(BadImageError, match=r"'bee/00014\.png' cannot be decoded: ") as info:
        fit(stream, label_weight=1, run=tmp_path / "runs" / "first")
    assert info.value.key == b"bee/00014.png"
    assert not (tmp_path / "runs").exists()


def test_a_changed_image_is_named(changed, store, tmp_path):
    stream = join(changed, store, batch_size=BATCH_SIZE)
    with pytest.raises(
        ChangedImageError, match=r"'bee/00014\.png' is not the file that the teacher"
    ):
        fit(stream, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_resume_that_fails_leaves_the_old_run(stream, changed, store, tmp_path):
    fit(stream, run=tmp_path / "run", epochs=1)
    before = snapshot(tmp_path / "run")
    other = join(changed, store, batch_size=BATCH_SIZE)
    with pytest.raises(ChangedImageError, match=r"'bee/00014\.png' is not the file that the"):
        fit(other, run=tmp_path / "run", epochs=2, resume=False)
    assert snapshot(tmp_path / "run") == before


def test_validation_of_other_classes_is_refused(stream, tmp_path):
    other = scan(draw_directory(tmp_path / "other", {"ant": 1, "owl": 1}))
    with pytest.raises(ClassNamesError, match=r"first of 1 unknown to the student: 'owl'"):
        fit(stream, validation=other, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_below_a_file_is_refused(stream, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written: Not a directory"):
        fit(stream, run=tmp_path / "file" / "run")


@pytest.mark.parametrize("full", ["OSError", "TensorFlow"])
def test_a_full_disk_at_the_first_checkpoint_leaves_nothing(stream, tmp_path, monkeypatch, full):
    def fail(self, *args):
        if full == "OSError":
            raise OSError(28, "No space left on device")
        raise tf.errors.ResourceExhaustedError(None, None, "x; No space left on device")

    monkeypatch.setattr(tf.train.Checkpoint, "write", fail)
    with pytest.raises(
        DiskFullError, match=r"no room for .*/run: No space left on device\."
    ) as info:
        fit(stream, run=tmp_path / "run", epochs=1)
    assert str(info.value).endswith("Make room, and give the same command again.")
    assert not (tmp_path / "run").exists()


def test_a_student_that_is_no_keras_model_is_refused():
    with pytest.raises(
        OptionError, match=r"builtins\.int is not a Keras model; give a tf_keras or"
    ):
        Distiller(3)
