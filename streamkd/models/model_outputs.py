"""The outputs of a model by name: of a list, a dict, or an object with `.logits`.

    outputs = named_outputs(model.output, names)    # or of what a model, or a function, answered
    output = chosen_output(outputs, "logits", "The teacher 'net'", TeacherError)
    logits = output_at(answer, output.path)

Outputs are counted from 0, those of a dict in the order of their names: a saved model keeps that
order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from streamkd.errors import StreamkdError

# Longest list of outputs that a message shows.
_MAX_LISTED = 10


@dataclasses.dataclass(frozen=True)
class Output:
    """One of the arrays that a model answers with.

    Attributes:
      name: the key of a dict, the name of a layer, or a number.
      path: the way to the array: keys, numbers, and the name of an attribute after a dot.
      array: the array itself, symbolic or with values.
    """

    name: str
    path: tuple[Any, ...]
    array: Any


def named_outputs(
    answer: Any, name_of: Callable[[Any], str | None] = lambda array: None
) -> list[Output]:
    """Returns the arrays in what a model answers with.

    Args:
      answer: an array, or lists, dicts and objects with `.logits` around arrays.
      name_of: returns the name of an array that has one of its own, such as of its layer.
    """
    outputs = []
    for path, array in _arrays(answer):
        keys = [str(step).lstrip(".") for step in path]
        own = name_of(array) if not path or isinstance(path[-1], int) else None
        outputs.append(Output(own or "/".join(keys) or "0", path, array))
    return outputs


def output_at(answer: Any, path: tuple[Any, ...]) -> Any:
    """Returns the array at the path of an `Output`."""
    for step in path:
        is_attribute = isinstance(step, str) and step.startswith(".")
        answer = getattr(answer, step[1:]) if is_attribute else answer[step]
    return answer


def chosen_output(
    outputs: list[Output], choice: str | int | None, subject: str, refusal: type[StreamkdError]
) -> Output:
    """Returns the output that the user chose, or the only one.

    Args:
      outputs: all of them.
      choice: name or number, as a number or as text; None for the only one.
      subject: the model in the message, such as "The teacher 'net'".
      refusal: class of the error.

    Raises:
      refusal: there are several and none was chosen, there is no such output, or none at all.
    """
    if not outputs:
        raise refusal(
            f"{subject} answers without any array.\nIt must answer with [batch, num_classes]."
        )
    if choice is None:
        if len(outputs) == 1:
            return outputs[0]
        raise refusal(
            f"{subject} has {len(outputs)} outputs, and only one of them can be the logits.\n"
            f"{_listed(outputs)}Choose one by its name or number: `--output "
            f"{_choice_of(outputs, 0)}`."
        )
    named = [output for output in outputs if output.name == str(choice)]
    if len(named) == 1 and not isinstance(choice, int):
        return named[0]
    number = int(choice) if str(choice).isdecimal() else None
    if number is not None and number < len(outputs):
        return outputs[number]
    raise refusal(
        f"{subject} has no output {str(choice)!r}.\n{_listed(outputs)}"
        f"Give one of their names or numbers, such as `--output {_choice_of(outputs, 0)}`."
    )


def _arrays(answer: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """Returns the arrays within an answer, each with its path."""
    steps: list[tuple[Any, Any]] | None = None
    if isinstance(answer, Mapping):
        steps = [(key, answer[key]) for key in sorted(answer, key=str)]
    elif isinstance(answer, tuple | list):
        steps = list(enumerate(answer))
    elif not hasattr(answer, "shape") and hasattr(answer, "logits"):
        steps = [(".logits", answer.logits)]
    if steps is None:
        return [] if answer is None else [((), answer)]
    return [((step, *path), array) for step, part in steps for path, array in _arrays(part)]


def _choice_of(outputs: list[Output], number: int) -> str:
    """Returns what to give for an output: its name, unless another has the same."""
    name = outputs[number].name
    is_unique = [output.name for output in outputs].count(name) == 1
    return name if is_unique and not set(name) & set(" '\"$`\\") else str(number)


def _listed(outputs: list[Output]) -> str:
    """Returns a line for each output: number, name and shape without the batch."""
    lines = []
    for number, output in enumerate(outputs[:_MAX_LISTED]):
        shape = getattr(output.array, "shape", None)
        sizes = "" if shape is None else f", shape {list(shape)[1:]}"
        lines.append(f"  {number}: '{output.name}'{sizes}\n")
    if len(outputs) > _MAX_LISTED:
        lines.append(f"  and {len(outputs) - _MAX_LISTED} more\n")
    return "".join(lines)
