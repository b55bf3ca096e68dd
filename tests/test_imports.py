"""Rooms import only from rooms above them, and what needs no TensorFlow does not import it."""

import ast
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import streamkd

PACKAGE = Path(streamkd.__file__).parent
# In the order in which data flows; `version` and the names of `streamkd` itself are for everyone.
ROOMS = (
    *("public", "errors", "checks", "reports", "image_options", "keys", "disk", "progress"),
    *("tf_support", "manifest", "pixels", "views", "store", "models", "teachers"),
    *("stream", "losses", "runs", "training", "results", "cli"),
)
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
)
HEAVY = ("tensorflow", "tf_keras", "keras", "h5py", "PIL", "numpy", "tqdm", "matplotlib", "mlxtend")
# What works in TensorFlow's graph; the rest of the rooms down to the store does without it.
WITH_TENSORFLOW = (
    *("tf_support.autograph", "tf_support.iterators", "tf_support.read_pipeline"),
    *("pixels.bad_images", "pixels.check_images", "pixels.crop", "pixels.decode"),
    *("pixels.exact_decode", "pixels.scaled_decode"),
    *("views.operation_check", "views.render"),
)
WITHOUT_TENSORFLOW = [
    module
    for module in MODULES
    if ROOMS.index(module.split(".")[1]) <= ROOMS.index("store")
    and module.removeprefix("streamkd.") not in WITH_TENSORFLOW
]


def imported_by(module):
    """Returns the modules of streamkd that a module names in import statements, anywhere in it."""
    path = PACKAGE.parent / Path(*module.split(".")).with_suffix(".py")
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name for name in found if name.startswith("streamkd.")]


def loaded_after(statements, names):
    """Returns which of `names` are in sys.modules after running `statements` in a new process."""
    code = f"{statements}\nimport sys\nprint(*[n for n in {tuple(names)!r} if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_every_module_stands_in_a_room():
    assert {module.split(".")[1] for module in MODULES} == set(ROOMS)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_room_and_those_above(module):
    room = ROOMS.index(module.split(".")[1])
    below = [name for name in imported_by(module) if ROOMS.index(name.split(".")[1]) > room]
    assert not below


def test_importing_streamkd_imports_nothing_heavy():
    modules = [module for module in MODULES if module != "streamkd.errors"]
    assert loaded_after("import streamkd; dir(streamkd)", [*HEAVY, *modules]) == []


def test_the_first_half_imports_without_tensorflow():
    statements = "".join(f"import {module}\n" for module in WITHOUT_TENSORFLOW)
    assert loaded_after(statements, ("tensorflow", "tf_keras", "keras")) == []


def test_scanning_and_reading_a_store_need_no_tensorflow(directory, images, store):
    statements = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "import numpy as np, streamkd as kd\n"
        f"images = kd.scan({str(directory)!r})\n"
        f"store = kd.open_store({store.path!r})\n"
        "rows = store.images_of_keys(images.keys)\n"
        "assert store.gather(rows).shape == (30, 3)\n"
        "print(images.fingerprint)"
    )
    assert loaded_after(statements, ("tf_keras", "keras")) == [images.fingerprint]


def test_every_name_of_the_top_level_can_be_had():
    for name in streamkd.__all__:
        assert getattr(streamkd, name).__name__ == name
        assert getattr(streamkd, name).__module__ == "streamkd"
    assert set(streamkd.__all__) <= set(dir(streamkd))


def test_an_unknown_name_of_the_top_level_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'streamkd' has no attribute 'scam'"):
        streamkd.scam  # noqa: B018


def test_a_name_of_an_earlier_release_still_serves():
    assert streamkd.Share is streamkd.WorkerSlice
    assert "Share" not in streamkd.__all__


def test_a_pickle_names_what_a_user_types():
    pickled = pickle.dumps(streamkd.Views(3, flip=True))
    assert b"streamkd.views" not in pickled
    assert pickle.loads(pickled) == streamkd.Views(3, flip=True)
