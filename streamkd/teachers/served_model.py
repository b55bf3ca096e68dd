"""What a server tells of its model: the type and size of its images, and its version.

served = served_model(sender, "/v1/models/net")
served.dtype, served.image_size         # 'DT_UINT8', (224, 224); None where it does not tell
"""

from __future__ import annotations

import dataclasses
from typing import Any

from streamkd.errors import TeacherError
from streamkd.teachers.http_requests import Sender

_DEFAULT_SIGNATURE = "serving_default"


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A model as its server describes it; None for what it does not tell.

    Attributes:
      dtype: type of the input, in the words of TensorFlow Serving.
      image_size: (height, width); None for any.
      num_channels: channels of its images.
      version: number of the version that answers.
      signature: name of the signature to ask, where it is not the default one.
    """

    dtype: str | None = None
    image_size: tuple[int, int] | None = None
    num_channels: int | None = None
    version: str | None = None
    signature: str | None = None


def served_model(sender: Sender, path: str) -> ServedModel:
    """Returns what a server tells of the model at a path; a server may tell nothing.

    Raises:
      TeacherError: the model has several inputs, or is none for images.
    """
    status = sender.json("GET", path)
    described = sender.json("GET", f"{path}/metadata")
    version = _version(status)
    signatures = _entry(described, "metadata", "signature_def", "signature_def")
    if not isinstance(signatures, dict) or not signatures:
        return ServedModel(version=version)
    usable = [name for name in signatures if name != "__saved_model_init_op"]
    default = _DEFAULT_SIGNATURE in usable or len(usable) != 1
    name = _DEFAULT_SIGNATURE if default else usable[0]
    inputs = _entry(signatures, name, "inputs")
    if not isinstance(inputs, dict) or not inputs:
        return ServedModel(version=version)
    if len(inputs) > 1:
        raise TeacherError(
            f"The served model takes {len(inputs)} inputs: {', '.join(sorted(map(str, inputs)))}.\n"
            "Give a model that takes images alone."
        )
    given = next(iter(inputs.values()))
    dtype = _entry(given, "dtype")
    size = _sizes(_entry(given, "tensor_shape", "dim"))
    if size is not None and len(size) != 4 and dtype != "DT_STRING":
        raise TeacherError(
            f"The served model takes numbers with {len(size)} axes, {size}, and images have 4: "
            "[batch, height, width, channels].\nGive a model that takes images."
        )
    height, width, channels = (None,) * 3 if size is None or len(size) != 4 else size[1:]
    return ServedModel(
        dtype=dtype if isinstance(dtype, str) else None,
        image_size=None if height is None or width is None else (height, width),
        num_channels=channels,
        version=version,
        signature=None if default else name,
    )


def _version(status: Any) -> str | None:
    """Returns the version that answers: the highest that is available."""
    entries = _entry(status, "model_version_status")
    versions = [
        str(entry.get("version"))
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and entry.get("state") == "AVAILABLE"
    ]
    return max((text for text in versions if text.isdecimal()), key=int, default=None)


def _sizes(dimensions: Any) -> list[int | None] | None:
    """Returns the sizes of a shape, None for an axis of any size; None for no shape."""
    if not isinstance(dimensions, list):
        return None
    sizes = [str(_entry(dimension, "size")) for dimension in dimensions]
    return [int(size) if size.isdecimal() and int(size) else None for size in sizes]


def _entry(value: Any, *names: str) -> Any:
    """Returns an entry of nested objects; None where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
