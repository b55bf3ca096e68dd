"""Teachers that give the class alone, or rounded probabilities: taken, and what is lost is said."""

from __future__ import annotations

import helpers
import numpy as np
import pytest

import streamkd as kd
from streamkd.errors import TeacherError
from streamkd.models.output_kind import to_logits
from streamkd.models.rounding import rounding_step

SIZE = (8, 8)
# The answers of these teachers have nothing to do with the labels.
pytestmark = pytest.mark.filterwarnings("ignore:The teacher .* is right on")


def class_numbers(pixels):
    return np.asarray(pixels)[:, 0, 0, 0].astype(np.int64) % 3


ANSWERS = {
    "numbers": class_numbers,
    "a column of numbers": lambda pixels: class_numbers(pixels)[:, None],
    "one-hot rows": lambda pixels: np.eye(3)[class_numbers(pixels)],
    "scores": lambda pixels: np.eye(3)[class_numbers(pixels)] * 7 - 2,
    "a list": lambda pixels: class_numbers(pixels).tolist(),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_a_class_is_stored_as_a_smoothed_label(images, tmp_path, answer):
    teacher = kd.load_teacher(answer, name="box", output="class")
    with pytest.warns(UserWarning, match="The teacher 'box' gives the class alone"):
        store = kd.teach(
            images, teacher, tmp_path / "s.h5", image_size=SIZE, codec="float32", progress=False
        )
    logits = store.gather(np.arange(len(images)))
    shares = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.sort(shares, axis=1), [[0.1 / 3, 0.1 / 3, 0.9 + 0.1 / 3]] * 30)
    assert store.header.teacher["output"] == "class"
    assert store.header.activation == "softmax"


def test_numbers_of_no_class_are_refused(images, tmp_path):
    for number, words in ((3, "answered 3, and its 3 classes"), (0.5, "answered 0.5, and")):
        teacher = kd.load_teacher(lambda pixels, n=number: np.full(len(pixels), n), output="class")
        with pytest.raises(TeacherError, match=words):
            kd.teach(images, teacher, tmp_path / "s.h5", image_size=SIZE, progress=False)
    assert not (tmp_path / "s.h5").exists()
    teacher = kd.load_teacher(class_numbers, output="class")
    with pytest.raises(TeacherError, match=r"nothing says how many there are"):
        teacher(np.zeros((2, 8, 8, 3), np.float32))


def test_only_the_first_choice_of_scores_counts():
    logits = to_logits(np.array([[3.0, 9.0, -1.0], [0.2, 0.1, 0.7]]), "class")
    assert logits.argmax(axis=1).tolist() == [1, 2]
    np.testing.assert_allclose(logits[0], to_logits(np.array([[0, 1, 0]]), "class")[0])


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("step", [1 / 256, 1 / 255, 0.1, 1 / 16, 0.01, 0.001, 1e-4])
def test_rounded_probabilities_show_their_step(step):
    exact = softmax(np.random.default_rng(1).normal(0, 3, (200, 40)))
    assert rounding_step(np.round(exact / step) * step) == pytest.approx(step, rel=1e-3)
    assert rounding_step(exact) is None
    assert rounding_step(exact.astype(np.float32)) is None
    assert rounding_step(exact.astype(np.float16)) is None


def test_zeros_and_ones_are_the_class_alone():
    assert rounding_step(np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]]) == 1
    assert rounding_step(np.eye(3)) is None  # too few to tell


def test_a_step_is_seen_in_few_numbers_and_without_its_smallest_one():
    digits = [[0.2, 0.8, 0], [0.5, 0.5, 0], [0, 0.3, 0.7], [0, 0.6, 0.4]]
    assert rounding_step(np.array(digits * 2)) == pytest.approx(0.1)
    votes = [[1, 0, 0], [0.6, 0.4, 0], [0, 0.2, 0.8]]
    assert rounding_step(np.array(votes * 3, np.float32)) == pytest.approx(0.2)
    assert rounding_step(np.array(votes[:1] * 4 + [[0.37, 0.63, 0]] * 4)) is None


def kl(exact, logits):
    shares = softmax(logits.astype(np.float64))
    return float((exact * np.log(exact / shares)).sum(axis=1).mean())


@pytest.mark.parametrize("step", [1 / 256, 0.1, 0.01])
@pytest.mark.parametrize("num_classes", [3, 10, 100, 1000])
def test_what_stands_for_a_zero_is_nearest_to_what_was_rounded(step, num_classes):
    """The oracle knows the probabilities before rounding, in float64."""
    exact = softmax(np.random.default_rng(2).normal(0, 4, (500, num_classes)))
    rounded = np.round(exact / step) * step
    zeros = rounded == 0
    found = to_logits(rounded, "probabilities", step)
    distance = kl(exact, found)
    for other in (1e-7, step / 4, step / 2, step * 0.999):
        assert distance < kl(exact, np.log(np.where(zeros, other, rounded)))
    assert distance < 0.7 * kl(exact, np.log(np.where(zeros, step / 2, rounded)))
    shares = np.exp(found.astype(np.float64))
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    # All that was not 0 keeps its ratios, and stays above all that was.
    some = rounded.max(axis=1) > 0
    shares, rounded, zeros = shares[some], rounded[some], zeros[some]
    largest = rounded.max(axis=1, keepdims=True)
    first = rounded.argmax(axis=1)[:, None]
    ratios = shares / np.take_along_axis(shares, first, axis=1)
    np.testing.assert_allclose(ratios[~zeros], (rounded / largest)[~zeros], rtol=1e-4)
    assert (np.where(zeros, ratios, 0) <= step / 2 / largest * 1.0001).all()


def test_zeros_of_one_row_by_hand():
    half = to_logits(np.array([[0.9, 0.0, 0.0]]), "probabilities", 0.1)
    np.testing.assert_allclose(np.exp(half), [[0.9, 0.05, 0.05]], rtol=1e-6)  # 0.1 is lacking
    full = to_logits(np.array([[1.0, 0.0, 0.0]]), "probabilities", 0.1)
    np.testing.assert_allclose(np.exp(full) * 1.025, [[1, 0.0125, 0.0125]], rtol=1e-6)
    none = to_logits(np.zeros((1, 4)), "probabilities", 0.1)
    np.testing.assert_allclose(np.exp(none), [[0.25] * 4], rtol=1e-6)
    labels = to_logits(np.array([[0.0, 0.5, 1.0]]), "sigmoid", 0.1)
    np.testing.assert_allclose(labels, [[np.log(0.025 / 0.975), 0, np.log(0.975 / 0.025)]], 1e-6)
    alone = np.array([[0.0, 1.0]])
    for kind in ("probabilities", "sigmoid"):
        np.testing.assert_array_equal(to_logits(alone, kind, 1.0), to_logits(alone, kind))


class TestRoundedTeacher:
    """The header of a store says that answers were rounded, and every part of a pass says it."""

    EXACT = softmax(np.random.default_rng(3).normal(0, 2, (32, 3)))

    def teacher(self, digits=1):
        table = np.round(self.EXACT, digits)
        table[:, 0] += 1 - table.sum(axis=1)

        def answer(pixels):
            return table[np.asarray(pixels)[:, 0, 0, 0].astype(int) % 32]

        return kd.load_teacher(answer, name="box", output="probabilities")

    def teach(self, images, path, **options):
        options = {"image_size": SIZE, "codec": "float32", "progress": False, **options}
        return kd.teach(images, options.pop("teacher", None) or self.teacher(), path, **options)

    @pytest.mark.filterwarnings("ignore:The probabilities of the teacher 'box' come in steps")
    def test_a_pass_its_parts_and_a_resumed_one_agree(self, images, directory, tmp_path):
        whole = self.teach(images, tmp_path / "s.h5", batch_size=8)
        rounded = whole.describe()["rounded"]
        assert rounded == whole.header.teacher["rounded"]
        assert rounded["step"] == pytest.approx(0.1, rel=1e-6)
        assert (
            rounded["floor"]
            == "min(step/2, max(1 - sum, step/4 * min(zeros, sqrt(others))) / zeros)"
        )
        assert np.exp(whole.gather(np.arange(30))).min() > 0.005
        parts = [tmp_path / f"{number}.h5" for number in (1, 2, 3)]
        for number, path in enumerate(parts, 1):
            # The first block of the last part has too few images to see a step.
            self.teach(images, path, batch_size=8, shard=(number, 3))
        kd.merge(parts, tmp_path / "merged.h5", progress=False)
        assert (tmp_path / "merged.h5").read_bytes() == (tmp_path / "s.h5").read_bytes()
        # A finished store, and a delta of one image.
        self.teach(images, tmp_path / "s.h5", batch_size=8)
        helpers.draw_image(directory / "ant" / "new.png", 31, 0)
        grown = self.teach(kd.scan(directory), tmp_path / "s.h5", batch_size=8)
        assert grown.num_images == 31 and grown.describe()["rounded"] == rounded

    @pytest.mark.filterwarnings("ignore:The probabilities of the teacher")
    def test_a_store_that_was_begun_without_goes_on_without(self, images, tmp_path, monkeypatch):
        with monkeypatch.context() as before:
            before.setattr("streamkd.models.rounding.rounding_step", lambda answers: None)
            self.teach(images, tmp_path / "s.h5")
        store = self.teach(images, tmp_path / "s.h5")
        assert "rounded" not in store.header.teacher and "rounded" not in store.describe()
        assert np.exp(store.gather(np.arange(30))).min() == pytest.approx(1e-7, rel=1e-3)

    def test_a_warning_says_what_is_stored(self, images, tmp_path):
        with pytest.warns(
            UserWarning,
            match=r"come in steps of 0\.1, and \d+% of them .*\. Each 0 "
            r"is stored as what it stands for in the mean, at most half a step\.",
        ):
            self.teach(images, tmp_path / "s.h5")


def test_rounded_probabilities_are_told_by_import(images, tmp_path):
    exact = softmax(np.random.default_rng(1).normal(0, 3, (len(images), 3)))
    rounded = np.round(exact * 50) / 50
    with pytest.warns(UserWarning, match=r"come in steps of 0\.02, and \d+% of them are 0"):
        kd.import_logits(
            rounded,
            [bytes(key) for key in images.keys],
            images,
            tmp_path / "s.h5",
            output="probabilities",
            progress=False,
        )
    store = kd.open_store(tmp_path / "s.h5")
    assert store.header.teacher["rounded"]["step"] == pytest.approx(0.02)
    wanted = to_logits(rounded, "probabilities", 0.02)
    stored = np.sort(store.gather(np.arange(len(images))), axis=None)
    np.testing.assert_allclose(stored, np.sort(wanted, axis=None), atol=2e-3)
