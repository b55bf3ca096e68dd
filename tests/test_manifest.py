"""The manifest: fingerprint, selection, and the way to a file and back."""

import json
import os

import helpers
import numpy as np
import pytest

from streamkd.errors import ImagesNotFoundError, OptionError
from streamkd.images.manifest import Manifest, key_fields, scan
from streamkd.keys import Keys

NAMES = [b"a/1.png", b"a/2.png", b"b/\xff.png"]


def manifest(keys=NAMES, labels=(0, 0, 1), class_names=("a", "b"), root=b"/photos"):
    names = None if class_names is None else list(class_names)
    return Manifest(root, Keys.from_list(list(keys)), np.array(labels), names)


def test_the_fingerprint_does_not_depend_on_order_or_root():
    images = manifest()
    assert images.fingerprint == images.select(np.array([2, 0, 1])).fingerprint
    assert images.fingerprint == manifest(root=b"/elsewhere").fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"keys": [b"a/1.png", b"a/2.png", b"b/\xfe.png"]},
        {"keys": [b"a/1.png", b"a/2.pn", b"gb/\xff.png"]},
        {"keys": NAMES[:2], "labels": (0, 0)},
        {"labels": (0, 1, 1)},
        {"labels": (0, 0, -1)},
        {"class_names": ("a", "c")},
        {"class_names": ("a", "b", "c")},
        {"class_names": None, "labels": (-1, -1, -1)},
    ],
    ids=["key", "key border", "fewer", "label", "unlabelled", "class", "more classes", "none"],
)
def test_the_fingerprint_changes_with_any_key_label_or_class(changes):
    assert manifest().fingerprint != manifest(**changes).fingerprint


def test_the_fingerprint_stays_what_it_is_today():
    # Stores keep it: a change here makes every store one of "other images".
    assert manifest().fingerprint == "5469e0fa8196527ec8e4991ebb15f3d7"


def test_select_keeps_keys_labels_and_classes_together():
    images = manifest().select(np.array([2, 0]))
    assert images.keys.tolist() == [NAMES[2], NAMES[0]]
    assert images.labels.tolist() == [1, 0]
    assert images.class_names == ["a", "b"] and images.class_counts == [1, 1]


def test_paths_are_the_keys_below_the_root():
    images = manifest()
    expected = [b"/photos/" + name for name in NAMES]
    assert images.paths(range(3)) == [images.path(index) for index in range(3)] == expected
    assert images.paths(np.array([2, 0])) == [expected[2], expected[0]]
    assert images.paths([]) == []


def test_the_representation_says_how_many_images_and_classes():
    assert repr(manifest()) == "Manifest('/photos', 3 images, 2 classes)"
    assert "unlabelled" in repr(manifest(class_names=None, labels=(-1, -1, -1)))


def test_key_fields_keep_a_key_that_is_no_utf8_in_base64():
    assert key_fields(b"a/1.png") == {"key": "a/1.png"}
    assert key_fields(b"\xff.png") == {"key": "\\xff.png", "key_base64": "/y5wbmc="}


def test_scan_write_scan_keeps_every_name(tmp_path):
    names = [b"1.png", b"\xff\xfe.png", "été.png".encode(), b'quote".png', b"new\nline.png"]
    for number, name in enumerate(names):
        folder = os.path.join(os.fsencode(tmp_path / "images"), [b"a", b"\xe9"][number % 2])
        os.makedirs(folder, exist_ok=True)
        helpers.draw_image(os.path.join(folder, name), number, size=(2, 2))
    images = scan(tmp_path / "images")
    images.write(tmp_path / "images.jsonl")
    again = scan(tmp_path / "images.jsonl")
    assert again.keys == images.keys and again.root == images.root
    assert again.labels.tolist() == images.labels.tolist()
    assert again.class_names == images.class_names == ["a", os.fsdecode(b"\xe9")]
    assert again.fingerprint == images.fingerprint
    assert all(os.path.exists(path) for path in again.paths(range(len(again))))


def test_an_unlabelled_manifest_comes_back_unlabelled(tmp_path, directory):
    scan(directory, labels=None).write(tmp_path / "images.jsonl")
    again = scan(tmp_path / "images.jsonl")
    assert again.class_names is None and set(again.labels) == {-1}


def test_a_manifest_can_be_split_and_stripped_of_its_labels(tmp_path, directory, images):
    images.write(tmp_path / "images.jsonl")
    split = {"validation_split": 0.2, "subset": "training", "seed": 3}
    from_file, from_directory = (
        scan(source, **split) for source in (tmp_path / "images.jsonl", directory)
    )
    assert from_file.fingerprint == from_directory.fingerprint
    bare = scan(tmp_path / "images.jsonl", labels=None)
    assert bare.keys == images.keys
    assert bare.class_names is None and set(bare.labels) == {-1}


def test_class_names_beside_a_manifest_are_refused(tmp_path, images):
    images.write(tmp_path / "images.jsonl")
    with pytest.raises(OptionError, match="A manifest has its own classes"):
        scan(tmp_path / "images.jsonl", class_names=["ant", "bee", "cat"])


HEAD = {"format": "streamkd manifest", "version": 1, "root": "/photos", "class_names": ["a", "b"]}
HEAD["num_images"] = 1
ENTRY = {"file_name": "a/1.png", "label": 0}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([b"\x89PNG\r\n"], "neither a directory nor a manifest"),
        ([b""], "neither a directory nor a manifest"),
        ([[1, 2]], "neither a directory nor a manifest"),
        ([{**HEAD, "format": "coco"}], "format 'coco', version 1"),
        ([{**HEAD, "version": 2}], "version 2"),
        ([{**HEAD, "root": None}, ENTRY], "neither a directory nor a manifest"),
        ([HEAD, {"label": 0}], "no 'file_name'"),
        ([HEAD, {"file_name": "a/1.png"}], "no 'label'"),
        ([HEAD, ["a/1.png", 0]], "neither a directory nor a manifest"),
        ([HEAD, ENTRY, b'{"file_name": "a/'], "Unterminated string"),
        ([HEAD, {**ENTRY, "label": 2}], "a label 2, and 2 classes"),
        ([HEAD, {**ENTRY, "label": -2}], "a label -2, and 2 classes"),
        ([{**HEAD, "class_names": None}, ENTRY], "a label 0, and 0 classes"),
        ([{**HEAD, "num_images": 0}], "lists no images"),
        ([HEAD, ENTRY, ENTRY], "2 of its 1 images are there"),
    ],
    ids=[
        *["image", "empty", "list", "format", "version", "root", "no name", "no label", "row"],
        *["cut", "label", "negative", "no classes", "no images", "rows"],
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path, lines, words):
    path = tmp_path / "images.jsonl"
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(encoded))
    with pytest.raises(ImagesNotFoundError, match=words) as refusal:
        scan(path)
    assert str(path) in str(refusal.value)
