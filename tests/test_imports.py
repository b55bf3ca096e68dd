"""Each room imports only from the rooms above it, and the first rooms do without TensorFlow."""

import ast
import pickle
import re
from pathlib import Path

import pytest
from process_helpers import finished

import streamkd

PACKAGE = Path(streamkd.__file__).parent
# Modules and folders of the package in the order in which data flows, as CONTRIBUTING.md has them.
ROOMS = (
    *("public", "errors", "codes", "checks", "differences", "reports"),
    *("file_access", "file_kinds", "image_options", "json_text", "small_files"),
    *("keys", "disk", "progress"),
    *("tf_support", "manifest", "pixels", "views", "store", "ensemble"),
    *("models", "teachers"),
    *("stream", "losses", "runs", "training", "results", "exports", "whole_job", "sweeps", "cli"),
)
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in FILES
    if path.name not in ("__init__.py", "__main__.py")
]
# Lines of the longest module: what is longer has a second subject.
MAX_LINES = 350
HEAVY = ("tensorflow", "tf_keras", "keras", "h5py", "PIL", "numpy", "tqdm", "matplotlib", "mlxtend")
KERAS = ("tensorflow", "tf_keras", "keras")
# Modules that work in TensorFlow's graph, among the rooms from the first one to the store.
WITH_TENSORFLOW = (
    *("tf_support.autograph", "tf_support.iterators", "tf_support.kept_pipeline"),
    *("tf_support.own_loop", "tf_support.python_calls", "tf_support.read_pipeline"),
    *("pixels.bad_images", "pixels.check_images", "pixels.crop", "pixels.decode"),
    *("pixels.exact_decode", "pixels.scaled_decode", "pixels.turned"),
    *("views.operation_check", "views.render"),
)
WITHOUT_TENSORFLOW = [
    module
    for module in MODULES
    if ROOMS.index(module.split(".")[1]) <= ROOMS.index("ensemble")
    and module.removeprefix("streamkd.") not in WITH_TENSORFLOW
]


def imported_by(module):
    """Returns the names that a module imports, at its top or inside a function."""
    path = ROOT / Path(*module.split(".")).with_suffix(".py")
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names


def loaded_after(statements, names):
    """Returns the modules, out of `names`, that statements make a new process import."""
    code = f"{statements}\nimport sys\nprint(*[n for n in {tuple(names)!r} if n in sys.modules])"
    return finished("-c", code)[0].split()


def test_every_module_stands_in_a_room():
    assert {module.split(".")[1] for module in MODULES} == set(ROOMS)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_room_and_those_above(module):
    room = ROOMS.index(module.split(".")[1])
    own = [name for name in imported_by(module) if name.startswith("streamkd.")]
    assert [name for name in own if ROOMS.index(name.split(".")[1]) > room] == []


def test_no_module_is_too_long_to_have_one_subject():
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_the_store_names_tensorflow_nowhere():
    store = [module for module in MODULES if module.startswith("streamkd.store.")]
    imported = {module: [n.split(".")[0] for n in imported_by(module)] for module in store}
    assert [module for module, names in imported.items() if set(names) & set(KERAS)] == []


def test_modules_that_may_import_tensorflow_are_there():
    assert {f"streamkd.{name}" for name in WITH_TENSORFLOW} <= set(MODULES)


def is_module(name):
    """Returns whether a name is a module, a package's own or a public name, or begins with one."""
    names = name.split(".")
    for count in range(len(names), 1, -1):
        path = ROOT.joinpath(*names[:count])
        if path.with_suffix(".py").exists() or (count == len(names) and path.is_dir()):
            return True
    package = ROOT.joinpath(*names[:-1], "__init__.py")
    if package.exists() and re.search(rf"\b{names[-1]}\b", package.read_text()):
        return True
    return names[1] in (*streamkd.__all__, "Share") or names[1].startswith("__")


@pytest.mark.parametrize(
    "path",
    [
        path
        for folder in ("streamkd", "tests", "examples", "docs")
        for ending in ("*.py", "*.md", "*.ipynb")
        for path in sorted(ROOT.joinpath(folder).rglob(ending))
        if path != Path(__file__).resolve()
    ]
    + sorted(ROOT.glob("*.md")),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_module_that_a_file_names_is_there(path):
    # In strings too: tests patch modules by name, and start children from a text.
    text = path.read_text()
    names = set(re.findall(r"\bstreamkd(?:\.[a-zA-Z_]\w*)+", text))
    for package, imported in re.findall(r"from (streamkd[.\w]*) import ([\w, ]+)", text):
        names |= {f"{package}.{name.split()[0]}" for name in imported.split(",") if name.strip()}
    assert sorted(name for name in names if not is_module(name)) == []


def test_no_test_module_imports_another():
    """Helpers that several share have a module.

    A child's program may import the test's own, and the test of a module imports that module.
    """
    for path in sorted(Path(__file__).parent.glob("*.py")):
        imported = re.findall(r"^\s*(?:from|import) (test_\w+|conftest)\b", path.read_text(), re.M)
        assert set(imported) <= {path.stem, path.stem.removeprefix("test_")}, path.name


def test_importing_streamkd_imports_nothing_heavy():
    modules = [module for module in MODULES if module != "streamkd.errors"]
    assert loaded_after("import streamkd; dir(streamkd)", [*HEAVY, *modules]) == []


def test_the_rooms_down_to_the_store_import_without_tensorflow():
    statements = "".join(f"import {module}\n" for module in WITHOUT_TENSORFLOW)
    assert loaded_after(statements, KERAS) == []


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


def test_every_public_name_belongs_to_streamkd():
    for name in streamkd.__all__:
        value = getattr(streamkd, name)
        assert (value.__module__, value.__name__) == ("streamkd", name)
    assert set(streamkd.__all__) <= set(dir(streamkd))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'streamkd' has no attribute 'scam'"):
        streamkd.scam  # noqa: B018


def test_a_name_of_an_earlier_release_still_serves():
    assert streamkd.Share is streamkd.WorkerSlice
    assert "Share" not in streamkd.__all__


def test_a_pickle_names_what_a_user_types():
    pickled = pickle.dumps(streamkd.Views(3, flip=True))
    assert b"streamkd.views" not in pickled
    assert pickle.loads(pickled) == streamkd.Views(3, flip=True)
