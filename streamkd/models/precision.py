"""The precision that a student computes in: Keras' dtype policy, of both families alike.

with precision("mixed_float16"):
    student = build(num_classes=10)
check_precision(student, "mixed_float16")
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from streamkd.checks import check_choice
from streamkd.errors import StudentError
from streamkd.models.families import KERAS_3, TF_KERAS, import_family, precision_of

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


@contextlib.contextmanager
def precision(name: str | None) -> Iterator[None]:
    """Builds what is built meanwhile in this precision; None leaves it as it is."""
    if name is None:
        yield
        return
    check_choice("precision", name, PRECISIONS)
    # Both, since a function may build a student of either.
    policies = [import_family(family).mixed_precision for family in (TF_KERAS, KERAS_3)]
    before = [policy.global_policy() for policy in policies]
    try:
        for policy in policies:
            policy.set_global_policy(name)
        yield
    finally:
        for policy, old in zip(policies, before, strict=True):
            policy.set_global_policy(old)


def check_precision(student: Any, name: str | None) -> None:
    """Refuses a student that computes in another precision, such as one that was saved so.

    Raises:
      StudentError: shows both sides.
    """
    found = precision_of(student)
    if name is not None and found != name:
        raise StudentError(
            f"The student {student.name!r} computes in another precision than the one asked for.\n"
            f"  student:     {found}\n"
            f"  --precision: {name}\n"
            "A saved student keeps the precision it was saved in. Leave `--precision` out, or give "
            "the application or the function that builds the student."
        )
