"""JSON that others wrote: what nests too deep is a ValueError, as all other damage is.

load('{"cat": 1}')                  # {"cat": 1}
load("[" * 200_000)                 # ValueError: it is nested too deep
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def load(text: str, *, object_pairs_hook: Callable[[Any], Any] | None = None) -> Any:
    """Returns the value that `text` holds.

    Raises:
      ValueError: `text` is no JSON, or nests deeper than Python's parser goes.
    """
    try:
        return json.loads(text, object_pairs_hook=object_pairs_hook)
    except RecursionError:
        # Without a cause: the traceback of a recursion is a thousand lines long.
        raise ValueError("it is nested too deep") from None
