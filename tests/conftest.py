"""Fixtures that several test modules share: a tiny directory, its manifest, stores of it.

The images and the teacher are those of `helpers.py`: both carry the number of the image.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import os
import shutil
import signal
import warnings
from pathlib import Path

import pytest
from helpers import COUNTS

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Importing TensorFlow makes a million objects that stay; see `pytest_collection_finish`.
gc.disable()


# Modules that take the longest, in the ordinary run. They are begun first, so that no process is
# left with one of them while the others have nothing to do.
LONGEST = (
    *("test_keras_callbacks", "test_resume", "test_distiller", "test_cached_stream"),
    *("test_operation", "test_golden", "test_train_signals", "test_distribution", "test_demo"),
    *("test_whole_job", "test_replay", "test_cached_files", "test_teach", "test_keras_metrics"),
    *("test_resume_saves", "test_bad_images", "test_worker_slice", "test_scaled_stream"),
    *("test_cli", "test_teach_kills", "test_end_to_end", "test_style", "test_fuzz"),
    *("test_fit_memory", "test_op_determinism", "test_cache_cli", "test_autograph"),
)


def pytest_configure(config):
    """pytest-xdist hands out modules as they were collected, and not those of few tests last."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_collection_finish():
    """The garbage collector looks at what the tests make alone, and less often: a tenth faster."""
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def settled():
    """What a module leaves, such as graphs that TensorFlow keeps, is not looked through again."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory):
    """Keeps what runs write for their user out of the user's own folder."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session")
def taught(tmp_path_factory):
    """A folder with `images`, `directory` as it is before any test, and `teacher.h5`, its store."""
    from helpers import EncodingTeacher, draw_directory, teach_small

    from streamkd.manifest.manifest import scan

    folder = tmp_path_factory.mktemp("taught")
    images = scan(draw_directory(folder / "images", COUNTS))
    teach_small(images, EncodingTeacher(num_classes=len(COUNTS)), folder / "teacher.h5")
    return folder


@pytest.fixture(scope="session")
def teach_once(tmp_path_factory):
    """A function like `teach` that teaches each store once a session, and copies it from then on.

        store = teach_once(images, tmp_path / "s.h5", project, image_size=(9, 10), views=Views(2))

    A second call with the same files, wherever they lie, the same teacher and the same options
    costs a copy of the file instead of a pass: a few milliseconds instead of a second or more, most
    of which TensorFlow takes to trace the reading of images.

    Args of the function:
      images: a manifest.
      path: of the copy, which is the test's own.
      teacher: a function, or a class, which is called without arguments to make one.
      options: of `teach`.

    It returns the finished store, open for reading. It does not warn of a teacher that is wrong
    about the images; other warnings come with the first call alone. A test of the pass itself, or
    one that counts what the teacher is asked, calls `teach`.
    """
    from streamkd.store.collection import open_store
    from streamkd.teachers.teach import teach

    folder = tmp_path_factory.mktemp("taught-once")
    taught: dict[tuple, Path] = {}

    def copy_of(images, path, teacher, **options):
        digest = hashlib.blake2b(images.fingerprint.encode())
        for file in images.select(images.keys.sort_order()).each_path():
            digest.update(hashlib.blake2b(Path(os.fsdecode(file)).read_bytes()).digest())
        values = [tuple(v) if isinstance(v, list) else v for _, v in sorted(options.items())]
        # The key holds functions themselves, so that none of them is forgotten and mistaken.
        key = (digest.digest(), teacher, *sorted(options), *values)
        if key not in taught:
            original = folder / f"{len(taught)}.h5"
            asked = teacher() if isinstance(teacher, type) else teacher
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The teacher .* is right on")
                teach(images, asked, original, **{"progress": False, **options})
            taught[key] = original
        return open_store(shutil.copyfile(taught[key], path))

    return copy_of


@pytest.fixture(autouse=True, scope="session")
def interrupts():
    """A shell lets its background jobs, such as a run of these tests, ignore SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def directory(tmp_path):
    """A directory of 30 PNG images of 8×8 pixels in 3 class folders; see `helpers.draw_image`."""
    from helpers import draw_directory

    return draw_directory(tmp_path / "images", COUNTS)


@pytest.fixture
def images(directory):
    """The manifest of `directory`."""
    from streamkd.manifest.manifest import scan

    return scan(directory)


@pytest.fixture
def teacher():
    """A teacher of 3 classes whose logits hold the number of the image; it counts its calls."""
    from helpers import EncodingTeacher

    return EncodingTeacher(num_classes=len(COUNTS))


@pytest.fixture
def store(taught, tmp_path):
    """A finished store of `images` at `tmp_path / "teacher.h5"`, made at 8×8 in blocks of 7 images.

    Taught once by a teacher like `teacher`, and copied for each test.
    """
    from streamkd.store.collection import open_store

    return open_store(shutil.copyfile(taught / "teacher.h5", tmp_path / "teacher.h5"))


@pytest.fixture(params=["tf_keras", "keras"])
def family(request):
    """The module of each Keras family in turn: `tf_keras`, then Keras 3."""
    return importlib.import_module(request.param)


@pytest.fixture
def here(work, tmp_path, monkeypatch):
    """A copy of `work`, a directory that the test module makes, as the working directory."""
    shutil.copytree(work, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A directory of 30 images and its store, for tests that change neither."""
    from helpers import EncodingTeacher, draw_directory

    from streamkd.manifest.manifest import scan
    from streamkd.teachers.teach import teach

    root = tmp_path_factory.mktemp("shared")
    directory = draw_directory(root / "images", COUNTS)
    teacher = EncodingTeacher(num_classes=len(COUNTS))
    options = {"image_size": (8, 8), "progress": False}
    return directory, teach(scan(directory), teacher, root / "s.h5", **options)


@pytest.fixture
def noisy(tmp_path):
    """21 images of noise and of many sizes, in three classes; see `replay_helpers.draw_noisy`."""
    from replay_helpers import draw_noisy

    return draw_noisy(tmp_path / "noisy", one_size=False)


@pytest.fixture
def on_disk(tmp_path):
    """Arguments of `join` for a cache on the disk, of the test's own."""
    return {"cache": "disk", "cache_directory": tmp_path / "pixels"}


@pytest.fixture
def opened(monkeypatch):
    """The paths of all files that are opened to be decoded."""
    from streamkd.pixels import file_batch

    paths = []
    real = file_batch.read_file
    monkeypatch.setattr(file_batch, "read_file", lambda path: paths.append(path) or real(path))
    return paths
