"""Codes of refusals and warnings: what each means, and what to do.

    warn("teacher_at_chance", "The teacher 'net' is right on 9.8% …", stacklevel=2)

A refusal is a `StreamkdError` (`errors.py`); its `code` is in `ERRORS`. A warning is a
`StreamkdWarning`; its `code` is in `WARNINGS`. Codes are stable: programs read them in `--json`.
`docs/troubleshooting.md` is the page of all of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator

from streamkd.public import public


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What a code stands for, and what the user does about it; a sentence or two each."""

    meaning: str
    remedy: str


ERRORS = {
    "bad_option": Meaning(
        "A flag or an argument has a value that does not fit, or two contradict each other.",
        "The message names the flag and the values that fit.",
    ),
    "missing_extra": Meaning(
        "An optional library is not installed.",
        "The message has the `pip install` line.",
    ),
    "images_not_found": Meaning(
        "There is no such directory, or no image in it, or an image that was listed is gone.",
        "Compare the path in the message with `ls`. After files were removed, scan again.",
    ),
    "bad_image": Meaning(
        "The bytes of a file cannot be decoded as an image.",
        "`streamkd scan --check` lists all such files. Replace them, or give `--on-bad skip`.",
    ),
    "unreadable_image": Meaning(
        "The file of an image is not there, or the system cannot read it; it may be good.",
        "Look at the disk, the mount or the rights, and give the same command again.",
    ),
    "changed_image": Meaning(
        "The bytes of a file are not those for which the teacher answered.",
        "Restore the file, or run the `teach` command of the store again: it answers what changed.",
    ),
    "class_names": Meaning(
        "The classes of images, store and model, or of two stores, are different.",
        "The message shows both lists. `--class-map` and `--class-names` name classes.",
    ),
    "missing_logits": Meaning(
        "An image, or a view of it, has no stored logits.",
        "Run the `teach` command of the store again, or give `--missing drop` or `label`.",
    ),
    "store": Meaning(
        "A file is not a logit store, is damaged, or does not fit the other side.",
        "`streamkd verify STORE` says what is damaged; `streamkd inspect STORE` shows the rest.",
    ),
    "unfinished_store": Meaning(
        "Rows of the store are still missing: its teacher pass was stopped.",
        "Run the same `teach` command again; it resumes.",
    ),
    "other_images": Meaning(
        "The store was made for other images.",
        "The message shows both fingerprints. Give the directory for which the store was made.",
    ),
    "store_busy": Meaning(
        "Another process writes this store.",
        "Wait for it, or give another `--out`.",
    ),
    "run_busy": Meaning(
        "Another process trains into this run directory.",
        "Wait for it, or give another `--out`.",
    ),
    "teacher": Meaning(
        "A teacher cannot be loaded, or its answers do not fit the images or classes.",
        "The message shows both sides.",
    ),
    "query_budget": Meaning(
        "The pass has asked about as many images as `--max-queries` allows.",
        "Give the same command again: it goes on with the next images.",
    ),
    "student": Meaning(
        "A student cannot be built or loaded, or does not fit the stream.",
        "The message shows both sides.",
    ),
    "resume": Meaning(
        "A run was started with other data or other settings, or cannot be restored.",
        "Give the settings of the run again, or `--no-resume`, or another `--out`.",
    ),
    "worker_lost": Meaning(
        "Another process that trains the same student ended.",
        "Start all workers again with the same commands; the run resumes.",
    ),
    "non_finite": Meaning(
        "A loss, a gradient or a logit is not a finite number.",
        "Try a lower `--learning-rate`; `nonfinite.jsonl` in the run lists the steps.",
    ),
    "unsupported_system": Meaning(
        "The system lacks calls without which files would not be safe, as Windows does.",
        "Run streamkd on Linux, macOS or WSL.",
    ),
    "cannot_write": Meaning(
        "An output path cannot be written.",
        "The message has the path and the system's reason.",
    ),
    "disk_full": Meaning(
        "There is not enough room on the disk.",
        "The message says how much is needed. Free it, and run the same command again.",
    ),
}

WARNINGS = {
    "odd_images": Meaning(
        "Files or folders were passed over, or something about them looks odd.",
        "The message has examples and says what to do; `notes` in `--json` has the same.",
    ),
    "not_locked": Meaning(
        "`--no-lock` writes a store or a run without a lock.",
        "See to it that no other process writes the same, or give an output on a local disk.",
    ),
    "suspicious_images": Meaning(
        "Decoders read some images and complained, such as of stray bytes in a JPEG.",
        "`streamkd scan IMAGES --check` names the files. Look at them, or save them anew.",
    ),
    "images_refused": Meaning(
        "Images could not be decoded, and have no logits in the store.",
        "`streamkd scan --check` gives the reasons; `--missing drop` trains without them.",
    ),
    "images_without_logits": Meaning(
        "`--missing drop` or `--missing label` applies to some images.",
        "Run the `teach` command of the store again, and the images get logits.",
    ),
    "teacher_at_chance": Meaning(
        "The teacher is right hardly more often than by chance.",
        "Check `--preprocess`, the order of its classes, and that of imported rows.",
    ),
    "teacher_weaker": Meaning(
        "The teacher is right on fewer of the labelled images than the student.",
        "Give a larger `--label-weight`, or a better teacher.",
    ),
    "few_steps_for_views": Meaning(
        "The run is too short for the views: some are never shown, or views do not pay yet.",
        "Give the `--epochs` that the message names, or teach fewer views.",
    ),
    "student_too_small": Meaning(
        "The student stays far behind the teacher on the images that it learns from.",
        "Give a larger student, or try a larger `--learning-rate`.",
    ),
    "class_only": Meaning(
        "The teacher gives the class alone, so that soft targets are labels of its choice.",
        "Nothing, if it gives no more; more images help, unlabelled ones too.",
    ),
    "rounded_probabilities": Meaning(
        "The teacher's probabilities were rounded, and many of them are 0.",
        "Use a temperature of 1 or 2, or ask a teacher that does not round.",
    ),
    "teacher_inconsistent": Meaning(
        "The teacher answers the same image differently each time, as with Dropout.",
        "Give a teacher without random layers at work: `training=False`.",
    ),
    "pixels_preprocessed_twice": Meaning(
        "A model preprocesses pixels itself, and is given preprocessed ones.",
        "Leave out `--preprocess` or `--student-preprocess`.",
    ),
    "pixels_not_preprocessed": Meaning(
        "The numbers that reach the first weights of a model are not those that it expects.",
        "Give `--preprocess` of the teacher, or `--student-preprocess`, as the message says.",
    ),
    "random_layers": Meaning(
        "The student changes pixels at random before its first weights; the teacher saw others.",
        "Leave these layers out, and teach views: `streamkd teach … --views 8 --flip`.",
    ),
    "unused_methods": Meaning(
        "The student has a `train_step` or the like of its own, which is never called.",
        "Train such a student with its own `fit`; `streamkd.packed_loss` is the loss for it.",
    ),
    "loss_without_labels": Meaning(
        "The loss compares an image's label with the other classes, and images have no label.",
        "Choose a loss that needs none (`--loss kd`), or give images in one folder a class.",
    ),
    "equal_answers": Meaning(
        "The stored logits of all the teacher's classes that the student learns are equal.",
        "Teach with a codec that keeps every logit, such as float16, or leave such images out.",
    ),
    "classes_without_answers": Meaning(
        "A class has images, and none of them has logits in the store.",
        "`streamkd scan --check` says whether its files can be decoded.",
    ),
    "same_image_two_labels": Meaning(
        "Images with the same bytes have different labels.",
        "`streamkd scan --check` has examples in `notes`; keep one image of each pair.",
    ),
    "teacher_accuracy_changed": Meaning(
        "On the joined images the teacher is right more or less often than in its pass.",
        "Labels or class folders were changed: `streamkd verify STORE --images DIR` compares them.",
    ),
    "keys_of_another_root": Meaning(
        "The keys of imported logits begin with another directory than that of the images.",
        "If they are other images, give keys as `streamkd scan IMAGES --out FILE` writes them.",
    ),
    "label_with_separator": Meaning(
        "A label of a table looks like several labels, `cat;dog`, and is taken as one class.",
        "For several labels an image, call the column `labels`; else nothing.",
    ),
    "labels_left_out": Meaning(
        "The store has no class names, so the labels of the images cannot be numbered.",
        "Teach a store with `--class-names`.",
    ),
    "independent_views": Meaning(
        "The student is shown views that the teacher has not answered.",
        "Use `--augment independent` for comparison only.",
    ),
    "student_needs_classes": Meaning(
        "The saved student can be opened only by a program that knows its own classes.",
        "Register the classes in a module, as the message shows.",
    ),
    "model_trusted": Meaning(
        "A model file was loaded with `--trust`, and would be refused without.",
        "Nothing, if the file is your own; the message says what it may do.",
    ),
    "head_not_found": Meaning(
        "A model's layers show a softmax or sigmoid, and its answers come from something else.",
        "Nothing has to be done: its own answers are taken, and are exact but for tiny ones.",
    ),
    "few_images_for_bias": Meaning(
        "A bias was fitted by given class frequencies to so few images that chance decides.",
        "Give more images, or the teacher's logits of these images instead of frequencies.",
    ),
    "cache_too_small": Meaning(
        "Not all images fit into the pixel cache; the others are decoded each time.",
        "Give the cache more room, or put it on a disk.",
    ),
    "cache_stopped": Meaning(
        "The pixel cache can write no more images.",
        "Free room on its disk, or give another directory.",
    ),
    "checkpoint_damaged": Meaning(
        "The newest checkpoint cannot be read; the run resumes from the one before.",
        "Nothing has to be done. If it happens again, check the disk.",
    ),
}


@public
class StreamkdWarning(UserWarning):
    """A warning with a stable code.

    Attributes:
      code: one of `WARNINGS`, for programs (`warnings` in `--json`).
    """

    def __init__(self, message: str, code: str):
        super().__init__(message)
        self.code = code


def warn(code: str, message: str, *, stacklevel: int = 1) -> None:
    """Warns with a code of `WARNINGS`; `stacklevel` counts as that of `warnings.warn`."""
    if code not in WARNINGS:
        raise KeyError(f"The warning {code!r} is not in WARNINGS.")
    warnings.warn(StreamkdWarning(message, code), stacklevel=stacklevel + 1)


_INTRODUCTION = """# Troubleshooting, by code

With `--json` a refusal is `{"error": {"code", "message", "key"}}`, and the exit code is 2; in
Python it is an exception with the attribute `code`. Warnings are printed on standard error, and
`teach --json` and `train --json` list them as `warnings`. The words of a message may change; its
code does not.

`python -m streamkd.codes` writes this page.
"""


def page() -> str:
    """Returns the page of all codes, in Markdown."""
    parts = [_INTRODUCTION]
    for title, codes in (("Refusals", ERRORS), ("Warnings", WARNINGS)):
        parts.append(f"## {title}\n\n| code | meaning | what to do |\n|---|---|---|")
        parts += [
            f"| `{code}` | {about.meaning} | {about.remedy} |" for code, about in codes.items()
        ]
        parts.append("")
    return "\n".join(parts)


@contextlib.contextmanager
def without_warnings(code: str = "") -> Iterator[None]:
    """Within it, streamkd's warnings, or only those of one code, are not shown."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", StreamkdWarning)
        yield
    for warning in caught:
        message = warning.message
        if not isinstance(message, StreamkdWarning) or (code and message.code != code):
            where = warning.filename, warning.lineno
            warnings.warn_explicit(warning.message, warning.category, *where)


if __name__ == "__main__":
    print(page(), end="")
