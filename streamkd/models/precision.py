"""The precision that a student computes in: Keras' dtype policy, of both families alike.

with precision("mixed_float16"):
    student = build(num_classes=10)
precision_of(student)                        # 'mixed_float16'
check_precision(student, "mixed_float16")
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from streamkd.checks import check_choice
from streamkd.errors import StudentError
from streamkd.models.families import FAMILIES, family_of

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


@contextlib.contextmanager
def precision(name: str | None) -> Iterator[None]:
    """Builds models in this precision within the context; None leaves the precision as it is."""
    if name is None:
        yield
        return
    check_choice("precision", name, PRECISIONS)
    # Both families, since a function may build a student of either.
    policies = [family.keras.mixed_precision for family in FAMILIES.values()]
    before = [policy.global_policy() for policy in policies]
    try:
        for policy in policies:
            policy.set_global_policy(name)
        yield
    finally:
        for policy, old in zip(policies, before, strict=True):
            policy.set_global_policy(old)


def precision_of(model: Any) -> str:
    """Returns the dtype policy of a model's layers, such as 'float32' or 'mixed_float16'.

    Under a mixed policy, single layers may stay float32.
    """
    # A loaded model and its input have today's global policy; the layers have that of the file.
    _, layers = family_of(model).models_and_layers(model)
    layers = [layer for layer in layers if type(layer).__name__ != "InputLayer"]
    names = {layer.dtype_policy.name for layer in layers}
    return " and ".join(sorted(name for name in names if "float16" in name)) or "float32"


def check_precision(student: Any, name: str | None) -> None:
    """Raises StudentError for a student that computes in another precision than asked for."""
    own = precision_of(student)
    if name is not None and own != name:
        raise StudentError(
            f"The student {student.name!r} computes in another precision than the one asked for.\n"
            f"  student:     {own}\n"
            f"  --precision: {name}\n"
            "A saved student keeps its precision. Leave `--precision` out, or give the application "
            "or the function that builds the student."
        )
