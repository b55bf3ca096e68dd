"""The same bytes under two labels are told, by `scan --check` and after a teacher pass."""

import os
import shutil

import numpy as np
import pytest
from helpers import draw_directory, teach_small
from run_helpers import command

from streamkd.codes import StreamkdWarning
from streamkd.manifest.contradictions import contradictions
from streamkd.manifest.manifest import scan
from streamkd.pixels.same_content import notes_of_content


@pytest.mark.parametrize(
    ("labels", "digests", "pairs"),
    [
        ([0, 1, 0, 1], [5, 6, 7, 8], []),
        ([0, 0, 1, 1], [5, 5, 6, 6], []),
        ([0, 1, 0, 1], [5, 5, 7, 8], [[0, 1]]),
        ([0, -1, -1, 1], [5, 5, 7, 7], []),
        ([2, 2, 1, 0], [9, 9, 9, 9], [[0, 2]]),
        ([0, 1, 1, 0], [8, 5, 8, 5], [[0, 2], [1, 3]]),
        ([], [], []),
        ([0], [0], []),
    ],
)
def test_pairs_have_one_content_and_two_labels(labels, digests, pairs):
    found = contradictions(np.array(labels, np.int32), np.array(digests, np.uint64))
    assert found.tolist() == pairs


@pytest.fixture
def root(tmp_path):
    return draw_directory(tmp_path / "photos", {"cat": 2, "dog": 2})


def first_image(root, name):
    return sorted((root / name).iterdir())[0]


def link(source, target):
    os.symlink(source, target)


@pytest.mark.parametrize("copy", [shutil.copy, os.link, link], ids=["copy", "hard link", "link"])
def test_copies_and_links_into_another_class_are_noted(root, copy):
    assert notes_of_content(scan(root)) == []
    copy(first_image(root, "cat"), root / "dog" / "copy.png")
    (note,) = notes_of_content(scan(root))
    name = first_image(root, "cat").name
    assert (note.code, note.count) == ("same_content_two_labels", 1)
    assert note.examples == [f"cat/{name} (cat) and dog/copy.png (dog)"]


def test_copies_within_a_class_and_without_labels_are_no_trouble(root):
    shutil.copy(first_image(root, "cat"), root / "cat" / "copy.png")
    assert notes_of_content(scan(root)) == []
    shutil.copy(first_image(root, "cat"), root / "dog" / "copy.png")
    assert notes_of_content(scan(root, labels=None)) == []


def test_files_of_the_same_size_and_files_that_are_gone_are_no_copies(root):
    (root / "cat" / "a.png").write_bytes(b"12345")
    (root / "dog" / "a.png").write_bytes(b"54321")
    images = scan(root)
    (root / "dog" / "a.png").unlink()
    assert notes_of_content(images) == []


def test_a_class_that_links_to_another_is_told_by_check_and_by_teach(root, tmp_path, capsys):
    os.symlink("cat", root / "feline")
    _, answer, _ = command(capsys, "scan", root, "--check")
    notes = {note["code"]: note for note in answer["notes"]}
    assert notes["same_content_two_labels"]["count"] == 2
    assert all(
        " (cat) and feline/" in text for text in notes["same_content_two_labels"]["examples"]
    )

    def teacher(pixels):
        return np.random.default_rng(1).normal(size=(len(pixels), 3))

    with pytest.warns(StreamkdWarning) as caught:
        teach_small(scan(root), teacher, tmp_path / "s.h5")
    (text,) = [str(w.message) for w in caught if w.message.code == "same_image_two_labels"]
    assert text.startswith("Images with the same bytes have two labels, 2 in all, such as cat/")
    assert text.endswith("Keep one of each; `streamkd scan --check` shows more.")
