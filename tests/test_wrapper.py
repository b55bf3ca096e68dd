"""A directory given one level too high is recognised, and refusals name the one that was meant."""

import numpy as np
import pytest
from helpers import draw_noise, teach_small

import streamkd as kd
from streamkd.errors import ClassNamesError, TeacherError
from streamkd.manifest.manifest import scan
from streamkd.manifest.notes import notes_of
from streamkd.manifest.wrapper import wrapped_directory


def draw(root, *folders):
    for seed, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        draw_noise(root / folder / f"{seed}.png", (8, 8), seed)
    return root


@pytest.mark.parametrize(
    ("folders", "meant"),
    [
        (["animals/cat", "animals/dog"], "animals"),
        (["data/animals/cat", "data/animals/dog"], "data/animals"),
        (["a/b/c/d/cat", "a/b/c/d/dog", "a/b/c/d/dog/old"], "a/b/c/d"),
        (["data/train/cat", "data/train/dog", "data/val/cat", "data/val/dog"], "data/train"),
        (["data/Training/cat", "data/test/cat"], "data/Training"),
        (["data/train/cat", "data/train/dog"], "data/train"),
        (["animals/cat", "animals/dog", "__MACOSX"], "animals"),
        (["cat", "dog"], None),
        (["cat", "cat/old", "cat/new"], None),
        (["cat/old"], None),
        (["cat/train", "cat/val"], None),
        (["animals/cat", "plants/oak"], None),
    ],
)
def test_the_directory_that_was_meant(tmp_path, folders, meant):
    directory = wrapped_directory(scan(draw(tmp_path, *folders)))
    assert directory == (None if meant is None else bytes(tmp_path / meant))


def test_an_empty_folder_beside_the_wrapper_changes_nothing(tmp_path):
    draw(tmp_path, "animals/cat", "animals/dog")
    (tmp_path / "logs").mkdir()
    notes = {note.code: note.examples for note in notes_of(scan(tmp_path))}
    assert notes["wrapper_folder"] == [f"{tmp_path}/animals"]
    assert wrapped_directory(scan(tmp_path, labels=None)) is None


def answers(num_outputs):
    return lambda pixels: np.random.default_rng(1).normal(size=(len(pixels), num_outputs))


@pytest.mark.parametrize("num_outputs", [1, 2, 5])
def test_a_function_that_does_not_fit_is_refused_with_a_hint(tmp_path, num_outputs):
    root = draw(tmp_path / "d", "animals/cat", "animals/dog")
    with pytest.raises(TeacherError) as caught:
        teach_small(root, answers(num_outputs), tmp_path / "s.h5")
    assert str(caught.value).endswith(
        f"All images are in one class, which has folders below it. Did you mean {root}/animals?"
    )
    assert not (tmp_path / "s.h5").exists()


@pytest.mark.filterwarnings("ignore:The teacher")
def test_a_store_of_the_right_folders_is_refused_with_a_hint(tmp_path):
    root = draw(tmp_path / "d", "animals/cat", "animals/dog")
    store = teach_small(root / "animals", answers(2), tmp_path / "s.h5")
    with pytest.raises(ClassNamesError, match=r"Did you mean .*/d/animals\?$"):
        kd.join(root, store, batch_size=2)
    draw(tmp_path / "e", "owl", "dog")
    with pytest.raises(ClassNamesError) as caught:
        kd.join(tmp_path / "e", store, batch_size=2)
    assert "Did you mean" not in str(caught.value)
