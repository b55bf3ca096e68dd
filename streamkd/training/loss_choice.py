"""Which loss a run has: that of one softmax, 'kl', or of independent labels, 'bce'.

    kind = choose_loss("auto", stream, label_weight=0.1, student=logits, num_outputs=5)

Teacher, labels and student each may show that labels are independent (sigmoid) or that classes
exclude each other (softmax). All that show it must agree, with `--loss` too. Two classes are the
same in both forms, one logit or two, so that the student's form decides.
"""

from __future__ import annotations

from typing import Any

from streamkd.checks import check_fraction
from streamkd.errors import OptionError, StudentError
from streamkd.losses.teacher_loss import PRESETS, name_of
from streamkd.models.logits_head import LogitsModel
from streamkd.stream.stream import Stream
from streamkd.training.schedules import as_setting, typical_of

WORDS = {"bce": "sigmoid", "kl": "softmax"}


def choose_loss(
    asked: Any, stream: Stream, *, label_weight: float, student: LogitsModel, num_outputs: int
) -> str:
    """Returns 'kl' or 'bce'.

    Args:
      asked: 'auto', or the loss that the user wants: a name, or a function for classes.
      stream: the stream to learn from.
      label_weight: weight of the label loss; 1 leaves the teacher out, 0 the labels.
      student, num_outputs: the student's logits and their number.

    Raises:
      OptionError: teacher, labels and `asked` do not agree.
      StudentError: the student does not fit them.
    """
    if num_outputs == 1 and student.removed == "softmax":
        raise StudentError(
            "The student ends in a softmax of one output, which is 1 for every image.\n"
            "End it in sigmoid, or give it two outputs."
        )
    targets = _shown_by_targets(stream, label_weight, num_outputs)
    own = _shown_by_student(student, num_outputs)
    wanted = {**targets, **own}
    if asked != "auto":
        wanted[f"`--loss` is {name_of(asked)}"] = form_of(asked)
    kinds = set(wanted.values())
    if len(kinds) > 1:
        raise _conflict(wanted, targets, own)
    return kinds.pop() if kinds else "kl"


def form_of(asked: Any) -> str:
    """Returns 'bce' for that loss, and 'kl' for all losses between the classes of one softmax."""
    return "bce" if asked == "bce" else "kl"


def needs_sigmoid(asked: str, stream: Stream, label_weight: Any) -> bool:
    """Returns whether a student that is still to be built must end in sigmoid."""
    weight = PRESETS["kd"].label_weight if label_weight == "auto" else label_weight
    typical = typical_of(as_setting("label_weight", weight, check_fraction))
    shown = _shown_by_targets(stream, typical, stream.num_classes).values()
    return "bce" in (asked, *shown) or stream.num_classes == 1


def _shown_by_targets(stream: Stream, label_weight: float, num_outputs: int) -> dict[str, str]:
    """Returns the loss that the teacher and the labels need, by what shows it."""
    shown = {}
    if stream.multi_hot is not None and label_weight > 0:
        shown["the images have several labels"] = "bce"
    if stream.store is None or label_weight == 1:
        return shown
    header = stream.store.header
    if stream.num_classes == 1 or (stream.num_classes == 2 and num_outputs == 1):
        return shown
    if header.activation is not None:
        kind = "bce" if header.is_sigmoid else "kl"
        shown[f"the teacher of {stream.store.path} ends in {header.activation}"] = kind
    return shown


def _shown_by_student(student: LogitsModel, num_outputs: int) -> dict[str, str]:
    if num_outputs == 1:
        return {"the student has one output": "bce"}
    if student.removed is None:
        return {}
    kind = "bce" if student.removed == "sigmoid" else "kl"
    return {f"the student ends in {student.removed}": kind}


def _conflict(
    wanted: dict[str, str], targets: dict[str, str], own: dict[str, str]
) -> OptionError | StudentError:
    """Returns the refusal of what does not agree."""
    sides = "".join(f"  {WORDS[kind]}: {what}\n" for what, kind in wanted.items())
    text = (
        "A loss compares either independent labels (sigmoid, bce) or the classes of one softmax "
        f"(kl), and not both.\n{sides}"
    )
    needed = set(targets.values())
    if len(needed) > 1:
        return OptionError(f"{text}Learn from the teacher alone: `--label-weight 0`.")
    if needed and own and needed != set(own.values()):
        word = WORDS[needed.pop()]
        return StudentError(f"{text}Give a student that ends in {word}, or without activation.")
    return OptionError(f"{text}Leave `--loss` out: it then follows from the others.")


def fits_outputs(num_outputs: int, stream: Stream) -> bool:
    """Returns whether so many outputs of a student fit a stream; two classes have two forms."""
    if num_outputs == stream.num_classes:
        return True
    if {num_outputs, stream.num_classes} != {1, 2} or stream.multi_hot is not None:
        return False
    independent = stream.store is not None and stream.store.header.is_sigmoid
    return stream.num_classes == 1 or not independent
