"""What a scan passes over is noted, and odd names and files end without a traceback."""

import os

import pytest
from PIL import Image

import streamkd as kd
from streamkd import json_text
from streamkd.cli.answer import printable
from streamkd.errors import ClassNamesError, ImagesNotFoundError
from streamkd.manifest.class_names import class_numbers
from streamkd.manifest.notes import notes_of


@pytest.fixture
def root(tmp_path):
    for folder in ("cat", "dog"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / folder / "0.png")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("cat/a.heic", "files_not_listed"),
        ("cat/b.ppm", "files_not_listed"),
        ("cat/readme", "files_not_listed"),
        ("loose.png", "loose_images"),
        ("cat/@eaDir/", "system_folders"),
        ("lost+found/", "system_folders"),
        ("emu/", "empty_classes"),
    ],
)
def test_what_is_passed_over_is_noted(root, name, code):
    if name.endswith("/"):
        (root / name).mkdir()
    else:
        (root / name).write_bytes(b"text")
    assert [note.code for note in notes_of(kd.scan(root))] == [code]


def test_plain_folders_have_no_notes(root):
    assert notes_of(kd.scan(root)) == []


@pytest.mark.parametrize("labels", ["inferred", None])
def test_folders_are_walked_once_for_listing_and_notes(root, monkeypatch, labels):
    walked = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: walked.append(os.fsencode(path)) or real(path))
    (root / "cat/inner").mkdir()
    (root / "cat/inner/readme.txt").write_bytes(b"text")
    (note,) = notes_of(kd.scan(root, labels=labels))
    assert note.examples == ["cat/inner/readme.txt"]
    below = [path for path in walked if path.rstrip(b"/") != os.fsencode(root)]
    assert len(below) == len(set(below)) == 3


def test_notes_of_a_part_come_from_a_walk_of_its_own(root):
    (root / "cat/readme.txt").write_bytes(b"text")
    images = kd.scan(root)
    whole, part = notes_of(images), notes_of(images.select(slice(0, 1)))
    assert [note.examples for note in whole] == [["cat/readme.txt"]]
    assert whole[0] in part


@pytest.mark.parametrize("folder", ["cat", "cat/inner", "dog/@eadir"])
def test_hidden_links_and_folders_are_no_note(root, folder):
    (root / folder).mkdir(exist_ok=True)
    os.symlink(root, root / folder / ".hidden")
    assert "links_passed_over" not in [note.code for note in notes_of(kd.scan(root))]


@pytest.mark.parametrize("name", ["x.jfif", "x.JPE", "noending"])
def test_first_bytes_make_an_image(root, name):
    Image.new("RGB", (4, 4)).save(root / "cat" / name, "JPEG")
    assert kd.scan(root).num_images == 3


def test_hard_links_under_two_labels_are_noted(root):
    os.link(root / "cat/0.png", root / "dog/1.png")
    assert [note.code for note in notes_of(kd.scan(root))] == ["same_file_two_labels"]


@pytest.mark.parametrize("name", ["cat/loop", "loop"])
def test_link_to_itself_is_passed_over(root, name):
    os.symlink(os.path.basename(name), root / name)
    assert kd.scan(root, follow_links=True).num_images == 2
    assert [note.code for note in notes_of(kd.scan(root))] == ["links_passed_over"]


def test_wrapper_folder_is_noted(root):
    os.renames(root / "cat", root / "all/cat")
    os.renames(root / "dog", root / "all/dog")
    (note,) = notes_of(kd.scan(root))
    assert note.code == "wrapper_folder"
    assert note.examples == [f"{root}/all"]


def test_manifest_without_its_root_is_refused(root):
    kd.scan(root / "cat", labels=None).write(root / "m.jsonl")
    os.rename(root / "cat", root / "moved")
    with pytest.raises(ImagesNotFoundError, match="Move the directory back"):
        notes_of(kd.scan(root / "m.jsonl"))


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000])
def test_deep_json_is_a_value_error(text):
    with pytest.raises(ValueError, match="nested too deep"):
        json_text.load(text)


@pytest.mark.parametrize("character", ["\x1b", "\x07", "\r", "\x9b", "\u202e"])
def test_control_characters_are_escaped(character):
    assert character not in printable(f"a{character}b\n")


def test_classes_in_two_unicode_forms_are_told_apart():
    with pytest.raises(ClassNamesError, match="differ only in Unicode form"):
        class_numbers(["cafe\u0301"], ["caf\u00e9"], "the store")
