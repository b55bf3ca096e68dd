"""The fields of an `EvaluationReport` that follow from logits, labels and the teacher's logits.

    shown = shown_labels(images, store, config.get("loss"))
    report_fields(logits, teacher_logits, labels, multi_hot, names=..., model="sigmoid", ...)

A model of one softmax is measured by that softmax, and one of independent labels by the sigmoid of
each: `label_report`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from streamkd.errors import StudentError, TeacherError
from streamkd.manifest.listing import UNLABELLED
from streamkd.manifest.manifest import Manifest
from streamkd.models import output_kind
from streamkd.results import label_metrics, label_report, metrics
from streamkd.store.decisions import as_two
from streamkd.store.row_store import RowStore


def shown_labels(images: Manifest, store: RowStore | None, trained_loss: str | None) -> str | None:
    """Returns what images, store and training show about a model that does not show it itself.

    'sigmoid-logits' if it was trained as logits of independent labels, 'sigmoid' if its labels are
    independent, None for a softmax.
    """
    if trained_loss == "bce":
        return "sigmoid-logits"
    is_sigmoid = store is not None and store.header.is_sigmoid and store.num_classes > 1
    return "sigmoid" if is_sigmoid or images.multi_hot is not None else None


def kind_of_answers(answers: np.ndarray, shown: str | None) -> str:
    """Returns the kind of the first answers, one of `output_kind.KINDS`.

    Args:
      answers: `[batch, num_outputs]`, of a model whose layers cannot be looked into.
      shown: as `shown_labels` returns it.

    Raises:
      StudentError: they may be sigmoid outputs or logits.
    """
    inside = bool(np.all((answers >= 0) & (answers <= 1)))
    if shown == "sigmoid":
        return "sigmoid" if inside else "sigmoid-logits"
    if shown is not None:
        return shown
    try:
        return output_kind.output_kind(answers)
    except TeacherError as error:
        raise StudentError(
            "The model's layers cannot be looked into, and its answers lie between 0 and 1 without "
            "a sum of 1: sigmoid outputs or logits.\nReturn logits from it, or build it of layers."
        ) from error


def report_fields(
    logits: np.ndarray,
    teacher_logits: np.ndarray | None,
    labels: np.ndarray,
    multi_hot: np.ndarray | None,
    *,
    names: list[str] | None,
    model: str | None,
    teacher: str | None,
) -> dict[str, Any]:
    """Returns the fields of a report except those of the model itself.

    Args:
      logits: `[num_images, num_outputs]`.
      teacher_logits: of the same classes, or None without a store.
      labels: int `[num_images]`, the class of each image; -1 for none.
      multi_hot: int8 `[num_images, num_outputs]`, as of a `Manifest`; None for one class an image.
      names: of the classes.
      model, teacher: 'sigmoid' for logits of independent labels, 'softmax', or None if unknown.

    Raises:
      StudentError: the model ends in softmax, and images have several labels.
    """
    if logits.shape[1] == 1 and multi_hot is None:
        # One logit for two classes is the softmax of 0 and itself.
        teacher_logits = None if teacher_logits is None else as_two(teacher_logits)
        fields = _of_softmax(as_two(logits), teacher_logits, labels)
        return {**fields, "activation": "sigmoid"}
    if model == "softmax" and multi_hot is not None:
        raise StudentError(
            "The model ends in softmax, whose classes exclude each other, and the images have "
            "several labels each.\nGive images of one class each, or a model that ends in sigmoid."
        )
    if model != "sigmoid" and multi_hot is None:
        fields = _of_softmax(logits, teacher_logits, labels)
        if teacher == "sigmoid" and logits.shape[1] > 2:
            fields["kl_to_teacher"] = None  # its probabilities are of another kind
        return fields
    if teacher == "softmax" and teacher_logits is not None:
        compared = {
            **_against_teacher(logits, teacher_logits, labels, _SOFTMAX),
            "kl_to_teacher": None,
        }
        teacher_logits = None
    else:
        compared = _against_teacher(logits, teacher_logits, labels, _LABELS)
    if multi_hot is None:
        measured = _against_labels(logits, labels, _LABELS)
    else:
        measured = label_report.against_several(logits, multi_hot)
    return {
        **measured,
        **compared,
        **label_report.label_fields(logits, teacher_logits, labels, multi_hot, names),
    }


def _of_softmax(
    logits: np.ndarray, teacher_logits: np.ndarray | None, labels: np.ndarray
) -> dict[str, Any]:
    return {
        **_against_labels(logits, labels, _SOFTMAX),
        **_against_teacher(logits, teacher_logits, labels, _SOFTMAX),
    }


class _Measures(NamedTuple):
    """How a model is measured, of one softmax or of independent labels.

    Attributes:
      nll, ece: from logits and labels to a number.
      agreement: from two arrays of logits.
      divergence: from the teacher's logits and the model's.
    """

    nll: Callable[[np.ndarray, np.ndarray], float]
    ece: Callable[[np.ndarray, np.ndarray], float]
    agreement: Callable[[np.ndarray, np.ndarray], float]
    divergence: Callable[[np.ndarray, np.ndarray], float]


_SOFTMAX = _Measures(
    metrics.negative_log_likelihood,
    metrics.expected_calibration_error,
    metrics.agreement,
    metrics.divergence,
)
# Means over images and labels.
_LABELS = _Measures(
    label_metrics.negative_log_likelihood,
    label_metrics.expected_calibration_error,
    lambda logits, teacher: float(label_metrics.agreements(logits, teacher).mean()),
    lambda teacher, logits: float(label_metrics.divergences(teacher, logits).mean()),
)


def _against_labels(logits: np.ndarray, labels: np.ndarray, measures: _Measures) -> dict[str, Any]:
    """Returns the fields of a report that need labels; None without a labelled image."""
    labelled = labels != UNLABELLED
    if not labelled.any():
        return dict.fromkeys(("accuracy", "top5_accuracy", "nll", "ece", "num_errors"))
    logits, labels = logits[labelled], labels[labelled]
    top5 = metrics.top_accuracy(logits, labels, 5) if logits.shape[1] > 5 else None
    return {
        "accuracy": metrics.accuracy(logits, labels),
        "top5_accuracy": top5,
        "nll": measures.nll(logits, labels),
        "ece": measures.ece(logits, labels),
        "num_errors": int(np.sum(logits.argmax(axis=1) != labels)),
    }


def _against_teacher(
    logits: np.ndarray, teacher_logits: np.ndarray | None, labels: np.ndarray, measures: _Measures
) -> dict[str, Any]:
    """Returns the fields of a report that need the teacher's logits; None without a store."""
    if teacher_logits is None:
        return dict.fromkeys(("agreement", "kl_to_teacher", "teacher_accuracy"))
    labelled = labels != UNLABELLED
    teacher_accuracy = None
    if labelled.any():
        teacher_accuracy = metrics.accuracy(teacher_logits[labelled], labels[labelled])
    return {
        "agreement": measures.agreement(logits, teacher_logits),
        "kl_to_teacher": measures.divergence(teacher_logits, logits),
        "teacher_accuracy": teacher_accuracy,
    }
