"""In Python a path stands for its images or its store; other types are refused by name."""

import shutil

import pytest
from helpers import EncodingTeacher
from run_helpers import dense_student

import streamkd as kd
from streamkd.errors import OptionError

SMALL = {"image_size": (8, 8), "progress": False}


@pytest.fixture
def store(taught, tmp_path):
    return kd.open_store(shutil.copyfile(taught / "teacher.h5", tmp_path / "s.h5"))


def test_a_path_stands_for_its_images(directory, store, tmp_path):
    own = kd.teach(str(directory), EncodingTeacher(), tmp_path / "own.h5", **SMALL)
    assert own.num_images == 30
    stream = kd.join(directory, tmp_path / "s.h5", batch_size=6, seed=1)
    assert len(stream.images) == 30
    student = dense_student()
    distiller = kd.Distiller(student, optimizer="sgd", jit="off")
    distiller.fit(stream, epochs=1, validation=str(directory), progress=False)
    assert kd.evaluate(student, bytes(directory), progress=False).num_images == 30
    assert kd.verify(tmp_path / "s.h5", images=directory, progress=False).sound
    kd.scan(directory).write(tmp_path / "m.jsonl")
    assert len(kd.join(tmp_path / "m.jsonl", store, batch_size=6, seed=1).images) == 30


@pytest.mark.parametrize("images", [7, ["a.jpg"], {"images": 1}, 1.5, ("a", "b")])
def test_images_of_another_type_are_refused_by_name(images, store, tmp_path):
    words = rf"images is of the type {type(images).__name__}, not a manifest or a path\.\nGive a d"
    calls = [
        lambda: kd.teach(images, EncodingTeacher(), tmp_path / "n.h5", **SMALL),
        lambda: kd.join(images, store, batch_size=6, seed=1),
        lambda: kd.evaluate(dense_student(), images),
        lambda: kd.verify(tmp_path / "s.h5", images=images),
    ]
    for call in calls:
        with pytest.raises(OptionError, match=words):
            call()
    assert not (tmp_path / "n.h5").exists()


@pytest.mark.parametrize("store", [7, 1.5, {"a.h5"}])
def test_a_store_of_another_type_is_refused_by_name(store, directory):
    with pytest.raises(OptionError, match=f"The store is of the type {type(store).__name__}, not"):
        kd.join(directory, store, image_size=(8, 8), batch_size=6, seed=1)


def test_one_store_is_opened_at_a_time():
    with pytest.raises(OptionError, match=r"type list.*\n.*several as one: kd\.combine_stores"):
        kd.open_store(["a.h5", "b.h5"])
