"""Mistakes of a user: one clear message, exit code 2, no traceback, and nothing written."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
import tf_keras
from helpers import draw_directory, draw_image, truncate
from run_helpers import command, dense_student, exact_teacher, refusal, snapshot
from timeouts import TIMEOUT_SECS

from streamkd.cli.main import main
from streamkd.store.collection import open_store


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """images, others, teacher.keras, student.keras and the store s.h5 of images."""
    root = tmp_path_factory.mktemp("work")
    draw_directory(root / "images", {"ant": 11, "bee": 9, "cat": 10})
    draw_directory(root / "others", {"ant": 3, "bee": 3, "cat": 2}, first=100)
    (root / "empty" / "ant").mkdir(parents=True)
    exact_teacher().save(root / "teacher.keras")
    dense_student().save(root / "student.keras")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        words = "teach images --teacher teacher.keras --out s.h5 --quiet"
        assert main(words.split()) == 0
    return root


TEACH = "teach {images} --teacher {teacher} --out {out}"
# The quickest to trace.
QUICK = "--batch-size 8 --epochs 1 --optimizer sgd --jit off"
TRAIN = f"train {{images}} --store {{store}} --student {{student}} --out {{out}} {QUICK}"
ALONE = (
    f"train {{images}} --student {{student}} --out {{out}} {QUICK} --label-weight 1 "
    "--image-size 8x8"
)


def in_words(value):
    """The id of a parameter: the command's name; nothing for a pattern of a message."""
    names = {TEACH: "teach", TRAIN: "train", ALONE: "train alone"}
    return names.get(value, "message" if len(value) > 30 or value[0] == "^" else value)


def words_of(template, options="", **changes):
    """The words of a command that would succeed, but for the changes."""
    defaults = {
        "images": "images",
        "teacher": "teacher.keras",
        "store": "s.h5",
        "student": "student.keras",
        "out": "new.h5" if template is TEACH else "new",
    }
    return [*template.format(**{**defaults, **changes}).split(), *options.split()]


def refused(here, capsys, template, words, options="", **changes):
    """Checks that a command is refused with `words` (a pattern) and writes nothing; its text."""
    before = snapshot(here)
    message = refusal(capsys, *words_of(template, options, **changes))
    assert re.search(words, message, re.DOTALL), message
    assert snapshot(here) == before
    return message


EVERY = pytest.mark.parametrize("template", [TEACH, TRAIN], ids=["teach", "train"])


def test_the_same_words_without_a_mistake_succeed(here, capsys):
    for template in (TEACH, TRAIN, ALONE):
        words = words_of(template, out=f"out-{template[:9].split()[0]}-{len(template)}")
        assert command(capsys, *words)[0] == 0


@EVERY
def test_no_such_directory(here, capsys, template):
    refused(
        here,
        capsys,
        template,
        r"^There is no directory '.*/here/nowhere'\.\nGive a directory with one folder of images",
        images="nowhere",
    )


@EVERY
def test_a_directory_without_images(here, capsys, template):
    refused(
        here,
        capsys,
        template,
        r"^There are no images in '.*/empty' \(1 folders looked into\)\.\nGive a directory with",
        images="empty",
    )


@EVERY
def test_images_without_class_folders(here, capsys, template):
    refused(
        here,
        capsys,
        template,
        r"^The directory '.*/ant' has 11 images but no folder a class\.\n.*`--labels none`\.",
        images="images/ant",
    )


@EVERY
def test_a_file_that_is_no_manifest(here, capsys, template):
    refused(
        here,
        capsys,
        template,
        r"^'.*/student\.keras' is neither a directory nor a manifest: .*`streamkd scan --out`",
        images="student.keras",
    )


@pytest.mark.parametrize("template", [TEACH, ALONE], ids=["teach", "train"])
@pytest.mark.parametrize(
    "damage", ["cut in half", "empty", "text", "gone between listing and reading"]
)
def test_a_corrupt_image(here, capsys, monkeypatch, template, damage):
    path = here / "images" / "bee" / "00014.png"
    if damage == "cut in half":
        draw_image(path, 14, size=(40, 40))
        truncate(path)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("not an image")
    else:
        command(capsys, "scan", "images", "--out", "images.jsonl")
        path.unlink()
    images = "images.jsonl" if damage.startswith("gone") else "images"
    what, remedy = ("cannot be decoded: .+", "`streamkd scan --check`")
    if damage.startswith("gone"):
        what, remedy = ("is not there: No such file or directory", "`streamkd scan .*/images`")
    words = rf"^The image 'bee/00014\.png' {what}\.\n  file: .*/bee/00014\.png\n.*{remedy}"
    message = refused(here, capsys, template, words, images=images)
    assert "[Op:" not in message and "{{node" not in message


def test_a_corrupt_image_after_the_first_block_keeps_what_was_taught(here, capsys):
    path = here / "images" / "cat" / "00029.png"
    good = path.read_bytes()
    path.write_bytes(b"not an image")
    words = words_of(TEACH, "--batch-size 7")
    assert "'cat/00029.png' cannot be decoded" in refusal(capsys, *words)
    assert 0 < open_store("new.h5").rows_done < 30
    path.write_bytes(good)
    assert command(capsys, *words)[1]["rows_done"] == 30


def test_teaching_other_images_into_a_store(here, capsys):
    refused(
        here,
        capsys,
        TEACH,
        r"^The logit store was written for other images\.\n"
        r"  images: .*/others \(8 images, fingerprint \w{8}\)\n"
        r"  store:  s\.h5 \(30 images, fingerprint \w{8}\)\n"
        r"  first of 8 images without logits: 'ant/00100\.png'\n"
        r"Give another path with `--out`, or move the old store away\.",
        images="others",
        out="s.h5",
    )


def test_training_on_images_of_another_directory(here, capsys):
    refused(
        here,
        capsys,
        TRAIN,
        r"^8 of 8 images have no logits in the store\.\n"
        r"  images: .*/others \(8 images, fingerprint \w{8}\)\n"
        r"  store:  s\.h5 \(30 images, fingerprint \w{8}\)\n"
        r"  first without logits: 'ant/00100\.png', image 0\n"
        r"Teach a store of these images: `streamkd teach .*`--missing drop`\.",
        images="others",
    )


def test_training_on_a_changed_image(here, capsys):
    draw_image(here / "images" / "bee" / "00014.png", 15)
    refused(
        here,
        capsys,
        TRAIN,
        r"^The image 'bee/00014\.png' is not the file that the teacher answered\.\n"
        r"  content digest now: +\d+\n  content digest taught: \d+\n"
        r"Put the old file back, or give the `teach` command of the store again: it answers only ",
    )


def test_training_on_a_class_that_the_store_does_not_know(here, capsys):
    (here / "images" / "bee").rename(here / "images" / "wasp")
    refused(
        here,
        capsys,
        TRAIN,
        r"^The class names of the images and of the store disagree\.\n"
        r"  images: 'ant', 'cat', 'wasp'\n"
        r"  the store: 'ant', 'bee', 'cat'\n"
        r"  first of 1 unknown to the store: 'wasp'\nName the folders",
    )


def test_teaching_a_class_that_the_teacher_does_not_know(here, capsys):
    (here / "classes.txt").write_text("ant\ncat\nwasp\n")
    refused(
        here,
        capsys,
        TEACH,
        r"^The class names of the images and of the teacher disagree\.\n.*"
        r"first of 1 unknown to the teacher: 'bee'\n",
        "--class-names classes.txt",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "ant\nbee\nant\n",
            r"'classes\.txt' holds 'ant' twice\.\nName every class once\.$",
        ),
        (None, r"--class-names 'classes\.txt' cannot be read: .*No such file.*\nGive a text file"),
        ("ant\nbee\ncat\nwasp\n", r"teacher has 3 outputs, and there are 4 classes\."),
    ],
    ids=["twice", "no file", "more names than outputs"],
)
def test_a_file_of_class_names_that_does_not_fit(here, capsys, text, words):
    if text is not None:
        (here / "classes.txt").write_text(text)
    refused(here, capsys, TEACH, words, "--class-names classes.txt")


def test_a_teacher_with_the_wrong_number_of_outputs(here, capsys):
    exact_teacher(num_classes=4).save("wide.keras")
    refused(
        here,
        capsys,
        TEACH,
        r"^The teacher has 4 outputs, and there are 3 classes\.\n"
        r"  teacher: wide\.keras, 4 outputs\n  classes: .ant., .bee., .cat.\n"
        r"Give the teacher's classes .*`--class-names FILE`; an output "
        r"that is no class is left out by `--drop-output N`\.",
        teacher="wide.keras",
    )


def test_a_store_begun_with_another_teacher(here, capsys):
    dense_student(seed=4).save("teacher.keras")
    refused(
        here,
        capsys,
        TEACH,
        r"^The store s\.h5 was begun with another teacher\.\n  now:   \{\"weights\": \"\w+\"\}\n"
        r"  store: \{\"weights\": \"\w+\"\}\n"
        r"Give the same teacher, or another path with `--out`\.",
        out="s.h5",
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--batch-size 7", r"begun with another --batch-size\.\n  now:   7\n  store: 64\n"),
        ("--codec float32", r"with another --codec\.\n  now:   .float32.\n  store: .float16.\n"),
        (
            "--interpolation area",
            r"another image specification\.\n  now:   \{.interpolation.: .area",
        ),
        ("--preprocess scale", r"begun with another teacher\.\n  now:   \{.preprocess.: .scale.\}"),
    ],
    ids=in_words,
)
def test_a_store_begun_with_other_options(here, capsys, options, words):
    refused(here, capsys, TEACH, words, options, out="s.h5")


def test_a_student_whose_output_disagrees_with_the_store(here, capsys):
    dense_student(num_classes=5).save("wide.keras")
    refused(
        here,
        capsys,
        TRAIN,
        r"^The student's output disagrees with the store\.\n  student: 'dense', outputs of shape "
        r"\[5\]\n  store:  3 classes\nGive a student with 3 outputs\.",
        student="wide.keras",
    )


def test_a_student_of_another_image_size(here, capsys):
    refused(
        here,
        capsys,
        TRAIN,
        r"does not take the images of the stream\.\n  student: \[8, 8, 3\].*\n"
        r"  stream:  \[9, 8, 3\]",
        "--image-size 9x8",
    )


def test_a_teacher_of_another_image_size(here, capsys):
    refused(
        here,
        capsys,
        TEACH,
        r"^--image-size is 9x8, and the teacher 'teacher\.keras' takes 8x8 only\.\nLeave",
        "--image-size 9x8",
    )


def test_a_teacher_of_other_channels(here, capsys):
    refused(
        here,
        capsys,
        TEACH,
        r"^The teacher 'teacher\.keras' takes images of 3 channel\(s\), and --color-mode grayscale "
        r"gives 1\.\nChoose --color-mode",
        "--color-mode grayscale",
    )


OUT = re.escape("There is no directory ")


@pytest.mark.parametrize(
    ("template", "out", "words"),
    [
        (TEACH, "none/s.h5", OUT + r"none to write s\.h5 into\.\nMake it: `mkdir -p none`\."),
        (TEACH, "s.h5/t.h5", OUT + r"s\.h5 to write t\.h5 into\."),
        (TEACH, "images", r"--out images is a directory\.\nGive the path of a file"),
        (TRAIN, "s.h5/run", OUT + r"s\.h5 to write run into\."),
        (TRAIN, "s.h5/a/run", OUT + r"s\.h5.* to write run into\."),
        (TRAIN, "s.h5", r"--out s\.h5 is a file\.\nGive the path of a run directory\."),
    ],
    ids=in_words,
)
def test_an_output_path_that_cannot_be(here, capsys, template, out, words):
    refused(here, capsys, template, "^" + words, out=out)


@EVERY
def test_an_output_directory_that_may_not_be_written(here, capsys, monkeypatch, template):
    (here / "locked").mkdir()
    real = os.access

    def access(path, mode, **options):
        return False if str(path).endswith("locked") else real(path, mode, **options)

    monkeypatch.setattr(os, "access", access)
    refused(
        here,
        capsys,
        template,
        r"^The directory locked cannot be written to\.\nGive another `--out`, or change its "
        r"mode: `chmod u\+w locked`\.",
        out="locked/new",
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@EVERY
def test_a_read_only_output_directory(here, capsys, template):
    (here / "locked").mkdir(mode=0o500)
    refused(here, capsys, template, "^The directory locked cannot be written to", out="locked/new")


def test_a_full_disk_at_the_first_byte_of_a_store(here, capsys, monkeypatch):
    def full(descriptor, offset, num_bytes):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    refused(
        here,
        capsys,
        TEACH,
        r"^The disk has no room for new\.h5: No space left on device\.\n  needed: [\d,]+ bytes\n"
        r"  free:   [\d,]+ bytes\nNothing was left behind\.",
    )


def test_a_full_disk_at_the_first_checkpoint(here, capsys, monkeypatch):
    import tensorflow as tf

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tf.train.Checkpoint, "write", full)
    refused(
        here, capsys, TRAIN, r"^The disk has no room for new: No space left on device\.\n  needed:"
    )


@pytest.fixture
def small_disk(here):
    """A real file system of 1 MB in `disk`, nearly full."""
    (here / "disk").mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(here / "disk")]
    if (
        shutil.which("mount") is None
        or subprocess.run(mounted, check=False, timeout=TIMEOUT_SECS).returncode
    ):
        pytest.skip("a tmpfs cannot be mounted here: no right to, or no such file system")
    (here / "disk" / "filler").write_bytes(bytes(1012 << 10))
    yield here / "disk"
    subprocess.run(["umount", str(here / "disk")], check=True, timeout=TIMEOUT_SECS)


@pytest.mark.slow
@EVERY
def test_a_disk_that_really_is_full(here, capsys, small_disk, template):
    refused(
        here,
        capsys,
        template,
        r"^The disk has no room for disk/new: No space left on device\.\n  needed: .*\n  free:   ",
        out="disk/new",
    )


def lambda_model():
    layers = tf_keras.layers
    inputs = [tf_keras.Input((8, 8, 3)), layers.Lambda(lambda x: x / 255), layers.Flatten()]
    return tf_keras.Sequential([*inputs, layers.Dense(3)])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("none", r"^There is no \w+ at bad\.keras\.\nGive .*`?\.keras`"),
        (
            "garbage",
            r"^bad\.keras is not a `\.keras` file \(a zip with .*\): it does not begin as",
        ),
        (
            "another zip",
            r"^bad\.keras is not .* it does not say which Keras wrote it: .*\nSave the model with",
        ),
        ("cut", r"^bad\.keras (is not a `\.keras` file|could not be loaded)"),
        ("weights", r"^bad\.keras holds the weights of a Keras model, .*\nBuild the model"),
        (
            "lambda",
            r"^bad\.keras may run code or touch files .*: the layer Lambda .*\nDo not load",
        ),
    ],
    ids=in_words,
)
@EVERY
def test_a_file_that_is_no_model(here, capsys, template, kind, words):
    if kind == "garbage":
        (here / "bad.keras").write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "another zip":
        with zipfile.ZipFile("bad.keras", "w") as parts:
            parts.writestr("readme.txt", "no model")
    elif kind == "cut":
        shutil.copy("teacher.keras", "bad.keras")
        truncate(here / "bad.keras")
    elif kind == "weights":
        dense_student().save_weights("bad.weights.h5")
        (here / "bad.weights.h5").rename(here / "bad.keras")
    elif kind == "lambda":
        lambda_model().save("bad.keras")
    refused(here, capsys, template, words, teacher="bad.keras", student="bad.keras")


@pytest.mark.filterwarnings("ignore:The teacher .* is right on")  # it has learnt nothing
@pytest.mark.filterwarnings("ignore:.*would be refused without --trust")
def test_a_lambda_model_is_taken_with_trust(here, capsys):
    lambda_model().save("own.keras")
    assert main([*words_of(TEACH, "--trust --quiet", teacher="own.keras")]) == 0


@pytest.mark.parametrize(
    ("template", "options", "words"),
    [
        (TRAIN, "--label-weight 1.5", r"^label_weight is 1\.5; it must lie between 0 and 1\.$"),
        (TRAIN, "--label-weight nan", r"^label_weight is nan; it must lie between 0 and 1\.$"),
        (TRAIN, "--temperature 0", r"^temperature is 0\.0; it must be a positive number\.$"),
        (TRAIN, "--temperature hot", r"^Argument --temperature: 'hot'; give a number, or values"),
        (TRAIN, "--epochs 0", r"^epochs is 0; it must be a positive whole number\.$"),
        (TRAIN, "--epochs 1.5", r"^Argument --epochs: invalid int value: '1\.5'\.\nSee"),
        (TRAIN, "--batch-size 0", r"^batch_size is 0; it must be a positive whole number\.$"),
        (
            TRAIN,
            "--batch-size 31",
            r"^batch_size is 31, and there are 30 images\.\n.*--batch-size 30`",
        ),
        (TRAIN, "--seed -1", r"^Argument --seed: '-1' is no seed; give a whole number from 0 to "),
        (TRAIN, "--learning-rate -1", r"^learning_rate is -1\.0; it must be a positive number\.$"),
        (TRAIN, "--optimizer adamm", r"^There is no optimizer 'adamm' in tf_keras\.\nGive a Keras"),
        (
            TRAIN,
            "--interpolation area",
            r"^interpolation is 'area', and the teacher saw images made",
        ),
        (
            TRAIN,
            "--student-preprocess what",
            r"^The preprocessing is 'what'; choose none, scale, MEAN,ST",
        ),
        (TRAIN, "--validation nowhere", r"^There is no directory '.*/nowhere'\."),
        (
            TRAIN,
            "--validation-split 2",
            r"^validation_split is 2\.0; it must lie between 0 and 1\.",
        ),
        (
            ALONE,
            "--label-weight 0.5",
            r"^label_weight is 0\.5, and the stream has no teacher logits",
        ),
        (ALONE, "--image-size 0x8", r"^image_size is \(0, 8\); it must be \(height, width\) in"),
        (TEACH, "--batch-size 0", r"^--batch-size is 0; it must be a positive whole number\.$"),
        (TEACH, "--seed -1", r"^Argument --seed: '-1' is no seed; give a whole number from 0 to "),
        (
            TEACH,
            "--image-size eight",
            r"Argument --image-size: --image-size is 'eight'; write it as",
        ),
        (
            TEACH,
            "--preprocess what",
            r"^The preprocessing is 'what'; choose none, scale, MEAN,STD or the",
        ),
        (
            TEACH,
            "--drop-output 3",
            r"^--drop-output is 3, and the teacher 'teacher\.keras' has the",
        ),
        (TEACH, "--drop-output 0", r"^The teacher has 2 outputs, and there are 3 classes\.\n"),
        (TEACH, "--codec packed", r"^Argument --codec: .*packed"),
        (
            TEACH,
            "--validation-split 0.5",
            r"^--validation-split needs --subset\.\nAdd `--subset tr",
        ),
        (TEACH, "--subset training", r"^subset needs validation_split; add validation_split=0\.2"),
    ],
    ids=in_words,
)
def test_a_flag_that_cannot_be(here, capsys, template, options, words):
    refused(here, capsys, template, words, options)


def test_an_unfinished_store(here, capsys):
    path = here / "images" / "cat" / "00029.png"
    good = path.read_bytes()
    path.write_bytes(b"not an image")
    refusal(capsys, *words_of(TEACH, "--batch-size 7"))
    path.write_bytes(good)
    refused(
        here,
        capsys,
        TRAIN,
        r"^The store new\.h5 is unfinished: \d+ of 30 rows are done\.\nRun the same `",
        store="new.h5",
        out="run",
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("none", r"^There is no logit store bad\.h5: no such file\.\nMake it with `streamkd teach"),
        ("text", r"^bad\.h5 is not a logit store"),
        ("cut", r"bad\.h5 is damaged|damaged.*bad\.h5"),
        ("a directory", r"^bad\.h5 is not a logit store: it is a directory\.\nGive a file made by"),
    ],
    ids=in_words,
)
def test_a_store_that_is_none(here, capsys, damage, words):
    if damage == "text":
        (here / "bad.h5").write_text("no store")
    elif damage == "cut":
        shutil.copy("s.h5", "bad.h5")
        truncate(here / "bad.h5")
    elif damage == "a directory":
        (here / "bad.h5").mkdir()
    refused(here, capsys, TRAIN, words, store="bad.h5")


def test_another_run_in_the_directory(here, capsys):
    assert main([*words_of(TRAIN, "--quiet")]) == 0
    refused(
        here,
        capsys,
        TRAIN,
        r"^The run new was started with another temperature\.\n  run: 4\.0\n  now: 8\.0\nGive",
        "--temperature 8",
    )
