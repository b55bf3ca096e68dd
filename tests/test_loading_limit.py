"""A model that takes more time or memory to build than its file may is refused."""

import threading
import zipfile

import pytest
import tf_keras

from streamkd.errors import TeacherError
from streamkd.models import loading_limit
from streamkd.models.families import load_model
from streamkd.models.loading_limit import LoadingLimit, LoadingTakesTooMuch


@pytest.fixture
def impatient(monkeypatch):
    """Looks at each millisecond, and allows hardly any time."""
    monkeypatch.setattr(loading_limit, "_INTERVAL_SECS", 0.001)
    monkeypatch.setattr(loading_limit, "_AGAIN_SECS", 0.001)
    monkeypatch.setattr(loading_limit, "SECS", 0.02)


def endless():
    while True:
        pass


def deaf():
    """Goes on once, as a finalizer does that swallows what is raised in it."""
    try:
        endless()
    except LoadingTakesTooMuch:
        endless()


@pytest.mark.parametrize("work", [endless, deaf])
def test_what_computes_for_ever_is_ended(impatient, work):
    limit = LoadingLimit(0, 0)
    with pytest.raises(LoadingTakesTooMuch), limit.watching():
        work()
    assert limit.reason == "building it takes over 0 s of computing"


def test_what_takes_memory_for_ever_is_ended(impatient, monkeypatch):
    monkeypatch.setattr(loading_limit, "SECS", 1000)
    sizes = iter(range(0, 1 << 50, 1 << 30))
    monkeypatch.setattr(loading_limit, "_memory_bytes", lambda: next(sizes))
    limit = LoadingLimit(0, 1 << 28)
    with pytest.raises(LoadingTakesTooMuch), limit.watching():
        endless()
    assert limit.reason == "building it takes over 4.3 GB of memory"


def test_a_large_file_may_take_more():
    small, large = LoadingLimit(0, 0), LoadingLimit(2_000_000, 3 * 10**9)
    assert large._secs == small._secs + 2 * 120 + 3 * 60
    assert large._growth_bytes == small._growth_bytes + 8 * 3 * 10**9


def test_nothing_is_raised_after_the_end(impatient, monkeypatch):
    monkeypatch.setattr(loading_limit, "SECS", 0)
    for steps in range(0, 60_000, 2_000):
        try:
            with LoadingLimit(0, 0).watching():
                for _ in range(steps):
                    pass
        except LoadingTakesTooMuch:
            pass
        for _ in range(20_000):
            pass
    assert "loading-limit" not in {thread.name for thread in threading.enumerate()}


def test_a_model_that_waits_for_an_output_that_is_not_there_is_refused(impatient, tmp_path):
    image = tf_keras.Input((4, 3))
    states = tf_keras.layers.LSTM(2, return_state=True, name="three")(image)
    path = tmp_path / "m.keras"
    tf_keras.Model(image, states[0] + states[1]).save(path)
    rewrite(path, b'["three", 0, 1]', b'["three", 0, 7]')
    with pytest.raises(TeacherError, match="building it takes over 0 s of computing"):
        load_model(path)


def rewrite(path, old, new):
    """Replaces bytes of the same number in the configuration of a model file."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    assert old in parts["config.json"]
    parts["config.json"] = parts["config.json"].replace(old, new)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in parts.items():
            file.writestr(name, data)
