"""The summary of a finished store: the teacher's accuracy, known once every row is done."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamkd.store.decisions import right
from streamkd.store.layout import DONE
from streamkd.store.reader import LogitStore

_ROWS_AT_A_TIME = 4096


def teacher_summary(store: LogitStore) -> dict[str, Any]:
    """Returns the teacher's accuracy on labelled images, view 0, and the number of these images.

    An image that was refused counts as unlabelled. `teacher_accuracy` is None without labels.
    """
    labels = np.asarray(store.labels)
    labelled = np.flatnonzero(labels >= 0)
    num_correct = num_answered = 0
    for start in range(0, len(labelled), _ROWS_AT_A_TIME):
        part = labelled[start : start + _ROWS_AT_A_TIME]
        part = part[store.done_of(part * store.num_views) == DONE]
        answers = store.gather(part * store.num_views)
        num_correct += int(right(answers, labels[part], store.class_names).sum())
        num_answered += len(part)
    accuracy = num_correct / num_answered if num_answered else None
    return {"teacher_accuracy": accuracy, "num_labelled": num_answered}
