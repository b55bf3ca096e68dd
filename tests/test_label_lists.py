"""Several labels an image: lists in tables and in Python, and what becomes of them."""

import json

import numpy as np
import pytest
from helpers import draw_image

from streamkd.codes import StreamkdWarning
from streamkd.errors import ClassNamesError, ImagesNotFoundError, OptionError
from streamkd.manifest.class_names import several_labels
from streamkd.manifest.label_cells import label_of
from streamkd.manifest.manifest import scan
from streamkd.stream.join import join

# Labels of the four images of every source below; the last one's are not known.
EXPECTED = [[1, 1, 0], [0, 0, 0], [0, 1, 1], [-1, -1, -1]]
NAMES = ["ant", "bee", "cat"]


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        draw_image(tmp_path / f"{number}.png", number)
    return tmp_path


def table(folder, name, *lines):
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


SOURCES = {
    "jsonl": (
        "a.jsonl",
        '{"file_name": "0.png", "label": ["ant", "bee"]}',
        '{"file_name": "1.png", "label": []}',
        '{"file_name": "2.png", "label": ["cat", "bee"]}',
        '{"file_name": "3.png", "label": null}',
    ),
    "jsonl, plural": (
        "a.jsonl",
        '{"file_name": "0.png", "labels": "bee;ant"}',
        '{"file_name": "1.png", "labels": []}',
        '{"file_name": "2.png", "labels": ["cat", "bee"]}',
        '{"file_name": "3.png"}',
    ),
    "csv, JSON": (
        "a.csv",
        "file_name,label",
        '0.png,"[""ant"", ""bee""]"',
        "1.png,[]",
        '2.png,"[""cat"", ""bee""]"',
        "3.png,",
    ),
    "csv, pandas": (
        "a.csv",
        "file_name,label",
        "0.png,\"['ant', 'bee']\"",
        "1.png,[]",
        "2.png,\"['cat', 'bee']\"",
        "3.png,",
    ),
    "csv, plural": (
        "a.csv",
        "file_name,labels",
        "0.png,ant;bee",
        "1.png,[]",
        "2.png,cat; bee",
        "3.png,",
    ),
    "tsv, plural": (
        "a.tsv",
        "file_name\tlabels",
        "0.png\tant;bee",
        "1.png\t[]",
        "2.png\tcat;bee",
        "3.png\t",
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_table_lists_the_labels_of_an_image(folder, source):
    images = scan(table(folder, *SOURCES[source]))
    assert images.class_names == NAMES
    assert images.multi_hot.tolist() == EXPECTED and images.multi_hot.dtype == np.int8
    assert images.labels.tolist() == [-1] * 4
    assert images.class_counts == [1, 2, 1]
    assert "3 labels, several an image" in repr(images)


def test_a_single_label_beside_lists_is_a_list_of_one(folder):
    lines = ['{"file_name": "0.png", "label": "bee"}', '{"file_name": "1.png", "label": ["ant"]}']
    assert scan(table(folder, "a.jsonl", *lines)).multi_hot.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("lines", "names"),
    [(["0.png,[0]", '1.png,"[2, 0]"'], ["0", "2"]), (["0.png,10;9", "1.png,9"], ["9", "10"])],
)
def test_numbers_are_classes_in_the_order_of_their_size(folder, lines, names):
    images = scan(table(folder, "a.csv", "file_name,labels", *lines))
    assert images.class_names == names


def test_class_names_give_the_order_and_names_without_images(folder):
    lines = [
        '{"file_name": "0.png", "label": ["ant", "bee"]}',
        '{"file_name": "1.png", "label": []}',
    ]
    path = table(folder, "a.jsonl", *lines)
    images = scan(path, class_names=["bee", "cow", "ant"])
    assert images.multi_hot.tolist() == [[1, 0, 1], [0, 0, 0]]
    with pytest.raises(ClassNamesError, match="first of 1 that is no class: 'ant'"):
        scan(path, class_names=["bee"])


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (["ant", "ant"], "line 1: the list .* with a label twice"),
        ([1, 0, 1], "with a label twice"),
        ([0.5], "line 1: the label 0.5 in a list"),
        ([-1], "the label -1 in a list"),
        ([["ant"]], "in a list, which is no number and no name"),
        (["ant", 1], "numbers and names are mixed"),
        ([], "lists of labels that are all empty"),
    ],
)
def test_lists_that_are_none_are_refused(folder, label, words):
    path = table(folder, "a.jsonl", json.dumps({"file_name": "0.png", "label": label}))
    with pytest.raises(ImagesNotFoundError, match=words):
        scan(path)


def test_more_images_and_classes_than_fit_are_refused(folder, monkeypatch):
    monkeypatch.setattr("streamkd.manifest.labels.MAX_CELLS", 11)
    with pytest.raises(ImagesNotFoundError, match="4 images and 3 classes; images times classes"):
        scan(table(folder, *SOURCES["jsonl"]))


def test_a_text_that_begins_like_a_list_is_refused_among_labels(folder):
    path = table(folder, "a.csv", "file_name,labels", "0.png,[ant")
    with pytest.raises(ImagesNotFoundError, match=r"labels '\[ant'; write a list as"):
        scan(path)


@pytest.mark.parametrize(
    ("cells", "label"),
    [
        ({"label": "cat"}, "cat"),
        ({"label": "cat", "labels": "a;b"}, "cat"),
        ({"label": None, "labels": "a;b"}, None),
        ({"label": "[old name"}, "[old name"),
        ({"label": "[not, json]"}, "[not, json]"),
        ({"labels": 3}, [3]),
        ({}, None),
    ],
)
def test_a_column_label_goes_first_and_is_read_as_ever(cells, label):
    assert label_of(cells) == label


def test_a_label_with_a_separator_is_one_class_and_is_told(folder):
    path = table(folder, "a.csv", "file_name,label", "0.png,ant;bee", "1.png,cat")
    with pytest.warns(StreamkdWarning, match="call the column `labels`") as warned:
        images = scan(path)
    assert warned[0].message.code == "label_with_separator"
    assert images.class_names == ["ant;bee", "cat"] and images.multi_hot is None


def test_a_manifest_keeps_lists_and_parts_of_it_too(folder):
    images = scan(table(folder, *SOURCES["jsonl"]))
    images.write(folder / "images.jsonl")
    again = scan(folder / "images.jsonl")
    assert again.multi_hot.tolist() == EXPECTED and again.class_names == NAMES
    assert again.fingerprint == images.fingerprint
    part = images.select(np.array([2, 0]))
    assert part.multi_hot.tolist() == [EXPECTED[2], EXPECTED[0]]
    assert part.fingerprint != images.select(np.array([2, 1])).fingerprint


def test_the_fingerprint_tells_lists_apart(folder):
    first = scan(table(folder, *SOURCES["jsonl"]))
    lines = [line.replace('["ant", "bee"]', '["ant"]') for line in SOURCES["jsonl"]]
    assert scan(table(folder, *lines)).fingerprint != first.fingerprint


def test_lists_in_python_are_those_of_a_table(folder):
    images = scan(folder, labels=[["bee", "ant"], [], ["cat", "bee"], None])
    assert images.multi_hot.tolist() == EXPECTED
    assert scan(folder, labels=None).multi_hot is None


def test_an_array_of_ones_and_zeros_is_no_list_of_numbers(folder):
    hot = np.array(EXPECTED)
    with pytest.raises(OptionError, match=r"shape \[4, 3\].*\n.*np.flatnonzero"):
        scan(folder, labels=hot)
    images = scan(folder, labels=[np.flatnonzero(row > 0).tolist() for row in hot])
    assert (images.multi_hot[:3] == hot[:3]).all() and images.class_names == ["0", "1", "2"]


def test_splits_take_lists_along_and_do_not_stratify(folder):
    path = table(folder, *SOURCES["jsonl"])
    options = {"validation_split": 0.5, "seed": 1}
    sides = [scan(path, subset=name, **options) for name in ("training", "validation")]
    rows = [row for side in sides for row in side.multi_hot.tolist()]
    assert sorted(rows) == sorted(EXPECTED)
    with pytest.raises(OptionError, match="stratify needs one class for each image"):
        scan(path, subset="training", stratify=True, **options)


def test_labels_are_matched_by_name(folder):
    images = scan(table(folder, *SOURCES["jsonl"]))
    ordered = several_labels(images, ["cat", "dog", "ant", "bee"], "the store")
    assert ordered.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1], [-1, -1, -1, -1]]
    with pytest.raises(ClassNamesError, match="unknown to the store: 'cat'"):
        several_labels(images, ["ant", "bee"], "the store")


def test_batches_have_the_labels_of_their_images(folder):
    images = scan(table(folder, *SOURCES["jsonl"]))
    stream = join(images, None, image_size=(8, 8), batch_size=4, shuffle=False)
    _, targets, _ = next(iter(stream.batches(0, 1)))
    assert targets["multi_hot"].numpy().tolist() == [[row, row] for row in EXPECTED]
    assert targets["multi_hot"].dtype == np.float32
    assert stream.labelled.tolist() == [True, True, True, False]
    with pytest.raises(OptionError, match=r"classes cannot be balanced.\nLeave `--balance` out"):
        join(images, None, image_size=(8, 8), batch_size=2, balance=True)
