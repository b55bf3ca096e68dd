"""A user's own operation on views: the store knows it by name and version, and keeps its seeds.

    def solarize(pixels, seeds):                      # runs in a TensorFlow graph
        draw = lambda seed: tf.random.stateless_uniform([], seed, 128.0, 255.0)
        limits = tf.map_fn(draw, seeds, fn_output_signature=tf.float32)
        return tf.where(pixels > limits[:, None, None, None], 255 - pixels, pixels)

    operation = ViewOperation("solarize", 1, solarize)
    store = teach(images, teacher, "teacher.h5", views=Views(8, flip=True, operation=operation))
    stream = join(images, store, operation=operation)

The store keeps the seed of each view, and the operation's name and version, but no code: a join
gets the function again. `views/render.py` calls it after crop, flip and colour, and before an image
is mixed or a box erased. Before a pass or a join, `views/operation_check.py` checks that the result
depends on pixels and seeds alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from streamkd.errors import OptionError
from streamkd.public import public

# Largest length of an operation's name, in characters.
MAX_NAME_LENGTH = 100


@public
@dataclasses.dataclass(frozen=True)
class ViewOperation:
    """An operation on views besides crop, flip, colour, mixing and erasing.

    Two operations are equal if their names and versions are.

    Attributes:
      name: the operation's name in the store.
      version: a whole number; raise it whenever the function returns other pixels than before.
      function: called with pixels, float32 `[rows, height, width, channels]` from 0 to 255, and
        seeds, int32 `[rows, 2]`, one for each row as `tf.random.stateless_uniform` takes it.
        Returns pixels of the same shape and type; values outside 0 to 255 are cut off. The function
        runs in a TensorFlow graph; the number of rows is not known before it runs, and each row
        must depend only on its own pixels and seed. Teacher and student may differ in height, width
        and channels. None in the specification that a store keeps.

    Raises:
      OptionError: a name, version or function that cannot be used.
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
                f"The function of the view operation {self} is {self.function!r}; give a function "
                "of pixels and seeds."
            )

    def __str__(self) -> str:
        return f"{self.name!r} version {self.version}"

    def to_dict(self) -> dict[str, Any]:
        """Returns the operation as a store keeps it."""
        return {"name": self.name, "version": self.version}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ViewOperation:
        """Returns the operation of a specification, without its function.

        Raises:
          OptionError: `values` is anything but a name and a version.
        """
        if not isinstance(values, dict) or set(values) != {"name", "version"}:
            raise OptionError(
                f"The view specification has an unknown operation, {str(values)[:100]}, of a newer "
                "streamkd.\nUpgrade with `pip install --upgrade streamkd`."
            )
        return cls(values["name"], values["version"])


def check_replayed(stored: ViewOperation | None, given: ViewOperation | None, path: str) -> None:
    """Refuses the user's operation, or its absence, where a store's views have another one.

    `stored` is that of the store's view specification, `given` the user's; either may be None.

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
            "Leave the operation out, or teach a store with it: "
            "`kd.teach(…, views=kd.Views(8, operation=operation))`."
        )
    if stored == given:
        sides += "         without a function\n"
    raise OptionError(
        f"The store {path} has views with the operation {stored}, and the student must see the "
        f"views that the teacher saw.\n{sides}"
        "The store keeps no code; use Python: "
        f"`kd.join(…, operation=kd.ViewOperation({stored.name!r}, {stored.version}, function))`."
    )
