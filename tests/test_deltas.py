"""Deltas: new and changed images are taught beside a finished store, which never changes."""

import os
import shutil
from unittest import mock

import helpers
import pytest
from delta_helpers import change, run_pass
from run_helpers import command, dense_student, exact_teacher
from stream_helpers import assert_all_paired

import streamkd as kd
from streamkd.errors import OtherImagesError, StoreError
from streamkd.manifest.manifest import scan
from streamkd.store.collection import StoreCollection, open_store
from streamkd.store.verify import verify
from streamkd.store.writer import StoreWriter


def test_new_and_changed_images_are_taught_beside_the_store(store, directory, tmp_path):
    before = (tmp_path / "teacher.h5").read_bytes()
    images = change(directory)
    taught, teacher = run_pass(images, tmp_path / "teacher.h5")
    assert (tmp_path / "teacher.h5").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == [
        *("images", "teacher.delta-1.h5", "teacher.h5", "teacher.h5.index")
    ]
    assert taught.stores[1].keys.tolist() == [b"ant/new.png", b"bee/00011.png", b"cat/new.png"]
    # One block of the base, to know the teacher by, and the delta's.
    assert teacher.num_calls == 2
    assert_all_paired(images, tmp_path / "teacher.h5")


def test_a_collection_describes_all_of_its_stores(store, directory, tmp_path):
    taught, _ = run_pass(change(directory), tmp_path / "teacher.h5")
    described = taught.describe()
    assert isinstance(taught, StoreCollection) and taught.finished
    assert described["num_images"] == 32  # 30, two new ones; the changed one counts once
    assert (described["rows_done"], described["rows_total"]) == (32, 32)
    assert described["teacher_accuracy"] == 1.0
    assert described["num_stores"] == 2
    assert [os.path.basename(path) for path in described["stores"]] == [
        *("teacher.h5", "teacher.delta-1.h5")
    ]
    sizes = sum((tmp_path / name).stat().st_size for name in ("teacher.h5", "teacher.delta-1.h5"))
    assert described["num_bytes"] == sizes


def test_the_same_command_again_asks_one_block_and_changes_nothing(store, directory, tmp_path):
    images = change(directory)
    run_pass(images, tmp_path / "teacher.h5")
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("teacher*")}
    taught, teacher = run_pass(images, tmp_path / "teacher.h5")
    assert taught.num_images == 32 and teacher.num_calls == 1
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("teacher*")} == before


def test_a_second_change_makes_a_second_delta_and_the_last_one_counts(store, directory, tmp_path):
    run_pass(change(directory), tmp_path / "teacher.h5")
    helpers.draw_image(directory / "bee" / "00011.png", 777, 1)
    images = scan(directory)
    taught, _ = run_pass(images, tmp_path / "teacher.h5")
    assert [s.num_images for s in taught.stores] == [30, 3, 1]
    image = taught.images_of_keys(kd.Keys.from_list([b"bee/00011.png"]))
    assert helpers.encoded_numbers(taught.gather(image)).tolist() == [[777, 1]]
    assert_all_paired(images, tmp_path / "teacher.h5")


def test_an_image_that_is_as_it_was_in_an_older_store_is_taught_again(store, directory, tmp_path):
    # Its key leads to the newest store, so that this is where its logits have to be.
    original = (directory / "bee" / "00011.png").read_bytes()
    run_pass(change(directory), tmp_path / "teacher.h5")
    (directory / "bee" / "00011.png").write_bytes(original)
    images = scan(directory)
    run_pass(images, tmp_path / "teacher.h5")
    assert_all_paired(images, tmp_path / "teacher.h5")


def test_two_files_that_changed_their_names_for_each_other_are_taught(store, directory, tmp_path):
    one, two = directory / "ant" / "00000.png", directory / "ant" / "00003.png"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    images = scan(directory)
    taught, _ = run_pass(images, tmp_path / "teacher.h5")
    assert taught.stores[1].num_images == 2
    assert_all_paired(images, tmp_path / "teacher.h5")


@pytest.mark.parametrize("is_created", [False, True])
def test_a_delta_that_was_cut_is_resumed(store, directory, tmp_path, is_created):
    images = change(directory)
    if is_created:
        with helpers.stopped_once_created():
            run_pass(images, tmp_path / "teacher.h5")
    else:
        with pytest.raises(helpers.TeacherFailedError):
            run_pass(images, tmp_path / "teacher.h5", teacher=helpers.EncodingTeacher(fail_at=2))
    assert (tmp_path / "teacher.delta-1.h5").exists() == is_created
    assert not (tmp_path / "teacher.h5.index").exists()
    taught, _ = run_pass(images, tmp_path / "teacher.h5")
    assert taught.num_images == 32


def test_a_delta_that_was_finished_but_not_listed_is_listed(store, directory, tmp_path):
    images = change(directory)
    run_pass(images, tmp_path / "teacher.h5")
    (tmp_path / "teacher.h5.index").unlink()
    taught, teacher = run_pass(images, tmp_path / "teacher.h5")
    # A block of the base and one of the delta, to know the teacher by.
    assert taught.num_images == 32 and teacher.num_calls == 2


def test_images_that_came_while_a_delta_was_cut_get_one_of_their_own(store, directory, tmp_path):
    with helpers.stopped_once_created():
        run_pass(change(directory), tmp_path / "teacher.h5")
    helpers.draw_image(directory / "bee" / "later.png", 900, 1)
    images = scan(directory)
    taught, _ = run_pass(images, tmp_path / "teacher.h5")
    assert [s.num_images for s in taught.stores] == [30, 3, 1]
    assert_all_paired(images, tmp_path / "teacher.h5")


def test_a_delta_that_can_never_be_finished_is_refused_by_name(store, directory, tmp_path):
    with helpers.stopped_once_created():
        run_pass(change(directory), tmp_path / "teacher.h5")
    (directory / "ant" / "new.png").unlink()
    with pytest.raises(StoreError, match=r"1 of them are gone\.\n  first: 'ant/new") as e:
        run_pass(scan(directory), tmp_path / "teacher.h5")
    assert "Move it away (`mv " in str(e.value) and e.value.key == b"ant/new.png"


def test_images_of_which_the_store_has_none_are_other_images(store, tmp_path):
    other = helpers.draw_directory(tmp_path / "other", {"ant": 3, "bee": 2, "cat": 4}, first=400)
    for path in other.glob("*/*.png"):
        path.rename(path.with_stem("x" + path.stem))
    with pytest.raises(OtherImagesError, match=r"(?s)other images.*first of 9 images without"):
        run_pass(scan(other), tmp_path / "teacher.h5")
    assert not (tmp_path / "teacher.delta-1.h5").exists()


def test_another_teacher_cannot_teach_a_delta(store, directory, tmp_path):
    images = change(directory)
    with pytest.raises(StoreError, match="begun with another --codec"):
        run_pass(images, tmp_path / "teacher.h5", codec="float32")
    twice = kd.load_teacher(lambda p: 2 * helpers.EncodingTeacher()(p), name="EncodingTeacher")
    with pytest.raises(StoreError, match=r"begun with another teacher|answers differ"):
        run_pass(images, tmp_path / "teacher.h5", teacher=twice)


def test_a_store_that_was_replaced_under_its_deltas_is_refused(store, directory, tmp_path):
    run_pass(change(directory), tmp_path / "teacher.h5")
    (tmp_path / "teacher.h5").unlink()
    with pytest.raises(StoreError, match=r"lists deltas of a store .* no longer exists"):
        run_pass(scan(directory), tmp_path / "teacher.h5")
    run_pass(scan(directory), tmp_path / "other.h5")
    shutil.copy(tmp_path / "other.h5", tmp_path / "teacher.h5")
    with pytest.raises(StoreError, match=r"teacher\.h5 is not the store that was listed"):
        open_store(tmp_path / "teacher.h5")


def test_a_store_and_its_deltas_can_be_moved_together(store, directory, tmp_path):
    images = change(directory)
    run_pass(images, tmp_path / "teacher.h5")
    (tmp_path / "elsewhere").mkdir()
    for path in tmp_path.glob("teacher*"):
        path.rename(tmp_path / "elsewhere" / path.name)
    assert_all_paired(images, tmp_path / "elsewhere" / "teacher.h5")


def test_a_second_teach_on_one_path_is_refused_as_busy(directory, tmp_path, capsys):
    exact_teacher().save(tmp_path / "teacher.keras")
    path = tmp_path / "busy.h5"
    words = ("teach", directory, "--teacher", tmp_path / "teacher.keras", "--out", path, "--quiet")
    stopped = StoreError("stopped once it was created")
    with mock.patch("streamkd.teachers.teacher_pass.fill_store", side_effect=stopped):
        assert command(capsys, *words)[0] == 2
    with StoreWriter(path):
        code, answer, _ = command(capsys, *words)
    assert code == 2 and answer["error"]["code"] == "store_busy"
    assert f"Another process is writing {path}" in answer["error"]["message"]
    assert command(capsys, *words)[0] == 0 and open_store(path).finished


def test_an_evaluation_takes_the_logits_of_changed_images_from_the_deltas(
    store, directory, tmp_path
):
    images, student = change(directory), dense_student()
    run_pass(images, tmp_path / "teacher.h5")
    report = kd.evaluate(student, images, store=tmp_path / "teacher.h5", progress=False)
    # A store made of the changed images at once has the same rows under the same keys.
    run_pass(images, tmp_path / "whole.h5")
    whole = kd.evaluate(student, images, store=tmp_path / "whole.h5", progress=False)
    assert report["num_images"] == 31
    for name in ("teacher_accuracy", "agreement", "kl_to_teacher"):
        assert report[name] == whole[name]


class TestVerify:
    def test_the_deltas_are_verified_too(self, store, directory, tmp_path):
        images = change(directory)
        run_pass(images, tmp_path / "teacher.h5")
        (directory / "cat" / "00025.png").write_bytes(b"back again, otherwise")
        report = verify(tmp_path / "teacher.h5", images=scan(directory), progress=False)
        assert report.rows_checked == 33
        assert [(p["key"], p["reason"].partition(" (")[0]) for p in report.problems] == [
            (b"cat/00025.png", "the image was changed since the teacher saw it")
        ]

    def test_an_image_that_is_superseded_or_renamed_is_no_problem(self, store, directory, tmp_path):
        images = change(directory)
        helpers.draw_image(directory / "cat" / "00025.png", 25, 2)
        images = scan(directory)
        run_pass(images, tmp_path / "teacher.h5")
        report = verify(tmp_path / "teacher.h5", images=images, progress=False)
        assert report.problems == [] and report.sound

    def test_a_vanished_and_a_new_image_are_named(self, store, directory, tmp_path):
        change(directory)
        report = verify(tmp_path / "teacher.h5", images=scan(directory), progress=False)
        assert {(p["key"], p["reason"]) for p in report.problems} == {
            (b"ant/new.png", "the image has no logits"),
            (b"cat/new.png", "the image has no logits"),
            (b"bee/00011.png", "the image was changed since the teacher saw it"),
            (b"cat/00025.png", "the image has vanished"),
        }

    def test_a_class_that_is_another_one_is_named(self, store, images, tmp_path):
        labels = images.labels.copy()
        labels[0] = 2
        changed = kd.Manifest(images.root, images.keys, labels, images.class_names)
        report = verify(tmp_path / "teacher.h5", images=changed, progress=False)
        assert [(p["key"], p["reason"]) for p in report.problems] == [
            (images.keys[0], "its class is 'cat', and was 'ant' when the teacher was asked")
        ]

    def test_a_damaged_delta_is_an_answer(self, store, directory, tmp_path):
        run_pass(change(directory), tmp_path / "teacher.h5")
        delta = tmp_path / "teacher.delta-1.h5"
        with open(delta, "r+b") as file:
            file.truncate(delta.stat().st_size - 1)
        report = verify(tmp_path / "teacher.h5", progress=False)
        assert not report.sound and "teacher.delta-1.h5 is damaged" in report.problems[0]["reason"]
