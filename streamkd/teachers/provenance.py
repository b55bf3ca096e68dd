"""Provenance of a store's rows: kept in its header, compared when a pass is resumed.

versions = package_versions("tensorflow", "numpy", "pillow")
check_same(store, {"--codec": ("float32", store.header.codec), "teacher": (identity, …)})
"""

from __future__ import annotations

import importlib
from typing import Any

import streamkd
from streamkd.differences import another, both_sides
from streamkd.errors import StoreError
from streamkd.store.reader import LogitStore

# What a package is called where its name for `import` is another.
_MODULES = {"pillow": "PIL"}


def package_versions(*names: str) -> dict[str, str]:
    """Returns the versions of streamkd and of the named packages, for a store's header."""
    modules = {name: importlib.import_module(_MODULES.get(name, name)) for name in names}
    packages = {name: module.__version__ for name, module in modules.items()}
    return {"streamkd": streamkd.__version__, **packages}


def check_same(store: LogitStore, settings: dict[str, tuple[Any, Any]]) -> None:
    """Refuses to resume a store, finished or not, that was begun with other settings.

    `settings` has, for each name that a user knows, the value of this call and that of the store.

    Raises:
      StoreError: names the first setting that differs, with both sides.
    """
    for name, (now, stored) in settings.items():
        if now != stored:
            raise StoreError(
                f"The store {store.path} was begun with {another(name)}.\n"
                f"{both_sides({'now': now, 'store': stored})}"
                f"Give the same {name}, or another path with `--out`."
            )
