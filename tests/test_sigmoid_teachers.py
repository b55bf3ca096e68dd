"""Teachers that end in sigmoid, of several labels or of one unit, from the plan to the report."""

import json
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import draw_image
from run_helpers import (
    EVALUATION_KEYS,
    binary_cross_entropy,
    command,
    dense_student,
    fit,
    refusal,
    sigmoid,
)

import streamkd as kd
from streamkd.codes import StreamkdWarning
from streamkd.errors import OptionError, StudentError, TeacherError
from streamkd.models.output_kind import LABEL_MARGIN, to_logits
from streamkd.training.student_checks import check_logits

NAMES = ["high", "red", "two"]


def labels_of(number):
    """Labels of the image with this number, by its bits."""
    return [name for bit, name in enumerate(NAMES) if number >> bit & 1]


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A folder with a table of 16 images with several labels, a sigmoid teacher and its store."""
    folder = tmp_path_factory.mktemp("several")
    lines = []
    for number in range(16):
        draw_image(folder / f"{number:02d}.png", 9 * number)
        lines.append(json.dumps({"file_name": f"{number:02d}.png", "label": labels_of(number)}))
    (folder / "images.jsonl").write_text("\n".join(lines) + "\n")
    dense_student(activation="sigmoid").save(folder / "t.keras")
    images = kd.scan(folder / "images.jsonl")
    kd.teach(images, folder / "t.keras", folder / "t.h5", progress=False)
    return folder


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    """A folder with `images` of two classes, a teacher of one sigmoid unit and its store."""
    folder = tmp_path_factory.mktemp("binary")
    for class_number, name in enumerate(("no", "yes")):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(8):
            path = folder / "images" / name / f"{number}.png"
            draw_image(path, 20 * number, 250 * class_number)
    teacher = dense_student(num_classes=1, activation="sigmoid")
    kernel = np.zeros((192, 1), np.float32)
    kernel[2::3] = 0.1  # blue is the class
    teacher.set_weights([kernel, np.array([-3.0], np.float32)])
    teacher.save(folder / "t.keras")
    kd.teach(folder / "images", folder / "t.keras", folder / "t.h5", progress=False)
    return folder


def pixels_of(images):
    return np.stack([tf.io.decode_png(tf.io.read_file(p)).numpy() for p in images.each_path()])


class TestAnswers:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
    def test_probabilities_of_labels_become_their_logits(self, dtype):
        logits = np.random.default_rng(0).normal(scale=3, size=(20, 4))
        found = to_logits(sigmoid(logits).astype(dtype), "sigmoid")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, logits, rtol=0.05 if dtype is np.float16 else 1e-4)

    def test_a_probability_of_0_or_1_has_a_finite_logit_at_the_end(self):
        found = to_logits([[0, 1, 0.5], [0, 1e-30, 1 - 2**-24]], "sigmoid")
        edge = np.log(LABEL_MARGIN) - np.log1p(-LABEL_MARGIN)
        low = np.log(1e-30)
        expected = [[edge, -edge, 0], [low, low, np.log(2**24 - 1)]]
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    @pytest.mark.parametrize("answer", [-0.1, 1.1, np.nan])
    def test_other_numbers_are_refused(self, answer):
        with pytest.raises(TeacherError, match=r"between 0 and 1.*\(row 1.*\n.*sigmoid-logits"):
            to_logits([[0.5, 0.5], [0.5, answer]], "sigmoid")

    def test_a_callable_says_what_it_answers(self, binary, tmp_path):
        images = kd.scan(binary / "images")

        def answer(pixels):
            return sigmoid(pixels[:, 0, 0, 2:] / 10 - 12)

        with pytest.raises(TeacherError, match="`--teacher-output sigmoid` for the probability"):
            kd.teach(images, answer, tmp_path / "a.h5", image_size=(8, 8), progress=False)
        teacher = kd.load_teacher(answer, output="sigmoid")
        store = kd.teach(images, teacher, tmp_path / "t.h5", image_size=(8, 8), progress=False)
        assert store.header.activation == "sigmoid"
        expected = pixels_of(images)[:, 0, 0, 2:] / 10 - 12
        np.testing.assert_allclose(store.gather(np.arange(16)), expected, rtol=1e-3)

    def test_a_softmax_layer_is_no_sigmoid_and_one_output_of_it_nothing(self):
        with pytest.raises(TeacherError, match=r"teacher 'dense' ends in softmax.\nLeave"):
            kd.load_teacher(dense_student(), output="sigmoid")
        with pytest.raises(TeacherError, match="softmax of one output, which is 1 for every"):
            kd.load_teacher(dense_student(num_classes=1))

    def test_one_of_two_softmax_outputs_says_nothing(self):
        teacher = kd.load_teacher(dense_student(num_classes=2), drop_output=0)
        with pytest.raises(TeacherError, match="a teacher needs at least two classes"):
            teacher(np.zeros((1, 8, 8, 3), np.float32))

    def test_imported_logits_of_one_column(self, binary, tmp_path):
        images = kd.scan(binary / "images")
        logits = np.where(images.labels[:, None] == 1, 3.0, -2.0).astype(np.float32)
        keys = [key.decode() for key in images.keys]
        for output, numbers in (("auto", logits), ("sigmoid", sigmoid(logits))):
            store = kd.import_logits(
                numbers, keys, images, tmp_path / f"{output}.h5", output=output, progress=False
            )
            assert store.header.is_sigmoid and store.summary["teacher_accuracy"] == 1
            np.testing.assert_allclose(store.gather(np.arange(16)), logits, rtol=1e-3)


class TestStores:
    @pytest.mark.parametrize("codec", ["float32", "float16", "packed:4"])
    def test_one_logit_an_image_is_a_sound_store(self, binary, tmp_path, codec):
        path = tmp_path / "t.h5"
        images = kd.scan(binary / "images")
        store = kd.teach(images, binary / "t.keras", path, codec=codec, progress=False)
        assert (store.num_classes, store.class_names) == (1, ["no", "yes"])
        assert store.summary["teacher_accuracy"] == 1
        assert kd.verify(path, images=images, progress=False).sound
        pixels = pixels_of(images) / 255.0
        logits = 0.1 * pixels[..., 2].sum(axis=(1, 2)) - 3
        np.testing.assert_allclose(store.gather(np.arange(16))[:, 0], logits, atol=0.01)

    def test_a_teacher_of_one_unit_has_two_classes(self, several, binary, tmp_path):
        images = kd.scan(several, labels=None)
        with pytest.raises(TeacherError, match="has 1 output, and there are 3 classes"):
            kd.teach(
                images, binary / "t.keras", tmp_path / "t.h5", class_names=NAMES, progress=False
            )

    @pytest.mark.filterwarnings("ignore:files_not_listed", "ignore:own_outputs")
    def test_inspect_teach_and_plan_say_sigmoid(self, several, capsys):
        table = several / "images.jsonl"
        assert command(capsys, "inspect", several / "t.h5")[1]["activation"] == "sigmoid"
        code, answer, _ = command(
            capsys, "teach", table, "--teacher", several / "t.keras", "--out", several / "t.h5"
        )
        assert code == 0, answer
        assert (answer["activation"], answer["teacher_accuracy"]) == ("sigmoid", None)
        code, answer, _ = command(capsys, "plan", table, "--store", several / "t.h5")
        assert (code, answer["activation"]) == (0, "sigmoid")

    def test_plan_asks_a_teacher_of_one_unit(self, binary, capsys):
        from streamkd.cli.main import main

        assert not main(["plan", str(binary / "images"), "--teacher", str(binary / "t.keras")])
        text = capsys.readouterr().out
        assert "The teacher ends in sigmoid" in text and "loss bce" in text


@pytest.fixture(scope="module")
def run(several):
    """The run of a sigmoid student on the store and the lists of labels."""
    images = kd.scan(several / "images.jsonl")
    stream = kd.join(images, several / "t.h5", batch_size=8)
    student = dense_student(activation="sigmoid", seed=1)
    options = {"metrics": ["binary_accuracy"], "temperature": 2.0, "label_smoothing": 0.1}
    fit(stream, student, several / "run", validation=images, label_weight=0.5, **options)
    return several / "run"


class TestSeveralLabels:
    def test_the_student_is_the_users_own_and_resumes(self, several, run):
        model = tf_keras.models.load_model(run / "student.keras")
        assert model.layers[-1].activation.__name__ == "sigmoid"
        config = json.loads((run / "config.json").read_text())
        assert config["loss"] == "bce" and config["class_names"] == NAMES

    def test_validation_is_that_of_keras(self, several, run):
        images = kd.scan(several / "images.jsonl")
        model = tf_keras.models.load_model(run / "student.keras")
        answers = np.asarray(model(pixels_of(images).astype(np.float32)), np.float64)
        truths = images.multi_hot
        names, numbers = (run / "metrics.csv").read_text().splitlines()[:2]
        row = dict(zip(names.split(","), numbers.split(","), strict=True))
        logits = np.log(answers) - np.log1p(-answers)
        expected = binary_cross_entropy(truths, logits).mean()
        assert float(row["val_loss"]) == pytest.approx(expected, rel=1e-3)
        right = np.mean((answers > 0.5) == truths)
        assert float(row["val_accuracy"]) == pytest.approx(right)
        assert float(row["val_binary_accuracy"]) == pytest.approx(right)

    def test_the_first_loss_is_that_of_float64(self, several):
        images = kd.scan(several / "images.jsonl")
        store = kd.open_store(several / "t.h5")
        stream = kd.join(images, store, batch_size=16)
        student = dense_student(activation="sigmoid", seed=2)
        probabilities = np.asarray(student(pixels_of(images).astype(np.float32)), np.float64)
        logits = np.log(probabilities) - np.log1p(-probabilities)
        soft = sigmoid(store.gather(np.arange(16)) / 4.0)
        _, history = fit(stream, student, label_weight=0.25, temperature=4.0)
        on_labels = binary_cross_entropy(images.multi_hot, logits).mean()
        on_teacher = 16 * binary_cross_entropy(soft, logits / 4).mean()
        last = history.last
        assert last["label_loss"] == pytest.approx(on_labels, rel=1e-3)
        assert last["distillation_loss"] == pytest.approx(on_teacher, rel=1e-3)
        assert last["loss"] == pytest.approx(0.25 * on_labels + 0.75 * on_teacher, rel=1e-3)

    def test_evaluate_of_the_run(self, several, run, capsys):
        code, report, _ = command(
            capsys, "evaluate", run, several / "images.jsonl", "--store", several / "t.h5"
        )
        added = {"activation", "num_labels", "label_accuracy", "macro_f1", "per_label"}
        added |= {"mean_average_precision", "teacher_mean_average_precision"}
        assert code == 0 and set(report) == {*EVALUATION_KEYS, "warnings", *added}
        assert [entry["label"] for entry in report["per_label"]] == NAMES
        assert report["accuracy"] is None and 0 < report["mean_average_precision"] <= 1

    def test_mixed_images_have_the_labels_of_both(self, several, tmp_path):
        images = kd.scan(several / "images.jsonl")
        views = kd.Views(1, mixup=1.0)
        path = tmp_path / "mixed.h5"
        store = kd.teach(images, several / "t.keras", path, views=views, progress=False)
        stream = kd.join(images, store, batch_size=16)
        _, targets, _ = next(iter(stream.batches(0, 1)))
        hot = targets["multi_hot"].numpy()
        assert (hot[:, 0] == images.multi_hot[stream.indices(0)]).all()
        assert (hot[0::2, 1] == hot[1::2, 0]).all() and (hot[1::2, 1] == hot[0::2, 0]).all()
        assert (targets["label_shares"].numpy() < 1).all()

    def test_a_softmax_is_not_evaluated_on_several_labels(self, several):
        with pytest.raises(StudentError, match="images have several labels each"):
            kd.evaluate(dense_student(), several / "images.jsonl", progress=False)

    def test_class_weights_and_wrong_losses_are_refused(self, several, capsys):
        images = kd.scan(several / "images.jsonl")
        stream = kd.join(images, several / "t.h5", batch_size=8)
        with pytest.raises(OptionError, match="class_weight weighs an image by its one class"):
            fit(stream, dense_student(activation="sigmoid"), class_weight="balanced")
        with pytest.raises(StudentError, match="softmax: the student ends in softmax"):
            fit(stream, dense_student())
        dense_student().save(several / "s.keras")
        words = refusal(
            capsys, "train", several / "images.jsonl", "--store", several / "t.h5",
            *("--student", several / "s.keras", "--out", several / "other", "--batch-size", "8"),
        )  # fmt: skip
        assert "Give a student that ends in sigmoid, or without activation" in words
        assert not (several / "other").exists()

    def test_a_subclass_that_hides_a_sigmoid_is_refused(self, several):
        class Hidden(tf_keras.Model):
            def __init__(self, activation):
                super().__init__()
                self.inner = dense_student(activation=activation)

            def call(self, inputs):
                return self.inner(inputs)

        stream = kd.join(several / "images.jsonl", several / "t.h5", batch_size=8)
        from streamkd.models.logits_head import logits_model

        hidden = Hidden("sigmoid")
        with pytest.raises(StudentError, match=r"between 0 and 1 whatever.*\nLeave its sigmoid"):
            check_logits(logits_model(hidden), hidden, stream)
        check_logits(logits_model(Hidden(None)), Hidden(None), stream)


class TestTwoClasses:
    @pytest.mark.parametrize(
        ("num_classes", "activation"), [(1, "sigmoid"), (2, "softmax")], ids=["one", "two"]
    )
    def test_a_student_of_either_form_learns_from_one_unit(self, binary, num_classes, activation):
        images = kd.scan(binary / "images")
        stream = kd.join(images, binary / "t.h5", batch_size=8)
        student = dense_student(num_classes=num_classes, activation=activation)
        options = {"validation": images, "epochs": 20, "label_weight": 0.1, "learning_rate": 0.05}
        _, history = fit(stream, student, class_weight="balanced", **options)
        assert history.last["val_accuracy"] == history.last["agreement"] == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error", StreamkdWarning)
            report = kd.evaluate(student, images, store=binary / "t.h5", progress=False)
        answers = np.asarray(student(pixels_of(images).astype(np.float32)), np.float64)
        yes = answers[:, -1]
        own = np.where(images.labels, yes, 1 - yes)
        assert report.nll == pytest.approx(-np.log(own).mean(), rel=1e-4)
        assert report.accuracy == report.agreement == report.teacher_accuracy == 1
        assert ("activation" in report) == (num_classes == 1)

    @pytest.mark.filterwarnings("ignore:The teacher (is the weaker one|of .* is right on)")
    def test_one_unit_learns_from_labels_and_from_a_softmax_of_two(self, binary, tmp_path):
        images = kd.scan(binary / "images")
        alone = kd.join(images, None, image_size=(8, 8), batch_size=16)
        student = dense_student(num_classes=1, activation="sigmoid")
        probabilities = np.asarray(student(pixels_of(images).astype(np.float32)), np.float64)[:, 0]
        _, history = fit(alone, student, label_weight=1)
        own = np.where(images.labels, probabilities, 1 - probabilities)
        assert history.last["loss"] == pytest.approx(-np.log(own).mean(), rel=1e-4)
        teacher = dense_student(num_classes=2, seed=3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StreamkdWarning)
            store = kd.teach(images, teacher, tmp_path / "two.h5", progress=False)
            stream = kd.join(images, store, batch_size=16)
        logits = store.gather(np.arange(16)).astype(np.float64)
        soft = sigmoid((logits[:, 1:] - logits[:, :1]) / 4)
        student = dense_student(num_classes=1, activation="sigmoid")
        own = np.log(probabilities) - np.log1p(-probabilities)
        _, history = fit(stream, student, label_weight=0, temperature=4.0)
        expected = 16 * binary_cross_entropy(soft, own[:, None] / 4).mean()
        assert history.last["loss"] == pytest.approx(expected, rel=1e-3)
