"""Directory listings against Keras' own loader, and their deliberate differences.

Splits, lists of labels, and the arguments that Keras refuses are in test_keras_sources.
"""

import json
import os

import helpers
import numpy as np
import pytest

from streamkd.errors import ImagesNotFoundError, OptionError
from streamkd.manifest import listing
from streamkd.manifest.manifest import scan

TRICKY = [
    "b/2.png",
    "b/10.png",
    "b/Z.PNG",
    "b/a.JpEg",
    "a/x/y/deep.png",
    "a/x/top.gif",
    "a/x-y/dash.bmp",
    "a/x.y/dot.png",
    "a/x y/space.png",
    "a/z.png",
    "a-b/1.png",
    "a/notes.txt",
    "a/x.png.bak",
    "a b/été.png",
    "Ä/1.png",
    "class10/1.png",
    "class2/1.png",
    "loose.png",
]


def draw(root, names):
    """Writes files of these names, each a small PNG, and the folder of a class without images."""
    for number, name in enumerate(names):
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        helpers.draw_image(path, number, size=(2, 2))
    (root / "empty").mkdir(exist_ok=True)
    return root


def keras_listing(root, loader="tf_keras", **arguments):
    """Returns keys, labels and class names of Keras' loader, without an epoch of its dataset."""
    import importlib

    utils = importlib.import_module(f"{loader}.src.utils.dataset_utils")
    formats = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
    arguments = {"labels": "inferred", "formats": formats, "shuffle": False, **arguments}
    paths, labels, class_names = utils.index_directory(str(root), **arguments)
    keys = [os.fsencode(os.path.relpath(path, root)) for path in paths]
    return keys, labels, class_names


@pytest.mark.parametrize("loader", ["tf_keras", "keras"])
def test_scan_lists_what_keras_lists_in_keras_order(tmp_path, loader):
    images = scan(draw(tmp_path, TRICKY))
    keys, labels, class_names = keras_listing(tmp_path, loader)
    assert images.keys.tolist() == keys
    assert images.labels.tolist() == list(labels)
    assert images.class_names == list(class_names)
    assert images.num_images == 15
    assert images.class_counts[images.class_names.index("empty")] == 0


def test_scan_without_labels_lists_what_keras_lists(tmp_path):
    images = scan(draw(tmp_path, TRICKY), labels=None)
    assert images.keys.tolist() == keras_listing(tmp_path, labels=None)[0]
    assert b"loose.png" in images.keys.tolist()
    assert images.labels.tolist() == [-1] * 16 and images.class_names is None
    assert images.class_counts is None and images.num_classes is None


@pytest.mark.parametrize("names", [["b", "a", "empty"], ["class2"]], ids=["permuted", "subset"])
def test_class_names_order_and_select_the_folders_as_in_keras(tmp_path, names):
    images = scan(draw(tmp_path, TRICKY), class_names=names)
    keys, labels, class_names = keras_listing(tmp_path, "keras", class_names=names)
    assert images.keys.tolist() == keys
    assert images.labels.tolist() == list(labels)
    assert images.class_names == list(class_names) == names


def test_the_two_subsets_share_no_image_and_miss_none(tmp_path):
    helpers.draw_directory(tmp_path, {"a": 13, "b": 6}, size=(2, 2))
    parts = [
        scan(tmp_path, validation_split=0.25, subset=subset, seed=5).keys.tolist()
        for subset in ("training", "validation")
    ]
    assert [len(part) for part in parts] == [15, 4]
    assert sorted(parts[0] + parts[1]) == scan(tmp_path).keys.tolist()


# Deliberate differences from Keras.


def test_hidden_files_and_folders_are_left_out_unlike_in_keras(tmp_path):
    hidden = ["a/._1.png", "a/.thumbs/1.png", "a/x/.y/1.png", ".git/1.png"]
    draw(tmp_path, ["a/1.png", *hidden])
    assert scan(tmp_path).keys.tolist() == [b"a/1.png"]
    assert scan(tmp_path, labels=None).keys.tolist() == [b"a/1.png"]
    assert scan(tmp_path).class_names == ["a", "empty"]
    assert set(keras_listing(tmp_path)[0]) == {b"a/1.png", *(os.fsencode(n) for n in hidden[:3])}


def test_webp_files_are_listed_unlike_in_keras(tmp_path):
    draw(tmp_path, ["a/1.webp", "a/2.WebP", "a/3.png"])
    assert scan(tmp_path).keys.tolist() == [b"a/1.webp", b"a/2.WebP", b"a/3.png"]
    assert keras_listing(tmp_path)[0] == [b"a/3.png"]


def test_names_that_are_no_utf8_are_listed_unlike_in_keras(tmp_path):
    draw(tmp_path, [b"a/\xff.png", "a/\U0001f600.png", b"\xe9t\xe9/1.png"])
    images = scan(tmp_path)
    emoji = "a/\U0001f600.png".encode()
    assert images.keys.tolist() == [emoji, b"a/\xff.png", b"\xe9t\xe9/1.png"]
    assert images.class_names == ["a", "empty", os.fsdecode(b"\xe9t\xe9")]
    assert images.labels.tolist() == [0, 0, 2]
    with pytest.raises(UnicodeError):
        keras_listing(tmp_path)


def test_endings_count_in_any_case_and_nothing_else_does(tmp_path):
    names = ["a/1.JPEG", "a/2.Jpg", "a/3.PNG", "a/4.GIF", "a/5.bmp", "a/6.WEBP"]
    names += ["a/7.tif", "a/8.TIFF", "a/9.avif"]  # Pillow decodes them, and Keras leaves them out
    draw(tmp_path, [*names, "a/7.psd", "a/.DS_Store", "a/Thumbs.db", "a/8.jpg.part"])
    assert scan(tmp_path).keys.tolist() == [os.fsencode(name) for name in names]


def test_a_file_without_an_ending_is_an_image_if_its_bytes_are(tmp_path):
    draw(tmp_path, ["a/1.png", "a/jpeg", "a/photo.jfif"])
    (tmp_path / "a" / "LICENSE").write_text("no image")
    (tmp_path / "a" / "text.jpe").write_text("no image")
    assert scan(tmp_path).keys.tolist() == [b"a/1.png", b"a/jpeg", b"a/photo.jfif"]


@pytest.mark.parametrize("name", [" lead.png", "new\nline.png", "quo'te\".png", "%s{}.png"])
def test_odd_names_are_keys_as_they_are(tmp_path, name):
    images = scan(draw(tmp_path, [f"a/{name}"]))
    assert images.keys.tolist() == [os.fsencode(f"a/{name}")]
    assert os.path.exists(images.path(0))


def test_a_link_to_nowhere_is_listed_for_the_check_to_find(tmp_path):
    draw(tmp_path, ["a/1.png"])
    (tmp_path / "a" / "2.png").symlink_to(tmp_path / "gone.png")
    assert scan(tmp_path).keys.tolist() == [b"a/1.png", b"a/2.png"]


def test_a_class_without_images_keeps_its_number_and_is_named(tmp_path):
    images = scan(draw(tmp_path, ["a/1.png", "zebra/1.png"]))
    assert images.class_names == ["a", "empty", "zebra"] and images.labels.tolist() == [0, 2]
    assert images.empty_classes == ["empty"]


def test_no_image_is_asked_about(tmp_path, monkeypatch):
    draw(tmp_path, TRICKY)
    asked = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **rest: asked.append(path) or stat(path, **rest))
    monkeypatch.setattr(os, "lstat", None)
    scan(tmp_path)
    endings = {os.path.splitext(os.fsencode(path))[1].lower() for path in asked}
    assert asked and endings.isdisjoint(listing.EXTENSIONS)


# Labels, classes and shapes of directories that Keras does not know.


def test_labels_may_be_names(tmp_path):
    draw(tmp_path, ["b/1.png", "a/2.png", "3.png"])
    images = scan(tmp_path, labels=["dog", "cat", "dog"])
    assert images.keys.tolist() == [b"3.png", b"a/2.png", b"b/1.png"]
    assert images.class_names == ["cat", "dog"] and images.labels.tolist() == [1, 0, 1]


def test_several_folders_share_a_class_by_a_class_map(tmp_path):
    draw(tmp_path, ["n1/1.png", "n2/2.png", "n3/3.png", "n4/4.png"])
    class_map = {"n1": "dog", "n2": "cat", "n3": "dog", "n4": None, "empty": "emu"}
    images = scan(tmp_path, class_map=class_map)
    assert images.keys.tolist() == [b"n1/1.png", b"n2/2.png", b"n3/3.png"]
    assert images.class_names == ["dog", "cat", "emu"] and images.labels.tolist() == [0, 1, 0]
    assert images.class_counts == [2, 1, 0]
    (tmp_path / "classes.json").write_text(json.dumps(class_map))
    assert scan(tmp_path, class_map=tmp_path / "classes.json").fingerprint == images.fingerprint
    with pytest.raises(OptionError, match="A class map goes with labels='inferred'"):
        scan(tmp_path, labels=None, class_map=class_map)


@pytest.mark.parametrize(
    "parts", [["train", "val"], ["Train", "Test", "validation"], ["train"]], ids="-".join
)
def test_train_and_test_folders_are_refused_as_classes(tmp_path, parts):
    for part in [*parts, ".git"]:
        helpers.draw_directory(tmp_path / part, {"a": 1, "b": 1}, size=(2, 2))
    with pytest.raises(ImagesNotFoundError, match="parts of a data set, not classes") as refusal:
        scan(tmp_path)
    assert f"such as {tmp_path / sorted(parts)[0]};" in str(refusal.value)
    assert scan(tmp_path / parts[0]).class_names == ["a", "b"]
    assert scan(tmp_path, class_names=parts).class_names == parts
    assert scan(tmp_path, class_map=dict.fromkeys(parts, "x")).class_names == ["x"]
    assert len(scan(tmp_path, labels=None)) == 2 * len(parts)


def test_a_class_named_test_among_others_is_a_class(tmp_path):
    (draw(tmp_path, ["test/1.png", "cricket/1.png"]) / "empty").rmdir()
    assert scan(tmp_path).class_names == ["cricket", "test"]


@pytest.mark.parametrize("inside", ["", "images/"], ids=["flat", "one folder"])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_directory_with_a_metadata_file_is_what_the_file_lists(tmp_path, ending, inside):
    (draw(tmp_path, [f"{inside}{number}.png" for number in range(3)]) / "empty").rmdir()
    rows = {"csv": "file_name,label\n{0}2.png,dog\n{0}0.png,cat\n"}
    rows["jsonl"] = '{{"file_name": "{0}2.png", "label": "dog"}}\n'
    rows["jsonl"] += '{{"file_name": "{0}0.png", "label": "cat"}}\n'
    (tmp_path / f"metadata.{ending}").write_text(rows[ending].format(inside))
    images = scan(tmp_path)
    assert images.keys.tolist() == [os.fsencode(f"{inside}{number}.png") for number in (2, 0)]
    assert images.class_names == ["cat", "dog"] and images.labels.tolist() == [1, 0]
    assert images.fingerprint == scan(tmp_path / f"metadata.{ending}").fingerprint
    assert len(scan(tmp_path, labels=None)) == 3, "without labels, the files count"


def test_a_metadata_file_beside_class_folders_is_refused(tmp_path):
    draw(tmp_path, ["a/1.png", "b/1.png"])
    (tmp_path / "metadata.csv").write_text("file_name,label\na/1.png,dog\n")
    with pytest.raises(
        OptionError, match=r"has 3 folders \('a', 'b', 'empty'\) and a metadata.csv"
    ):
        scan(tmp_path)
    assert scan(tmp_path, class_names=["a", "b"]).class_names == ["a", "b"]
    assert scan(tmp_path / "metadata.csv").class_names == ["dog"]
    (tmp_path / "metadata.jsonl").touch()
    with pytest.raises(OptionError, match=r"has a metadata.csv and a metadata.jsonl"):
        scan(tmp_path)


def test_a_stratified_split_takes_from_every_class(tmp_path):
    helpers.draw_directory(tmp_path, {"a": 20, "b": 5}, size=(2, 2))
    split = {"validation_split": 0.2, "seed": 1, "stratify": True}
    validation, training = (scan(tmp_path, subset=s, **split) for s in ("validation", "training"))
    assert validation.class_counts == [4, 1] and training.class_counts == [16, 4]
    with pytest.raises(OptionError, match="stratify needs labels"):
        scan(tmp_path, labels=None, subset="training", **split)


# Links.


def test_folders_that_are_links_are_entered_only_when_asked(tmp_path):
    root = draw(tmp_path / "root", ["a/1.png"])
    draw(tmp_path / "elsewhere", ["2.png", "deep/3.png"])
    (root / "a" / "more").symlink_to(tmp_path / "elsewhere")
    assert scan(root).keys.tolist() == [b"a/1.png"]
    followed = [b"a/1.png", b"a/more/2.png", b"a/more/deep/3.png"]
    assert scan(root, follow_links=True).keys.tolist() == followed
    assert keras_listing(root, follow_links=True)[0] == followed


def test_a_class_folder_that_is_a_link_always_counts(tmp_path):
    root = draw(tmp_path / "root", ["a/1.png"])
    draw(tmp_path / "elsewhere", ["2.png"])
    (root / "b").symlink_to(tmp_path / "elsewhere")
    for follow_links in (False, True):
        assert scan(root, follow_links=follow_links).keys.tolist() == [b"a/1.png", b"b/2.png"]


def test_a_file_that_is_a_link_is_listed_and_a_folder_named_like_an_image_is_not(tmp_path):
    root = draw(tmp_path, ["a/1.png"])
    (root / "a" / "2.png").symlink_to(root / "a" / "1.png")
    (root / "a" / "folder.png").mkdir()
    (root / "a" / "link.png").symlink_to(root / "empty")
    assert scan(root).keys.tolist() == [b"a/1.png", b"a/2.png"]


@pytest.mark.parametrize("target", [".", "..", "../b", "x"], ids=["self", "root", "class", "below"])
def test_a_link_back_into_the_directory_lists_nothing_twice(tmp_path, target):
    root = draw(tmp_path / "root", ["a/1.png", "a/x/2.png", "b/3.png"])
    (root / "a" / "loop").symlink_to(target)
    images = scan(root, follow_links=True)
    assert len(images) == 3
    assert images.class_counts == [2, 1, 0]
    assert b"b/3.png" in images.keys.tolist()


# Refusals.


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ImagesNotFoundError, match=r"There is no directory '.*/nowhere'"):
        scan(tmp_path / "nowhere")


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImagesNotFoundError, match="neither a directory nor a manifest"):
        scan(tmp_path / "pipe")


def test_a_directory_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    draw(tmp_path, ["a/1.png"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(ImagesNotFoundError, match=r"cannot be read\.\n.*: `chmod u\+rx .*`\."):
            scan(tmp_path)

    def refused(path):
        if path.endswith(b"/a"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", refused)
    words = r"The folder '.*/a' cannot be listed: Permission denied\.\nGive yourself the right"
    with pytest.raises(ImagesNotFoundError, match=words):
        scan(tmp_path)


def test_a_directory_without_images_is_refused(tmp_path):
    draw(tmp_path, ["a/notes.txt"])
    with pytest.raises(ImagesNotFoundError, match=r"no images in .*\(2 folders looked into\)"):
        scan(tmp_path)
    with pytest.raises(ImagesNotFoundError, match="no images in"):
        scan(tmp_path, labels=None)


def test_images_without_class_folders_are_refused_with_the_way_out(tmp_path):
    draw(tmp_path, ["1.png", "2.jpg"])
    with pytest.raises(ImagesNotFoundError, match=r"has 2 images but no folder a class") as refusal:
        scan(tmp_path)
    assert "--labels none" in str(refusal.value)
    assert len(scan(tmp_path, labels=None)) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"labels": 3}, "labels is 3; it must be a text or a list"),
        ({"validation_split": 0.2, "seed": 1}, "subset is ''; choose one of training, validation"),
        ({"validation_split": 0.0, "subset": "training", "seed": 1}, "validation_split is 0.0"),
        ({"validation_split": 1, "subset": "training", "seed": 1}, "validation_split is 1;"),
        (
            {"validation_split": 0.1, "subset": "validation", "seed": 1},
            "there are 3 images: validation gets none",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_arguments_besides_those_that_keras_refuses_are_refused(tmp_path, arguments, words):
    draw(tmp_path, ["a/1.png", "b/1.png", "b/2.png"])
    with pytest.raises(OptionError, match=words):
        scan(tmp_path, **arguments)


def test_progress_counts_every_image(tmp_path):
    counts = []
    images = scan(draw(tmp_path, TRICKY), progress=counts.append)
    assert np.sum(counts) == len(images)
