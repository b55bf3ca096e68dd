"""Outputs inside inputs: refused before they are made; what we wrote is no class."""

import json
import re
import shutil

import numpy as np
import pytest
from helpers import EncodingTeacher, draw_directory, draw_noise, teach_small
from run_helpers import command, dense_student, refusal, snapshot

from streamkd.errors import ClassNamesError, OutputError
from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import scan
from streamkd.manifest.notes import notes_of
from streamkd.manifest.own_outputs import (
    holds_only_outputs,
    refuse_among_classes,
    refuse_store_in_class,
)
from streamkd.pixels.cache.pixel_cache import PixelCache
from streamkd.stream.join import join
from streamkd.training.distiller import Distiller

OPTIONS = ImageOptions(image_size=(8, 8))


@pytest.fixture
def root(tmp_path):
    return draw_directory(tmp_path / "photos", {"class_0": 2, "class_1": 3})


def refuse(root, path, **scanned):
    refuse_among_classes(scan(root, **scanned), path, kind="run directory", flag="--out")


@pytest.mark.parametrize(
    "below", ["run", "runs/a/b", ".", "class_0", "class_0/run", "../photos/run", "Run x"]
)
def test_a_directory_among_the_classes_is_refused(root, below):
    before = snapshot(root)
    path = root / below
    with pytest.raises(OutputError) as info:
        refuse(root, path)
    name = "runs" if path.resolve() == root else path.name
    assert str(info.value) == (
        "The run directory lies in the directory of the images, where a scan would take it for a "
        f"class.\n  images: {root}\n  run directory: {path.resolve()}\n"
        f"Give a directory outside, such as `--out {root.parent / name}`."
    )
    assert snapshot(root) == before


def test_a_way_through_links_is_seen(root, tmp_path):
    (tmp_path / "elsewhere").symlink_to(root)
    for directory, path in ((root, "elsewhere/run"), (tmp_path / "elsewhere", "photos/run")):
        with pytest.raises(OutputError, match="would take it for a class"):
            refuse(directory, tmp_path / path)


@pytest.mark.parametrize("path", ["run", "photos-run", "photos/.runs/a", "photos/@eaDir/run"])
def test_other_places_are_no_trouble(root, path):
    refuse(root, root.parent / path)


def test_only_class_folders_are_no_place_for_outputs(root):
    refuse(root, root / "run", labels=None)
    number = len(scan(root, labels=None))
    refuse(root, root / "run", labels=[0, 1] * (number // 2) + [0] * (number % 2))
    table = root.parent / "table"
    (table / "images").mkdir(parents=True)
    for name, label in (("a.png", "cat"), ("b.png", "dog")):
        draw_noise(table / "images" / name, (8, 8))
        with open(table / "metadata.csv", "a") as lines:
            lines.write("file_name,label\n" if label == "cat" else "")
            lines.write(f"images/{name},{label}\n")
    refuse(table / "metadata.csv", table / "run")


@pytest.mark.parametrize("name", ["list.csv", "metadata.csv"])
def test_a_table_of_files_in_folders_of_its_classes_has_no_class_folders(root, name):
    names = [key.decode() for key in scan(root).keys]
    lines = "".join(f"{key},{key.split('/')[0]}\n" for key in names)
    table = (root if name == "list.csv" else root / "class_0") / name
    if name == "metadata.csv":
        lines = "".join(f"{key.split('/')[1]},ant\n" for key in names if "class_0/" in key)
    table.write_text(f"file_name,label\n{lines}")
    refuse(table, root / "run")
    refuse(table.parent if name == "metadata.csv" else table, table.parent / "run")


@pytest.mark.parametrize("folder", ["class_0", "class_0/old", "empty"])
def test_a_store_in_a_class_folder_is_refused_whether_it_has_images_or_not(root, folder):
    (root / folder).mkdir(exist_ok=True)
    (root / "empty").mkdir(exist_ok=True)
    with pytest.raises(OutputError) as info:
        refuse_store_in_class(scan(root), root / folder / "s.h5")
    assert str(info.value) == (
        f"The store lies in the folder of a class, {folder.split('/')[0]!r}.\n"
        f"  images: {root}\n  store: {root / folder / 's.h5'}\n"
        f"Give a path outside, such as `--out {root.parent / 's.h5'}`."
    )


def test_a_store_elsewhere_or_one_that_is_there_is_no_trouble(root):
    (root / "empty").mkdir()
    (root / "class_0" / "old.h5").write_bytes(b"streamkd")
    images = scan(root)
    for path in ("s.h5", "../s.h5", "class_0/old.h5", ".hidden/s.h5"):
        refuse_store_in_class(images, root / path)
    refuse_store_in_class(scan(root, labels=None), root / "class_0" / "s.h5")
    with pytest.raises(OutputError, match="in the folder of a class, 'empty'"):
        teach_small(images, EncodingTeacher(), root / "empty" / "s.h5")


def test_a_class_map_has_class_folders_too(root):
    with pytest.raises(OutputError, match="would take it for a class"):
        refuse(root, root / "run", class_map={"class_0": "ant", "class_1": "bee"})


def test_the_cache_and_the_run_are_refused_before_anything_is_written(root, tmp_path):
    before = snapshot(tmp_path)
    images = scan(root)
    with pytest.raises(OutputError, match=r"The pixel cache lies .*\n.*\n.*\n.*--cache-directory "):
        PixelCache.on_disk(images, OPTIONS, root / "cache")
    stream = join(images, None, image_size=(8, 8), batch_size=2)
    distiller = Distiller(dense_student(num_classes=2), label_weight=1.0)
    with pytest.raises(OutputError, match="The run directory lies"):
        distiller.fit(stream, epochs=1, run=root / "run", progress=False)
    other = draw_directory(tmp_path / "val", {"class_0": 1, "class_1": 1})
    before |= snapshot(tmp_path)
    with pytest.raises(OutputError, match=f"images: {other}"):
        distiller.fit(stream, epochs=1, run=other / "run", validation=scan(other), progress=False)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--out", "The run directory lies"),
        ("--tensorboard", "The TensorBoard directory lies"),
    ],
)
def test_train_refuses_them_before_the_student_is_built(root, tmp_path, capsys, flag, words):
    flags = {"--out": tmp_path / "run", flag: root / "logs", "--student": "none.keras"}
    message = refusal(capsys, "train", root, *(word for pair in flags.items() for word in pair))
    assert message.startswith(words) or "is not installed" in message


def leave_run(folder):
    (folder / "checkpoints" / "step-0000000001").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "metrics.csv").write_text("epoch\n")


def leave_cache(folder):
    folder.mkdir(parents=True)
    for ending in ("pixels", "records"):
        (folder / f"{'0a' * 12}.{ending}").write_bytes(bytes(8))


def leave_logs(folder):
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "events.out.tfevents.1.host.2.0.v2").write_bytes(b"")


def leave_runs(folder):
    leave_run(folder / "a" / "1")
    leave_run(folder / "b")


def leave_student(folder):
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "student.keras").write_bytes(b"PK")


OUTPUTS = [leave_run, leave_cache, leave_logs, leave_runs, leave_student]


@pytest.mark.parametrize("leave", [*OUTPUTS, "store"])
def test_what_we_wrote_is_no_class_and_is_noted(root, leave, store):
    before = scan(root)
    if leave == "store":
        (root / "alpha").mkdir()
        shutil.copyfile(store.path, root / "alpha" / "teacher.h5")
    else:
        leave(root / "alpha")  # sorted before the classes, whose numbers stay
    assert holds_only_outputs(bytes(root / "alpha"))
    after = scan(root)
    assert after.class_names == before.class_names == ["class_0", "class_1"]
    np.testing.assert_array_equal(after.labels, before.labels)
    assert after.fingerprint == before.fingerprint
    (note,) = notes_of(after)
    assert (note.code, note.count, note.examples) == ("own_outputs", 1, ["alpha"])
    mapped = scan(root, class_map={"class_0": "ant", "class_1": "bee"})
    assert mapped.class_names == ["ant", "bee"]
    # A folder that was named is a class, as it was asked.
    assert scan(root, class_names=["alpha", "class_1"]).class_names == ["alpha", "class_1"]


@pytest.mark.parametrize(
    "case", ["an image beside", "an image below", "config.json alone", "another file", "empty"]
)
def test_other_folders_stay_classes(root, case):
    folder = root / "other"
    if case.startswith("an image"):
        leave_run(folder)
        below = folder if case.endswith("beside") else folder / "deep" / "er"
        below.mkdir(parents=True, exist_ok=True)
        draw_noise(below / "x.PNG", (8, 8))
    else:
        folder.mkdir()
        if case != "empty":
            (folder / ("config.json" if case.startswith("config") else "notes.h5")).write_text("{}")
    assert not holds_only_outputs(bytes(folder))
    assert scan(root).class_names == ["class_0", "class_1", "other"]
    with pytest.raises(ClassNamesError, match="'other'"):
        scan(root, class_map={"class_0": "ant", "class_1": "bee"})


def test_scan_says_so_in_json(root, capsys):
    leave_run(root / "run")
    code, answer, _ = command(capsys, "scan", root)
    assert code == 0 and answer["class_names"] == ["class_0", "class_1"]
    assert [note["code"] for note in answer["notes"]] == ["own_outputs"]
    assert re.search("streamkd wrote", json.dumps(answer["notes"]))
