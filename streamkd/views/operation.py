"""A user's own operation on views: known to a store by name and version, drawn by seed.

    def solarize(pixels, seeds):                      # a TensorFlow graph function
        draw = lambda seed: tf.random.stateless_uniform([], seed, 128.0, 255.0)
        limits = tf.map_fn(draw, seeds, fn_output_signature=tf.float32)
        return tf.where(pixels > limits[:, None, None, None], 255 - pixels, pixels)

    operation = ViewOperation("solarize", 1, solarize)
    store = teach(images, teacher, "teacher.h5", views=Views(8, flip=True, operation=operation))
    stream = join(images, store, operation=operation)

The store keeps each view's seed, and the name and the version, but no code: whoever shows the views
to a student brings the function along. `views/render.py` calls it, after crop, flip and colour
and before the image is mixed or a box erased. Before a pass and before a join,
`views/operation_check.py` finds out whether seeds and pixels alone decide on what it returns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from streamkd.errors import OptionError
from streamkd.public import public

MAX_NAME_LENGTH = 100


@public
@dataclasses.dataclass(frozen=True)
class ViewOperation:
    """What a user does to a view beside crop, flip, colour, mixing and erasing.

    Two of them are equal where name and version are.

    Attributes:
      name: what the store calls it.
      version: give another one whenever the function returns other pixels than before.
      function: given pixels, float32 `[rows, height, width, channels]` from 0 to 255, and seeds,
        int32 `[rows, 2]` as `tf.random.stateless_uniform` takes one of them, returns pixels of the
        same shape and type; what leaves 0 to 255 is cut off. It runs in a TensorFlow graph, the
        number of rows is known when it runs, and a row must hang on its own pixels and its own
        seed alone. Teacher and student may differ in height, width and channels. None in the
        specification that a store keeps.

    Raises:
      OptionError: a value that cannot be.
    """

    name: str
    version: int
    function: Callable[[Any, Any], Any] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        name, version = self.name, self.version
        fits = isinstance(name, str) and 0 < len(name) <= MAX_NAME_LENGTH and name.isprintable()
        if not fits:
            raise OptionError(
                f"The name of a view operation is {name!r}; give 1 to {MAX_NAME_LENGTH} printable "
                "characters."
            )
        if isinstance(version, bool) or not isinstance(version, int) or version < 0:
            raise OptionError(
                f"The version of the view operation {name!r} is {version!r}; it must be a whole "
                "number from 0."
            )
        if self.function is not None and not callable(self.function):
            raise OptionError(
                f"The function of the view operation {self} is {self.function!r}; give one that "
                "takes pixels and seeds."
            )

    def __str__(self) -> str:
        return f"{self.name!r} version {self.version}"

    def to_dict(self) -> dict[str, Any]:
        """Returns what a store keeps of it."""
        return {"name": self.name, "version": self.version}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ViewOperation:
        """Returns the operation that `to_dict` was called on, without its function.

        Raises:
          OptionError: anything else than a name and a version.
        """
        if not isinstance(values, dict) or set(values) != {"name", "version"}:
            raise OptionError(
                f"The view specification has the operation {str(values)[:100]}, which this version "
                "does not know. It was written by a newer streamkd; upgrade with "
                "`pip install --upgrade streamkd`."
            )
        return cls(values["name"], values["version"])


def check_replayed(stored: ViewOperation | None, given: ViewOperation | None, path: str) -> None:
    """Refuses to show the views of a store with another operation than the teacher saw.

    Args:
      stored: the operation in the store's view specification, or None.
      given: what the user brings along, or None.
      path: of the store.

    Raises:
      OptionError: shows both sides.
    """
    if given is not None and not isinstance(given, ViewOperation):
        raise OptionError(
            f"operation is {given!r}; give a ViewOperation: "
            "`operation=kd.ViewOperation(name, version, function)`."
        )
    if stored == given and (given is None or given.function is not None):
        return
    sides = f"  store: {stored or 'no operation'}\n  given: {given or 'no operation'}\n"
    if stored is None:
        raise OptionError(
            f"The store {path} has views without an operation, and one is given.\n{sides}"
            "Leave it out; or teach a store of such views: "
            "`kd.teach(…, views=kd.Views(8, operation=operation))`."
        )
    if stored == given:
        sides += "         without a function\n"
    raise OptionError(
        f"The store {path} has views with the operation {stored}, and the student must see what "
        f"the teacher saw.\n{sides}"
        "The store keeps no code; use Python: "
        f"`kd.join(…, operation=kd.ViewOperation({stored.name!r}, {stored.version}, function))`."
    )
