"""The directory flags: where images, labels and classes come from."""

import json
from pathlib import Path

import pytest

from streamkd.cli import arguments, flags
from streamkd.cli.main import main


@pytest.fixture
def scanned(directory, tmp_path, monkeypatch, capsys):
    """A function that scans and returns exit code and answer; `images` is `directory`."""
    monkeypatch.chdir(tmp_path)

    def scan(*words):
        code = main(["scan", *words, "--json", "--quiet"])
        return code, json.loads(capsys.readouterr().out)

    return scan


def test_labels_come_from_a_file(scanned):
    Path("labels.txt").write_text("\n".join("xy"[number % 2] for number in range(30)))
    code, answer = scanned("images", "--labels", "labels.txt")
    assert code == 0
    assert answer["class_names"] == ["x", "y"] and answer["class_counts"] == [15, 15]


def test_labels_that_are_neither_word_nor_file_are_refused(scanned):
    code, answer = scanned("images", "--labels", "infered")
    assert code == 2
    assert "Give inferred, none, or a file" in answer["error"]["message"]


def test_without_labels_there_are_no_classes(scanned):
    code, answer = scanned("images", "--labels", "none")
    assert code == 0 and answer["num_images"] == 30
    assert answer["class_names"] is None is answer["num_empty_classes"]
    assert answer["empty_classes"] is None


def test_a_class_map_joins_folders_and_shows_classes_without_images(scanned):
    class_map = {"ant": "insect", "bee": "insect", "cat": "cat", "dog": "dog"}
    Path("classes.json").write_text(json.dumps(class_map))
    code, answer = scanned("images", "--class-map", "classes.json")
    assert code == 0 and answer["class_names"] == ["insect", "cat", "dog"]
    assert answer["class_counts"] == [20, 10, 0]
    assert answer["num_empty_classes"] == 1 and answer["empty_classes"] == ["dog"]


def test_a_table_is_scanned_with_its_classes(scanned):
    Path("table.csv").write_text("file_name,label\nimages/a.png,1\nimages/b.png,0\n")
    Path("names.txt").write_text("tabby\nlynx\nlion\n")
    code, answer = scanned("table.csv", "--class-names", "names.txt", "--out", "images.jsonl")
    assert code == 0 and answer["class_counts"] == [1, 1, 0]
    assert answer["empty_classes"] == ["lion"]
    again = scanned("images.jsonl")[1]
    assert again["fingerprint"] == answer["fingerprint"]


def test_a_stratified_split_takes_a_share_of_every_class(scanned):
    split = ["--validation-split", "0.2", "--subset", "validation", "--stratify"]
    code, answer = scanned("images", *split)
    assert code == 0 and answer["class_counts"] == [2, 2, 2]


def test_a_class_map_holds_for_the_directory_of_validation_as_well(directory, tmp_path):
    class_map = {"ant": "insect", "bee": "insect", "cat": "cat"}
    (tmp_path / "classes.json").write_text(json.dumps(class_map))
    parser = arguments.Parser()
    flags.add_common(parser)
    flags.add_directory(parser)
    words = [str(directory), "--class-map", str(tmp_path / "classes.json"), "--quiet"]
    args = parser.parse_args(words)
    images, validation = flags.scan_images(args), flags.scan_other(args, str(directory))
    assert images.class_names == validation.class_names == ["insect", "cat"]
    images.write(tmp_path / "validation.jsonl")
    from_file = flags.scan_other(args, str(tmp_path / "validation.jsonl"))
    assert from_file.fingerprint == images.fingerprint
