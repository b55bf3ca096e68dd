"""Labels from lists and columns, and maps of folders to classes."""

import json

import numpy as np
import pytest

from streamkd.errors import ClassNamesError, OptionError
from streamkd.manifest.labels import (
    LabelColumn,
    check_class_map,
    collected,
    map_folders,
    read_class_map,
    read_labels,
)


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        ([0, 1, 0], [0, 1, 0], ["0", "1"]),
        ([10, 9, -1], [1, 0, -1], ["9", "10"]),
        (["dog", "cat", None, "dog"], [1, 0, -1, 1], ["cat", "dog"]),
        ([np.int64(1), 0], [1, 0], ["0", "1"]),
        ([-1, None], [-1, -1], None),
        ([], [], None),
    ],
    ids=["numbers", "by size", "names", "numpy", "none", "empty"],
)
def test_labels_are_numbered_in_their_sorted_order(labels, expected, names):
    numbers, class_names = collected(labels).numbered(None)
    assert numbers.tolist() == expected and numbers.dtype == np.int32
    assert class_names == names


def test_class_names_give_the_numbers():
    names = ["zebra", "ant", "bee"]
    assert collected(["ant", "zebra", None]).numbered(names)[0].tolist() == [1, 0, -1]
    assert collected([2, 0, -1]).numbered(names)[0].tolist() == [2, 0, -1]
    assert collected([2]).numbered(names)[1] == names
    assert collected([None]).numbered(names)[1] == names


@pytest.mark.parametrize(
    ("texts", "expected", "names"),
    [
        (["1", "0", "", "-1"], [1, 0, -1, -1], ["0", "1"]),
        (["10", "9"], [1, 0], ["9", "10"]),
        (["7", "cat"], [0, 1], ["7", "cat"]),
        (["007", "7"], [0, 1], ["007", "7"]),
        (["", ""], [-1, -1], None),
    ],
    ids=["numbers", "by size", "a name among them", "leading zeros", "empty"],
)
def test_text_is_a_number_where_all_of_it_is(texts, expected, names):
    column = LabelColumn(texts=True)
    for text in texts:
        column.add(text)
    numbers, class_names = column.numbered(None)
    assert numbers.tolist() == expected and class_names == names


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, "cat"], r"numbers and names are mixed: 0 and 'cat'"),
        ([0, -2], "the label -2; labels start at 0, and -1 is no label"),
        ([0.5], "the label 0.5, which is neither a number nor a name"),
        ([True], "the label True"),
        ([{1}], r"the label \{1\}"),
    ],
    ids=["mixed", "negative", "fraction", "bool", "set"],
)
def test_values_that_are_no_labels_are_refused(labels, words):
    with pytest.raises(ValueError, match=words):
        collected(labels).numbered(None)


@pytest.mark.parametrize(
    ("labels", "words"),
    [(["dgo", "cat"], "first of 1 that is no class: 'dgo'"), ([2], "that is no class: 2")],
    ids=["name", "number"],
)
def test_labels_that_are_no_class_are_refused(labels, words):
    with pytest.raises(ClassNamesError, match=words):
        collected(labels).numbered(["cat", "dog"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0\n1\n\n0\n", [0, 1, None, 0]),
        ("\ufeffcat\r\n dog \r\n", ["cat", "dog"]),
        ("7\ncat\n", ["7", "cat"]),
        ("[0, 1, null]", [0, 1, None]),
        (' ["cat", "dog"]\n', ["cat", "dog"]),
    ],
    ids=["numbers", "names", "both", "JSON numbers", "JSON names"],
)
def test_labels_are_read_from_a_file(tmp_path, text, expected):
    path = tmp_path / "labels.txt"
    path.write_text(text, encoding="utf-8", newline="")
    assert read_labels(path) == expected


def test_labels_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "labels.json").write_text("[0, 1")
    with pytest.raises(OptionError, match="are no JSON list"):
        read_labels(tmp_path / "labels.json")
    with pytest.raises(OptionError, match="cannot be read: No such file"):
        read_labels(tmp_path / "nowhere")


MAP = {"n1": "dog", "n2": "cat", "n3": "dog", "n4": None, "n9": "emu"}


def test_a_class_map_gives_folders_their_classes_in_its_own_order():
    taken, names = map_folders(["n1", "n2", "n3", "n4"], MAP, None)
    assert names == ["dog", "cat", "emu"], "a class without a folder stays"
    assert taken == [("n1", 0), ("n2", 1), ("n3", 0)]


def test_class_names_order_and_select_the_classes_of_a_map():
    taken, names = map_folders(["n1", "n2", "n3"], MAP, ["emu", "dog"])
    assert names == ["emu", "dog"] and taken == [("n1", 1), ("n3", 1)]
    with pytest.raises(ClassNamesError, match="first of 1 unknown to the map: 'owl'"):
        map_folders(["n1"], MAP, ["dog", "owl"])
    with pytest.raises(ClassNamesError, match="holds 'dog' twice"):
        map_folders(["n1"], MAP, ["dog", "dog"])


def test_a_folder_without_a_class_is_refused_with_the_entry_to_add():
    with pytest.raises(ClassNamesError, match="first of 2 without a class: 'n5'") as refusal:
        map_folders(["n1", "n5", "n6"], MAP, None)
    assert '{"n5": null}' in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}', "gives 'a' the class 1, which is no name"),
        ('{"a": ""}', "gives 'a' the class ''"),
        ("{}", "dict or empty"),
        ("[1]", "list or empty"),
        ('{"a": "x", "b": "y", "a": "z"}', "it names 'a' twice"),
        ('{"a": ', "cannot be read"),
    ],
    ids=["number", "no name", "empty", "list", "twice", "cut"],
)
def test_a_file_without_a_class_map_is_refused(tmp_path, text, words):
    path = tmp_path / "classes.json"
    path.write_text(text)
    with pytest.raises(OptionError, match=words):
        read_class_map(path)


def test_a_class_map_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(
        OptionError, match=r"The class map '.*' cannot be read: No such file.*\.\nGi"
    ):
        read_class_map(tmp_path / "nowhere")


def test_a_class_map_comes_back_from_its_file(tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps(MAP))
    assert read_class_map(tmp_path / "classes.json") == MAP == check_class_map(MAP)
