"""The flags of a directory are those of every command that reads one."""

import json

import numpy as np
import pytest
from helpers import draw_image
from run_helpers import command

import streamkd as kd
from streamkd.cli.parser import build_parser
from streamkd.errors import OptionError
from streamkd.store.collection import open_store

# `here` has a link on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:(links_passed_over|.*loose_images)")

LISTING = {
    *("labels", "class-map", "follow-links"),
    *("validation-split", "subset", "stratify", "seed"),
}
FOLDERS = {"n01": 0, "n02": 1, "n03": 1}


def test_every_command_that_reads_a_directory_has_all_its_flags():
    readers = {
        name: parser.arguments
        for name, parser in build_parser().commands.items()
        if "images" in parser.arguments
    }
    assert set(readers) == {
        *("scan", "teach", "plan", "import", "merge", "verify", "train", "evaluate", "export"),
        *("distill", "sweep"),
    }
    for name, arguments in readers.items():
        assert set(arguments) >= LISTING, name


def test_no_command_reads_a_directory_under_another_name():
    shown = {
        (name, key)
        for name, parser in build_parser().commands.items()
        for key, argument in parser.arguments.items()
        if argument.metavar == "IMAGES" and key != "images"
    }
    assert shown == {(name, "validation") for name in ("train", "distill", "sweep")}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """photos, 3 folders of 4 images, and as many in a linked folder; map.json and leave.json."""
    monkeypatch.chdir(tmp_path)
    number = 0
    for folder in (*(f"photos/{name}" for name in FOLDERS), "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        for _ in range(4):
            draw_image(tmp_path / folder / f"{number:05d}.png", number, 0)
            number += 1
    (tmp_path / "photos" / "n01" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "map.json").write_text(json.dumps({"n01": "cat", "n02": "dog", "n03": "dog"}))
    (tmp_path / "leave.json").write_text(json.dumps({"n01": "cat", "n02": None, "n03": "dog"}))
    (tmp_path / "labels.txt").write_text("\n".join(["cat"] * 4 + ["dog"] * 8))
    return tmp_path


FLAGS = {
    "--class-map map.json": 12,
    "--class-map leave.json": 8,
    "--class-map map.json --follow-links": 16,
    "--follow-links --labels none": 16,
    "--labels labels.txt": 12,
    "--validation-split 0.5 --subset training --seed 3": 6,
}


def import_all(capsys, flags):
    """Imports logits for the images that some flags list; returns the answer."""
    code, scanned, errors = command(capsys, *f"scan photos {flags} --out m.jsonl".split())
    assert code == 0, errors
    images = kd.scan("m.jsonl")
    num_classes = images.num_classes or 3
    labels = np.maximum(images.labels, 0)
    np.save("l.npy", np.eye(num_classes, dtype=np.float32)[labels] * 9)
    words = "import l.npy --keys m.jsonl --images photos --out s.h5 --image-size 8x8 --quiet"
    code, answer, errors = command(capsys, *words.split(), *flags.split())
    assert code == 0, errors
    return answer | {"listed": scanned["num_images"]}


@pytest.mark.parametrize("flags", list(FLAGS))
def test_import_verify_and_merge_list_what_scan_lists(here, capsys, flags):
    answer = import_all(capsys, flags)
    assert answer["num_images"] == answer["listed"] == FLAGS[flags]
    assert answer["num_images_without_logits"] == 0
    words = f"verify s.h5 --images photos --quiet {flags}"
    code, answer, _ = command(capsys, *words.split())
    assert (code, answer["problems"]) == (0, [])
    words = f"merge s.h5 --images photos --out m.h5 --quiet {flags}"
    code, answer, errors = command(capsys, *words.split())
    assert code == 0, errors
    assert (answer["num_images"], answer["num_dropped"]) == (FLAGS[flags], 0)


@pytest.mark.parametrize("flags", ["--class-map map.json", "--labels labels.txt"])
def test_verify_remembers_the_classes_that_were_given_to_folders(here, capsys, flags):
    import_all(capsys, flags)
    code, answer, _ = command(capsys, "verify", "s.h5", "--images", "photos", "--quiet")
    assert (code, answer["problems"]) == (0, [])


def test_verify_still_tells_another_class_of_the_same_image(here, capsys):
    import_all(capsys, "--class-map map.json")
    (here / "swapped.json").write_text(json.dumps({"n01": "dog", "n02": "cat", "n03": "dog"}))
    words = "verify s.h5 --images photos --class-map swapped.json --quiet"
    code, answer, _ = command(capsys, *words.split())
    assert code == 1 and answer["num_problems"] == 8
    assert answer["problems"][0]["reason"] == (
        "its class is 'dog', and was 'cat' when the teacher was asked"
    )


def test_verify_tells_a_class_that_a_table_renamed(here, capsys):
    import_all(capsys, "--class-map map.json")
    lines = [f"{key.decode()},wasp" for key in open_store("s.h5").keys]
    (here / "photos" / "t.csv").write_text("file_name,label\n" + "\n".join(lines) + "\n")
    code, answer, _ = command(capsys, "verify", "s.h5", "--images", "photos/t.csv", "--quiet")
    assert code == 1 and answer["num_problems"] == 12


def test_export_compares_on_the_images_that_the_flags_list(here, capsys, monkeypatch):
    (here / "m.keras").touch()
    seen = []

    def export(*args, images, **options):
        seen.append(images)
        raise OptionError("Seen.")

    monkeypatch.setattr(kd, "export", export)
    words = "export m.keras --images photos --follow-links --class-map leave.json --out o.keras"
    assert command(capsys, *words.split())[0] == 2
    assert len(seen[0]) == 12 and seen[0].class_names == ["cat", "dog"]
