"""The fields of a report about a model of independent labels, which ends in sigmoid.

    **against_several(logits, multi_hot),
    **label_fields(logits, teacher_logits, labels, multi_hot, names)

The first has fields of every report, where an image may have several labels; the second adds fields
that only such a report has.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamkd.reports import MAX_LISTED
from streamkd.results import label_metrics
from streamkd.store.decisions import decided


def against_several(logits: np.ndarray, multi_hot: np.ndarray) -> dict[str, Any]:
    """Returns the fields that need labels, for images of several; None where none is known.

    Args:
      logits: `[num_images, num_labels]`, before sigmoid.
      multi_hot: int8 `[num_images, num_labels]`, as of a `Manifest`.
    """
    fields: dict[str, Any] = dict.fromkeys(
        ("accuracy", "top5_accuracy", "nll", "ece", "num_errors")
    )
    known = (multi_hot >= 0).all(axis=1)
    if known.any():
        logits, truths = logits[known], multi_hot[known]
        fields["nll"] = label_metrics.cross_entropy(logits, truths)
        fields["ece"] = label_metrics.label_calibration_error(logits, truths)
    return fields


def label_fields(
    logits: np.ndarray,
    teacher_logits: np.ndarray | None,
    labels: np.ndarray,
    multi_hot: np.ndarray | None,
    names: list[str] | None,
) -> dict[str, Any]:
    """Returns the fields that only a report about independent labels has.

    Args:
      logits: `[num_images, num_labels]`, before sigmoid.
      labels: int `[num_images]`, the class of each image; -1 for none.
      multi_hot: int8 `[num_images, num_labels]`, as of a `Manifest`; None for one class an image.
      teacher_logits: `[num_images, num_labels]`, or None without a store.
      names: of the labels; numbers where they have none.
    """
    truths = multi_hot
    if truths is None:
        truths = (labels[:, None] == np.arange(logits.shape[1])).astype(np.int8)
        truths[labels < 0] = -1
    known = (truths >= 0).all(axis=1)
    has_labels = bool(known.any())
    num_labels = logits.shape[1]
    unknown: list[Any] = [None] * num_labels
    truths, own = truths[known], logits[known]
    f1 = label_metrics.f1_scores(own, truths) if has_labels else unknown
    precisions = label_metrics.average_precisions(own, truths) if has_labels else unknown
    columns: dict[str, list[Any]] = {
        "label": names or [str(number) for number in range(num_labels)],
        "num_images": truths.sum(axis=0).tolist() if has_labels else unknown,
        "f1": f1,
        "average_precision": precisions,
    }
    fields: dict[str, Any] = {
        "activation": "sigmoid",
        "num_labels": num_labels,
        "label_accuracy": float(np.mean(decided(own) == (truths > 0))) if has_labels else None,
        "macro_f1": label_metrics.mean(f1),
        "mean_average_precision": label_metrics.mean(precisions),
    }
    if teacher_logits is not None:
        columns["agreement"] = label_metrics.agreements(logits, teacher_logits).tolist()
        columns["kl_to_teacher"] = label_metrics.divergences(teacher_logits, logits).tolist()
        taught = unknown
        if has_labels:
            taught = label_metrics.average_precisions(teacher_logits[known], truths)
        fields["teacher_mean_average_precision"] = label_metrics.mean(taught)
    rows = zip(*columns.values(), strict=True)
    fields["per_label"] = [dict(zip(columns, row, strict=True)) for row in rows][:MAX_LISTED]
    return fields
