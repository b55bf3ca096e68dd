"""What the stored answers say about their teacher, beside a float64 oracle and in words."""

import json
from fractions import Fraction
from math import comb

import helpers
import numpy as np
import pytest
from helpers import COUNTS

import streamkd as kd
from streamkd.cli.main import main
from streamkd.store.chance import is_at_chance, probability_of_so_few
from streamkd.store.judgement import NUM_JUDGED, confidence_and_entropy

SMALL = {"image_size": (8, 8), "progress": False}


def written(images, path, logits, codec="float32", **options):
    """Returns a store of given logits, float `[images, num_classes]`, in the images' order."""
    return kd.write_store(
        images, path, lambda batch: logits[batch.indices], teacher="t", codec=codec, **SMALL
    )


def logits_of(images, probability, num_wrong=0, num_classes=3):
    """Returns logits that give one class `probability`, the label's but for the first images."""
    chosen = np.where(np.arange(len(images)) < num_wrong, images.labels + 1, images.labels)
    logits = np.zeros((len(images), num_classes), np.float32)
    rest = (1 - probability) / (num_classes - 1)
    logits[np.arange(len(images)), chosen % num_classes] = np.log(probability / rest)
    return logits


# The numbers.


@pytest.mark.parametrize("num_classes", [2, 7, 1000])
@pytest.mark.parametrize("scale", [1e-3, 3.0, 300.0])
def test_confidence_and_entropy_are_those_of_float64(num_classes, scale):
    logits = np.random.default_rng(num_classes).normal(size=(20, num_classes)) * scale
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    own = np.where(probabilities > 0, probabilities * np.log(np.maximum(probabilities, 1e-300)), 0)
    confidence, entropy = confidence_and_entropy(logits, is_sigmoid=False)
    np.testing.assert_allclose(confidence, probabilities.max(axis=1), rtol=1e-12)
    np.testing.assert_allclose(entropy, -own.sum(axis=1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("num_labels", [1, 4])
def test_of_independent_labels_they_are_means_over_labels(num_labels):
    logits = np.random.default_rng(0).normal(size=(9, num_labels)) * 5
    one = 1 / (1 + np.exp(-logits))
    confidence, entropy = confidence_and_entropy(logits, is_sigmoid=True)
    np.testing.assert_allclose(confidence, np.maximum(one, 1 - one).mean(axis=1))
    np.testing.assert_allclose(
        entropy, -(one * np.log(one) + (1 - one) * np.log(1 - one)).mean(axis=1), rtol=1e-9
    )
    enormous = confidence_and_entropy(np.full((1, num_labels), 1e4), is_sigmoid=True)
    np.testing.assert_allclose(np.concatenate(enormous), [1, 0])


def test_the_numbers_are_those_of_the_stored_answers_by_class(images, tmp_path):
    logits = np.random.default_rng(3).normal(size=(30, 3)).astype(np.float32) * 2
    store = written(images, tmp_path / "s.h5", logits)
    judged = kd.judge_teacher(store)
    confidence, entropy = confidence_and_entropy(logits, is_sigmoid=False)
    right = logits.argmax(axis=1) == images.labels
    assert judged.num_judged == 30
    assert judged.teacher_accuracy == right.mean() == store.summary["teacher_accuracy"]
    assert judged.teacher_confidence == pytest.approx(np.median(confidence))
    assert judged.teacher_entropy == pytest.approx(entropy.mean())
    assert {one["class"]: one["num_images"] for one in judged.teacher_classes} == COUNTS
    for one in judged.teacher_classes:
        own = images.labels == images.class_names.index(one["class"])
        assert one["accuracy"] == right[own].mean()
        assert one["confidence"] == pytest.approx(np.median(confidence[own]))
        assert one["entropy"] == pytest.approx(entropy[own].mean())
    accuracies = [one["accuracy"] for one in judged.teacher_classes]
    assert accuracies == sorted(accuracies)
    assert json.loads(json.dumps(judged)) == kd.judge_teacher(tmp_path / "s.h5")


def test_without_labels_the_classes_are_the_teachers_choices(directory, tmp_path):
    images = kd.scan(directory, labels=None)
    logits = np.zeros((30, 3), np.float32)
    logits[:, 2] = 1.5
    judged = kd.judge_teacher(written(images, tmp_path / "s.h5", logits))
    assert judged.teacher_accuracy is None and judged.teacher_verdict is None
    (one,) = judged.teacher_classes
    assert (one["class"], one["num_images"], one["accuracy"]) == (2, 30, None)


def test_a_sample_is_taken_evenly_and_an_unfinished_store_is_judged(images, tmp_path):
    store = helpers.teach_small(images, helpers.EncodingTeacher(), tmp_path / "s.h5")
    judged = kd.judge_teacher(store, sample=9)
    assert judged.num_judged == 9 and len(judged.teacher_classes) == 3
    asked = []

    def stopping(batch):
        asked.append(batch)
        if len(asked) > 2:
            raise KeyboardInterrupt
        return logits_of(images, 0.6)[batch.indices]

    with pytest.raises(KeyboardInterrupt):
        kd.write_store(images, tmp_path / "u.h5", stopping, teacher="t", batch_size=8, **SMALL)
    judged = kd.judge_teacher(tmp_path / "u.h5")
    assert 0 < judged.num_judged < 30 and judged.teacher_accuracy == 1.0
    assert NUM_JUDGED > 1000


def test_of_an_image_that_was_taught_again_the_last_answer_counts(directory, tmp_path):
    path = tmp_path / "s.h5"
    helpers.teach_small(kd.scan(directory), helpers.EncodingTeacher(), path)
    helpers.draw_image(directory / "cat" / "new.png", 30, 2)
    changed = next(iter(sorted((directory / "ant").iterdir())))
    helpers.draw_image(changed, 31, 0)
    store = helpers.teach_small(kd.scan(directory), helpers.EncodingTeacher(), path)
    judged = kd.judge_teacher(store)
    assert judged.num_judged == store.num_images == 31
    assert {one["class"]: one["num_images"] for one in judged.teacher_classes} == {
        **COUNTS,
        "cat": COUNTS["cat"] + 1,
    }


# The words.


def test_a_fair_teacher_is_passed_over(images, tmp_path):
    judged = kd.judge_teacher(written(images, tmp_path / "s.h5", logits_of(images, 0.7, 4)))
    assert (judged.teacher_verdict, judged.teacher_advice) == (None, None)


def test_a_nearly_certain_teacher_is_told_what_helps(images, tmp_path):
    judged = kd.judge_teacher(written(images, tmp_path / "s.h5", logits_of(images, 0.998)))
    assert judged.teacher_verdict == "nearly_certain"
    assert judged.teacher_advice == (
        "The teacher is nearly certain of its answers (median largest probability 0.998), so that "
        "soft targets say little more than the class. Views (`--views 8 --flip`) or images that "
        "it was not trained on help; so does another temperature: 2 was better than 4 with such "
        "teachers (`train --temperature 2`)."
    )


def test_of_a_store_with_views_no_views_are_advised(teach_once, images, tmp_path):
    teacher = helpers.EncodingTeacher()
    store = teach_once(images, tmp_path / "s.h5", teacher, image_size=(8, 8), views=kd.Views(1))
    judged = kd.judge_teacher(store)
    assert judged.teacher_verdict == "nearly_certain"
    assert ". Images that it was not trained on help; so" in judged.teacher_advice


def test_a_nearly_certain_teacher_that_is_often_wrong_is_told_of_labels(images, tmp_path):
    logits = logits_of(images, 0.99, num_wrong=18)
    judged = kd.judge_teacher(written(images, tmp_path / "s.h5", logits))
    assert judged.teacher_verdict == "nearly_certain"
    assert judged.teacher_advice.endswith(
        " It is right on 40.0% of the labelled images, so labels correct it: train with "
        "`--label-weight 0.5`."
    )


def test_a_teacher_that_is_often_wrong_is_told_of_labels(images, tmp_path):
    logits = logits_of(images, 0.6, num_wrong=18)
    judged = kd.judge_teacher(written(images, tmp_path / "s.h5", logits))
    assert judged.teacher_verdict == "often_wrong"
    assert judged.teacher_advice == (
        "The teacher is right on 40.0% of the labelled images, and labels correct it: train with "
        "`--label-weight 0.5`."
    )


def test_probabilities_that_were_taken_as_logits_are_told(images, tmp_path):
    probabilities = np.eye(10, dtype=np.float32)[images.labels]
    names = [*images.class_names, *"defghij"]
    store = kd.write_store(
        images,
        tmp_path / "s.h5",
        lambda batch: probabilities[batch.indices],
        teacher="t",
        class_names=names,
        **SMALL,
    )
    judged = kd.judge_teacher(store)
    assert judged.teacher_verdict == "nearly_even"
    assert judged.teacher_advice.startswith(
        "To the teacher all classes are nearly alike: its answers have a mean entropy of 2.23 "
        "nats, and 2.3 is the most. If its outputs are probabilities, teach with "
        "`--teacher-output probabilities`;"
    )


@pytest.mark.filterwarnings("ignore:The teacher 't' is right on")
def test_a_teacher_at_chance_is_told_first(images, tmp_path):
    logits = logits_of(images, 0.999, num_wrong=20)
    judged = kd.judge_teacher(written(images, tmp_path / "s.h5", logits))
    assert judged.teacher_verdict == "at_chance"
    assert judged.teacher_advice == (
        "The teacher is right on 33.3% of 30 labelled images, and chance is 33.3%: a student "
        "learns nothing from it. Check `--preprocess` and the order of its classes "
        "(`--class-names`)."
    )


# Chance.


@pytest.mark.parametrize(("num_right", "num_images"), [(0, 1), (3, 20), (20, 20), (499, 1000)])
@pytest.mark.parametrize("accuracy", [0.5, 0.55, 0.999])
def test_the_probability_of_so_few_is_the_sum_of_the_binomial(num_right, num_images, accuracy):
    p = Fraction(str(accuracy))
    terms = (comb(num_images, k) * p**k * (1 - p) ** (num_images - k) for k in range(num_right + 1))
    wanted = float(sum(terms))
    assert probability_of_so_few(num_right, num_images, accuracy) == pytest.approx(wanted, 1e-9)


@pytest.mark.parametrize(
    ("num_right", "num_images", "num_classes", "is_told"),
    [
        (0, 0, 2, False),
        (0, 3, 10, False),  # a few images never say so
        (5, 10, 2, False),
        (1, 8, 10, False),
        (1, 16, 10, True),
        (20, 40, 2, True),
        (23, 40, 2, False),  # better than a guess, as far as so few images say
        (10, 30, 3, True),
        (200, 2000, 10, True),
        (450, 2000, 10, False),
        (4, 2000, 1000, False),  # twice as often as a guess
        (1, 2000, 1000, True),
        (700_000, 1_281_167, 2, True),
    ],
)
def test_only_enough_images_say_that_a_teacher_guesses(num_right, num_images, num_classes, is_told):
    accuracy = num_right / max(1, num_images)
    assert is_at_chance(accuracy, 1 / num_classes, num_images) == is_told


# The commands.


def run(capsys, *words):
    code = main([*map(str, words)])
    return code, capsys.readouterr()


def test_inspect_and_merge_say_it_in_fields_and_in_words(images, tmp_path, capsys):
    path = tmp_path / "s.h5"
    written(images, path, logits_of(images, 0.998))
    code, out = run(capsys, "inspect", path, "--json")
    answer, judged = json.loads(out.out), kd.judge_teacher(path)
    assert code == 0
    assert {name: answer[name] for name in judged} == judged
    code, out = run(capsys, "inspect", path)
    assert "teacher_confidence" in out.out and "nearly certain of its answers" in out.out
    assert "  class: ant, num_images: 11, accuracy: 1, confidence: 0.998, entropy: 0.0" in out.out
    code, out = run(capsys, "merge", path, "--out", tmp_path / "m.h5", "--json", "--quiet")
    assert json.loads(out.out)["teacher_verdict"] == "nearly_certain"


def test_what_a_damaged_store_says_is_unknown(images, tmp_path, capsys):
    path = tmp_path / "s.h5"
    store = written(images, path, logits_of(images, 0.998))
    rows = np.log(np.float32(0.998 / 0.001)).tobytes()
    content = path.read_bytes()
    assert rows in content
    path.write_bytes(content.replace(rows, b"\0\0\0\0"))
    code, out = run(capsys, "inspect", path, "--json")
    answer = json.loads(out.out)
    assert code == 0 and answer["rows_done"] == store.rows_done
    assert answer["teacher_verdict"] is answer["teacher_classes"] is None
