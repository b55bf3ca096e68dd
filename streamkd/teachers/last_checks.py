"""The last checks of a store, however it was made: by a pass, by `import`, by `write_store`.

warn_of_chance("teacher.keras", store)
"""

from __future__ import annotations

import numpy as np

from streamkd.codes import warn
from streamkd.errors import readable_names
from streamkd.manifest.contradictions import contradictions, described
from streamkd.manifest.listing import UNLABELLED
from streamkd.store.chance import is_at_chance
from streamkd.store.layout import DONE
from streamkd.store.reader import LogitStore


def warn_of_chance(name: str, store: LogitStore) -> None:
    """Warns of a teacher hardly better than chance, by its preprocessing, classes or rows."""
    summary = store.summary or {}
    accuracy, chance = summary.get("teacher_accuracy"), 1 / max(2, store.num_classes)
    if accuracy is not None and is_at_chance(accuracy, chance, summary["num_labelled"]):
        warn(
            "teacher_at_chance",
            f"The teacher {name!r} is right on {accuracy:.1%} of the labelled "
            f"images, and chance is {chance:.1%}. Check `--preprocess` and the order of its "
            "classes (`--class-names`); of imported logits, also the order of the rows.",
            stacklevel=3,
        )


def warn_of_lost_answers(
    name: str, output: str, step: float | None = None, zeros: float = 0.0
) -> None:
    """Warns of a teacher that gives its class alone, or rounded probabilities.

    Args:
      name: of the teacher.
      output: kind of its answers, one of `output_kind.KINDS`.
      step: to which they are rounded, as of `rounding.rounding_step`.
      zeros: share of the answers that are 0.
    """
    if output == "class" or (output == "probabilities" and step == 1):
        warn(
            "class_only",
            f"The teacher {name!r} gives the class alone. What it thinks of the other classes is "
            "lost, which is most of what a student learns from: soft targets are labels that the "
            "teacher chose, whatever the temperature. More images help, unlabelled ones too.",
            stacklevel=3,
        )
    elif step is not None and step < 1:
        warn(
            "rounded_probabilities",
            f"The probabilities of the teacher {name!r} come in steps of {step:.3g}, and "
            f"{zeros:.0%} of them are 0. How improbable the other classes are is lost, so a high "
            "temperature shows nothing more: use `--temperature 1` or 2. Each 0 is stored as what "
            "it stands for in the mean, at most half a step.",
            stacklevel=3,
        )


def warn_of_unanswered_classes(store: LogitStore) -> None:
    """Warns of classes that have images, none of which has logits."""
    labels = np.asarray(store.labels)
    done = store.done_of(np.arange(len(labels)) * store.num_views) == DONE
    answered = np.unique(labels[done & (labels >= 0)])
    missing = np.setdiff1d(np.unique(labels[labels >= 0]), answered)
    if len(missing) and store.class_names:
        names = readable_names([store.class_names[number] for number in missing])
        warn(
            "classes_without_answers",
            f"No image of these classes has logits in {store.path}: {names}. Were their files "
            "refused? `streamkd scan --check` says.",
            stacklevel=3,
        )


def warn_of_contradictions(store: LogitStore) -> None:
    """Warns of images with the same bytes and different labels."""
    labels = np.array(store.labels)
    images = np.arange(len(labels))
    # A refused image has the digest of no bytes.
    labels[store.done_of(images * store.num_views) != DONE] = UNLABELLED
    pairs = contradictions(labels, store.content_of(images))
    if len(pairs):
        first = described(store.keys, labels, store.class_names, pairs[:1])[0]
        warn(
            "same_image_two_labels",
            f"Images with the same bytes have two labels, {len(pairs):,} in all, such as "
            f"{first}. Keep one of each; `streamkd scan --check` shows more.",
            stacklevel=3,
        )
