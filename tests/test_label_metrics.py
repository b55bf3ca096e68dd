"""The numbers of independent labels, against definitions written out in float64."""

import numpy as np
import pytest
import tf_keras
from run_helpers import sigmoid

from streamkd.errors import StudentError
from streamkd.results import label_metrics
from streamkd.results.label_report import label_fields
from streamkd.results.report_fields import kind_of_answers, report_fields
from streamkd.store import decisions
from streamkd.store.codecs import fidelity
from streamkd.store.codecs import get as get_codec

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(scale=2, size=(40, 3)).astype(np.float32)
TEACHER = (LOGITS + RNG.normal(size=(40, 3))).astype(np.float32)
TRUTHS = (TEACHER + RNG.normal(scale=2, size=(40, 3)) > 0).astype(np.int8)
UNLABELLED = np.full(40, -1)


def fields(logits=LOGITS, teacher_logits=TEACHER, labels=UNLABELLED, hot=TRUTHS, **more):
    kinds = {"names": ["a", "b", "c"], "model": "sigmoid", "teacher": "sigmoid", **more}
    return report_fields(logits, teacher_logits, labels, hot, **kinds)


def test_probabilities_are_exact_and_stable():
    np.testing.assert_allclose(label_metrics.probabilities(LOGITS), sigmoid(LOGITS), rtol=1e-12)
    assert label_metrics.probabilities(np.array([-800.0, 800.0])).tolist() == [0, 1]


def test_average_precision_is_the_area_under_the_steps():
    scores = np.array([[0.9], [0.8], [0.7], [0.6]], np.float32)
    truths = np.array([[1], [0], [1], [0]], np.int8)
    assert label_metrics.average_precisions(scores, truths) == [pytest.approx(0.5 + 0.5 * 2 / 3)]
    ties = np.zeros((4, 1), np.float32)  # one threshold takes all
    assert label_metrics.average_precisions(ties, truths) == [0.5]
    assert label_metrics.average_precisions(scores, 0 * truths) == [None]


def test_average_precision_by_every_threshold():
    for column in range(3):
        scores, truths = LOGITS[:, column], TRUTHS[:, column]
        area = recall = 0.0
        for threshold in sorted(set(scores.tolist()), reverse=True):
            chosen = scores >= threshold
            now = truths[chosen].sum() / truths.sum()
            area += (now - recall) * truths[chosen].mean()
            recall = now
        found = label_metrics.average_precisions(LOGITS, TRUTHS)[column]
        assert found == pytest.approx(area, rel=1e-12)


def test_f1_is_two_hits_over_all_that_are_chosen_or_there():
    logits = np.array([[1, -1, 1], [1, -1, -1], [-1, -1, -1]], np.float32)
    truths = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 0]], np.int8)
    assert label_metrics.f1_scores(logits, truths) == [0.5, None, 0.0]


def test_the_report_has_the_cross_entropy_of_keras_and_no_first_choice():
    report = fields()
    keras = tf_keras.losses.BinaryCrossentropy(from_logits=True)(TRUTHS, LOGITS)
    assert report["nll"] == pytest.approx(float(keras), rel=1e-5)
    assert report["label_accuracy"] == np.mean((LOGITS > 0) == (TRUTHS > 0))
    names = ("accuracy", "top5_accuracy", "num_errors", "teacher_accuracy")
    assert {name: report[name] for name in names} == dict.fromkeys(names)
    assert report["activation"] == "sigmoid" and report["num_labels"] == 3


def test_the_calibration_error_is_that_of_every_decision():
    confidence = np.maximum(sigmoid(LOGITS), 1 - sigmoid(LOGITS)).ravel()
    right = ((LOGITS > 0) == (TRUTHS > 0)).ravel()
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        total += abs((confidence[inside] - right[inside]).sum())
    assert fields()["ece"] == pytest.approx(total / len(right), rel=1e-9)


def test_agreement_and_divergence_are_those_of_each_label():
    report = fields()
    p, q = sigmoid(TEACHER), sigmoid(LOGITS)
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert report["kl_to_teacher"] == pytest.approx(divergence.mean(), rel=1e-9)
    assert report["agreement"] == pytest.approx(np.mean((TEACHER > 0) == (LOGITS > 0)))
    for number, entry in enumerate(report["per_label"]):
        assert entry["label"] == "abc"[number]
        assert entry["num_images"] == TRUTHS[:, number].sum()
        assert entry["kl_to_teacher"] == pytest.approx(divergence[:, number].mean(), rel=1e-9)
        assert entry["agreement"] == np.mean((TEACHER > 0)[:, number] == (LOGITS > 0)[:, number])


def test_images_without_labels_are_left_out_of_what_needs_labels():
    hot = TRUTHS.copy()
    hot[10:] = -1
    part, whole = fields(hot=hot), fields()
    assert part["nll"] == fields(LOGITS[:10], TEACHER[:10], UNLABELLED[:10], TRUTHS[:10])["nll"]
    assert part["kl_to_teacher"] == whole["kl_to_teacher"]
    nothing = fields(hot=np.full_like(TRUTHS, -1))
    assert nothing["nll"] is nothing["macro_f1"] is nothing["mean_average_precision"] is None
    assert nothing["per_label"][0]["f1"] is None and nothing["agreement"] == whole["agreement"]


def test_one_class_an_image_is_measured_by_the_sigmoid_of_each_class():
    labels = LOGITS.argmax(axis=1)
    labels[::3] = 0
    report = fields(labels=labels, hot=None)
    own = sigmoid(LOGITS)[np.arange(40), labels]
    assert report["nll"] == pytest.approx(-np.log(own).mean(), rel=1e-9)
    assert report["accuracy"] == np.mean(LOGITS.argmax(axis=1) == labels)
    assert report["teacher_accuracy"] == np.mean(TEACHER.argmax(axis=1) == labels)


@pytest.mark.parametrize("width", [1, 2])
def test_one_output_is_measured_as_two_classes(width):
    labels = TRUTHS[:, 0].astype(int)
    teacher = decisions.as_two(TEACHER[:, :1]) if width == 2 else TEACHER[:, :1]
    report = fields(LOGITS[:, :1], teacher, labels, None, model=None)
    p = sigmoid(LOGITS[:, 0])
    assert report["nll"] == pytest.approx(-np.log(np.where(labels, p, 1 - p)).mean(), rel=1e-6)
    assert report["accuracy"] == np.mean((p > 0.5) == labels)
    assert report["agreement"] == np.mean((TEACHER[:, 0] > 0) == (p > 0.5))
    t = sigmoid(TEACHER[:, 0])
    divergence = t * np.log(t / p) + (1 - t) * np.log((1 - t) / (1 - p))
    assert report["kl_to_teacher"] == pytest.approx(divergence.mean(), rel=1e-5)
    assert report["activation"] == "sigmoid" and "per_label" not in report


def test_a_softmax_and_a_sigmoid_are_compared_by_first_choices_alone():
    labels = LOGITS.argmax(axis=1)
    for model, teacher in (("softmax", "sigmoid"), ("sigmoid", "softmax")):
        report = fields(labels=labels, hot=None, model=model, teacher=teacher)
        assert report["kl_to_teacher"] is None
        assert report["agreement"] == np.mean(LOGITS.argmax(axis=1) == TEACHER.argmax(axis=1))


def test_a_softmax_has_no_several_labels():
    with pytest.raises(StudentError, match="ends in softmax, whose classes exclude each other"):
        fields(model="softmax")


def test_long_lists_of_labels_are_cut():
    wide = np.zeros((2, 150), np.float32)
    report = label_fields(wide, None, np.array([0, 149]), None, None)
    assert len(report["per_label"]) == 100 and report["num_labels"] == 150
    assert report["per_label"][1]["label"] == "1"


@pytest.mark.parametrize(
    ("answers", "shown", "kind"),
    [
        ([[0.9, 0.9]], "sigmoid", "sigmoid"),
        ([[0.9, 1.9]], "sigmoid", "sigmoid-logits"),
        ([[0.9, 0.9]], "sigmoid-logits", "sigmoid-logits"),
        ([[0.1, 0.9]], None, "probabilities"),
    ],
)
def test_answers_of_hidden_layers_are_judged_by_what_is_known(answers, shown, kind):
    assert kind_of_answers(np.array(answers), shown) == kind


def test_answers_that_nothing_tells_are_refused_for_the_model():
    with pytest.raises(StudentError, match=r"cannot be looked into.*\nReturn logits from it"):
        kind_of_answers(np.array([[0.9, 0.9]]), None)


def test_a_codec_is_measured_by_the_sigmoid_of_each_label():
    codec = get_codec("packed:3")
    measured = fidelity.measure(codec, LOGITS, sigmoid=True)
    rebuilt = codec.decode(codec.encode(LOGITS), 3)
    p, q = sigmoid(LOGITS / np.float64(4)), sigmoid(rebuilt / np.float64(4))
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert measured.divergences[4] == pytest.approx(divergence.mean(), rel=1e-6)
    assert measured.agreement == pytest.approx(np.mean((LOGITS > 0) == (rebuilt > 0)))


def test_decisions():
    assert decisions.chosen(np.array([[0.1], [-0.1]])).tolist() == [1, 0]
    assert decisions.chosen(np.array([[0.1, 0.3]])).tolist() == [1]
    assert decisions.as_two(np.array([[2.0], [-1.0]])).tolist() == [[0, 2], [0, -1]]
    assert decisions.fits_names(1, ["no", "yes"]) and decisions.fits_names(1, ["yes"])
    assert not decisions.fits_names(2, ["a", "b", "c"])
