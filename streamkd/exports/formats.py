"""The formats that a model is exported to, and how near each must come to the original.

chosen = export_format("tflite", "int8")
chosen.ending, chosen.tolerance               # ".tflite", Tolerance(0.25, 0.95)
"""

from __future__ import annotations

import dataclasses

from streamkd.checks import check_choice
from streamkd.errors import OptionError

PRECISIONS = ("float32", "float16", "dynamic", "int8")


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How far the answers of an exported model may lie from the original's.

    Attributes:
      difference: largest difference of an output, as a fraction of the largest output, or of 1 if
        that is more.
      agreement: smallest fraction of real images for which both choose the same class. Noise is not
        judged by it: a model has no opinion of noise.
    """

    difference: float
    agreement: float


@dataclasses.dataclass(frozen=True)
class ExportFormat:
    """A format and a precision.

    Attributes:
      name: as of `--format`.
      precision: of the weights, as of `--precision`.
      ending: of the file's name; empty for a directory.
      tolerance: of its answers.
    """

    name: str
    precision: str
    ending: str
    tolerance: Tolerance


# A model that is saved and read back computes the same numbers.
_SAME = Tolerance(1e-5, 0.0)
# The same numbers, added up in another order by other kernels.
_OTHER_KERNELS = Tolerance(1e-3, 0.99)
_ENDINGS = {"keras": ".keras", "savedmodel": "", "tflite": ".tflite", "onnx": ".onnx"}
FORMATS = tuple(_ENDINGS)
# Half precision has 11 bits; 8 bits round each weight to 1 of 255 levels, and int8 the activations
# too. Then a fraction of close decisions changes.
_TOLERANCES = {
    ("keras", "float32"): _SAME,
    ("savedmodel", "float32"): _SAME,
    ("onnx", "float32"): _OTHER_KERNELS,
    ("tflite", "float32"): _OTHER_KERNELS,
    ("tflite", "float16"): Tolerance(1e-2, 0.98),
    ("tflite", "dynamic"): Tolerance(0.1, 0.95),
    ("tflite", "int8"): Tolerance(0.25, 0.95),
}


def export_format(name: str, precision: str) -> ExportFormat:
    """Returns a format.

    Raises:
      OptionError: there is no such format, or it has no such precision.
    """
    check_choice("--format", name, FORMATS)
    check_choice("--precision", precision, PRECISIONS)
    if (name, precision) not in _TOLERANCES:
        raise OptionError(
            f"--precision {precision} is for --format tflite, and --format is {name}.\n"
            "Leave --precision out, or give `--format tflite`."
        )
    return ExportFormat(name, precision, _ENDINGS[name], _TOLERANCES[name, precision])
