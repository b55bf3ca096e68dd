"""What an error of another library says, in the words of a refusal.

first_line(error)                           # "Got invalid dimensions for input: image"
raise failure("net.onnx", images, error) from error
"""

from __future__ import annotations

import numpy as np

from streamkd.errors import TeacherError

# Longest line that a message shows, in characters.
_MAX_LINE = 300


def first_line(error: BaseException) -> str:
    """Returns the first line of an error, as the middle of a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:_MAX_LINE].rstrip(".")


def failure(name: str, images: np.ndarray, error: Exception) -> TeacherError:
    """Returns the refusal of a teacher that fails on images in its own axes."""
    return TeacherError(
        f"The teacher {name!r} fails when it is asked about images of "
        f"{' x '.join(map(str, images.shape))}: {first_line(error)}.\n"
        "Give another `--image-size`, or look at the model."
    )
