"""The manifest: fingerprint, selection, and the way to a file and back."""

import json
import os

import helpers
import numpy as np
import pytest

from streamkd.errors import ClassNamesError, ImagesNotFoundError, OptionError
from streamkd.keys import Keys
from streamkd.manifest.manifest import Manifest, scan

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
        ([HEAD, ENTRY, b'{"file_name": "a/'], "a line of it is no JSON object"),
        ([HEAD, {**ENTRY, "label": 2}], "a label 2, and 2 classes"),
        ([HEAD, {**ENTRY, "label": -2}], "a label -2, and 2 classes"),
        ([{**HEAD, "class_names": None}, ENTRY], "a label 0, and 0 classes"),
        ([{**HEAD, "num_images": 0}], "lists no images"),
        ([HEAD, ENTRY, ENTRY], "lists 2 of its 1 images"),
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


# Weights.


def weighted():
    images = manifest()
    return Manifest(images.root, images.keys, images.labels, images.class_names, [1, 0.5, 0])


def test_weights_go_with_their_images():
    images = weighted()
    assert images.weights.dtype == np.float32
    assert images.select(np.array([2, 0])).weights.tolist() == [0, 1]
    assert images.select(slice(1, 3)).weights.tolist() == [0.5, 0]
    assert images.fingerprint == manifest().fingerprint, "a store does not depend on them"
    assert manifest().weights is None and manifest().select(slice(2)).weights is None


def test_weights_are_written_and_read_back(tmp_path):
    weighted().write(tmp_path / "images.jsonl")
    assert scan(tmp_path / "images.jsonl").weights.tolist() == [1, 0.5, 0]
    manifest().write(tmp_path / "images.jsonl")
    assert scan(tmp_path / "images.jsonl").weights is None
    assert b"weight" not in (tmp_path / "images.jsonl").read_bytes()


def test_classes_without_images_are_named():
    images = manifest(class_names=("a", "b", "c"))
    assert images.empty_classes == ["c"] and manifest().empty_classes == []
    assert images.select(slice(2)).empty_classes == ["b", "c"]
    assert manifest(class_names=None, labels=(-1, -1, -1)).empty_classes is None


# Tables.


def table(folder, text, name="metadata.csv"):
    """Writes a table and returns its path; bytes as they are."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


CSV = "file_name,label,weight\nb/2.png,dog,0.5\n1.png,cat,\nb/3.png,,2\n"
JSON_LINES = """{"file_name": "b/2.png", "label": "dog", "weight": 0.5}
{"file_name": "1.png", "label": "cat"}

{"file_name": "b/3.png", "label": null, "weight": 2}
"""
TSV = CSV.replace(",", "\t")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("images.csv", CSV),
        ("images.CSV", "\ufeff" + CSV.replace("\n", "\r\n")),
        ("images.tsv", TSV),
        ("metadata.jsonl", JSON_LINES),
        ("images", JSON_LINES),
    ],
    ids=["CSV", "CSV of a spreadsheet", "TSV", "JSON lines", "no ending"],
)
def test_a_table_lists_images_labels_and_weights_in_its_order(tmp_path, name, text):
    images = scan(table(tmp_path, text, name))
    assert images.root == os.fsencode(tmp_path)
    assert images.keys.tolist() == [b"b/2.png", b"1.png", b"b/3.png"]
    assert images.class_names == ["cat", "dog"]
    assert images.labels.tolist() == [1, 0, -1]
    assert images.weights.tolist() == [0.5, 1, 2]


@pytest.mark.parametrize(
    "text",
    [
        "file_name,text\na.png,a cat\nb.png,\n",
        '{"file_name": "a.png", "text": "a cat", "objects": {"bbox": [[1, 2]]}}\n'
        '{"file_name": "b.png", "text": ""}\n',
    ],
    ids=["CSV", "JSON lines"],
)
def test_other_columns_are_left_alone_and_without_labels_images_have_none(tmp_path, text):
    name = "metadata.jsonl" if text.startswith("{") else "metadata.csv"
    images = scan(table(tmp_path, text, name))
    assert images.keys.tolist() == [b"a.png", b"b.png"]
    assert images.class_names is None and images.labels.tolist() == [-1, -1]
    assert images.weights is None


def test_labels_of_a_table_may_be_numbers(tmp_path):
    path = table(tmp_path, "file_name,label\na.png,10\nb.png,9\nc.png,-1\n")
    images = scan(path)
    assert images.class_names == ["9", "10"] and images.labels.tolist() == [1, 0, -1]
    names = [str(number) for number in "abcdefghijk"]
    images = scan(path, class_names=names)
    assert images.class_names == names and images.labels.tolist() == [10, 9, -1]
    with pytest.raises(ClassNamesError, match="first of 2 that is no class: 10"):
        scan(path, class_names=["a", "b"])


def test_class_names_order_the_classes_of_a_table_and_add_some(tmp_path):
    images = scan(table(tmp_path, CSV), class_names=["emu", "dog", "cat"])
    assert images.labels.tolist() == [1, 2, -1] and images.empty_classes == ["emu"]


def test_a_table_can_be_split_stripped_and_written(tmp_path):
    rows = "".join(f"{number}.png,{number % 2},{number}\n" for number in range(20))
    path = table(tmp_path, "file_name,label,weight\n" + rows)
    split = {"validation_split": 0.2, "subset": "validation", "seed": 3, "stratify": True}
    images = scan(path, **split)
    assert images.class_counts == [2, 2]
    assert [b"%d.png" % weight for weight in images.weights] == images.keys.tolist()
    bare = scan(path, labels=None)
    assert bare.class_names is None and len(bare.weights) == 20
    images.write(tmp_path / "images.jsonl")
    again = scan(tmp_path / "images.jsonl")
    assert again.fingerprint == images.fingerprint
    assert np.array_equal(again.weights, images.weights) and again.root == images.root


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_names_that_are_no_utf8_and_paths_with_dots_become_keys(tmp_path, ending):
    names = [b"\xff.png", b"./a/../b.png", b"a//c.png"]
    if ending == "csv":
        text = b"file_name\n" + b"\n".join(names)
    else:
        text = b"".join(b'{"file_name": "%s"}\n' % name for name in names)
    images = scan(table(tmp_path, text, f"images.{ending}"))
    assert images.keys.tolist() == [b"\xff.png", b"b.png", b"a/c.png"]


def test_quoted_cells_may_hold_commas_and_lines(tmp_path):
    path = table(tmp_path, 'file_name,label\n"a,1.png","cat, big"\n"b\n.png",dog\n')
    images = scan(path)
    assert images.keys.tolist() == [b"a,1.png", b"b\n.png"]
    assert images.class_names == ["cat, big", "dog"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,label\na.png,1\n", "no column 'file_name'; the columns are 'name', 'label'"),
        ("", "it is an empty file"),
        ("file_name,label\n", "lists no images"),
        ("file_name,label\na.png,1\nb.png\n", "line 3: 1 cells for 2 columns"),
        ("file_name,label\n/a.png,1\n", "line 2: '/a.png' is an absolute path"),
        ("file_name\na/../../b.png\n", "file_name of image 1 leads out of the directory"),
        ('file_name\n""\n', "line 2: a file_name ''"),
        ("file_name\na.png\nb.png\n./a.png\n", "'a.png' is listed twice, as image 1 and 3"),
        ("file_name,label\na.png,-2\n", "the label -2; labels start"),
        ("file_name,weight\na.png,-1\n", "line 2: a weight '-1'; it must be a number of at"),
        ("file_name,weight\na.png,nan\n", "a weight 'nan'"),
        ("file_name,weight\na.png,heavy\n", "line 2: could not convert string to float"),
        ('file_name\n"a.png', "unexpected end of data"),
        ('{"file_name": "a.png"}\n[1]\n', "line 2: no JSON object"),
        ('{"file_name": "a.png"}\n{"file_name": 1}\n', "line 2: a file_name 1"),
        ('{"file_name": "a.png"}\n{"label": 1}\n', "line 2: no 'file_name'"),
        ('{"file_name": "a.png", "label": 0.5}\n', "line 1: the label 0.5"),
        (
            '{"file_name": "a.png", "label": 1}\n{"file_name": "b.png", "label": "x"}',
            "numbers and names are mixed: 1 and 'x'",
        ),
        ('{"file_name": "a.png"}\n{"file_na', "line 2: Unterminated string"),
        ('{"file_name": "\\ud800.png"}\n', "surrogates not allowed"),
    ],
    ids=[
        *["columns", "empty", "no rows", "cells", "absolute", "above", "no name", "twice"],
        *["negative", "weight", "nan", "word", "quote", "list", "number", "no file", "fraction"],
        *["mixed", "cut", "surrogate"],
    ],
)
def test_a_faulty_table_is_refused(tmp_path, text, words):
    path = table(tmp_path, text, "metadata.jsonl" if text.startswith("{") else "metadata.csv")
    with pytest.raises(ImagesNotFoundError, match=words) as refusal:
        scan(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"labels": [0, 1]}, "A manifest has its own labels"),
        ({"class_map": {"b": "dog"}}, "A class map is about folders"),
    ],
    ids=["labels", "class map"],
)
def test_arguments_about_folders_are_refused_for_a_table(tmp_path, arguments, words):
    with pytest.raises(OptionError, match=words):
        scan(table(tmp_path, CSV), **arguments)
