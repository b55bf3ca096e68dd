"""The teacher's columns of a student's classes: by name, in groups, and never of another class.

The teacher here answers every image with numbers of its own in each column, so that a logit of
another image or of another class shows.
"""

from __future__ import annotations

import json
import os
import types
import unicodedata
import warnings

import helpers
import numpy as np
import pytest
from run_helpers import command, cross_entropy, dense_student, distillation, fit, log_softmax
from run_helpers import refusal as refused
from stream_helpers import arrays_of, joined

import streamkd as kd
from streamkd.cli import files
from streamkd.errors import ClassNamesError, OptionError, ResumeError, StudentError
from streamkd.manifest.manifest import scan
from streamkd.results.evaluate import evaluate
from streamkd.store.merge import merge
from streamkd.stream.join_checks import check_accuracy
from streamkd.stream.teacher_columns import TeacherColumns, choose_columns
from streamkd.training.distiller import Distiller
from streamkd.views.views import Views

OURS = ["ant", "bee", "cat"]
# The teacher's classes: ours in another order, among others.
TEACHERS = ["owl", "cat", "emu", "ant", "fox", "gnu", "bee", "yak", "elk", "hen"]
COLUMNS = [TEACHERS.index(name) for name in OURS]
TABLE = np.random.default_rng(3).normal(0, 2, (64, len(TEACHERS))).astype(np.float32)


def coded_logits(pixels):
    """Answers each image of `draw_image` with its row of `TABLE`, its own class the largest."""
    numbers, classes = helpers.pixel_numbers(pixels).T
    return own_logits(numbers, classes)


def own_logits(numbers, classes):
    logits = TABLE[numbers].copy()
    logits[np.arange(len(numbers)), np.array(COLUMNS)[classes]] += 9
    return logits


def write(images, path, **options):
    """Returns a store with the logits that `coded_logits` answers, which is not asked."""

    def answer(batch):
        parts = [os.path.split(key) for key in batch.keys]
        numbers = [int(name.split(b".")[0]) for _, name in parts]
        return own_logits(numbers, [OURS.index(folder.decode()) for folder, _ in parts])

    values = {"codec": "float32", "class_names": TEACHERS, "image_size": (8, 8), **options}
    return kd.write_store(images, path, answer, teacher="coded", progress=False, **values)


@pytest.fixture
def wide(images, tmp_path):
    """A function: the store of the images by the teacher of ten classes, as float32."""
    return lambda **options: write(images, tmp_path / "wide.h5", **options)


def batch_of(stream):
    """The first batch, with the numbers and classes that its pixels hold."""
    ((batch,)) = arrays_of(stream.batches(0, 1))
    return batch, *helpers.pixel_numbers(batch["pixels"]).T


def grouped(logits, groups):
    """The logits of groups of columns, float64: log Σ exp."""
    logits = np.asarray(logits, np.float64)
    return np.stack([np.logaddexp.reduce(logits[:, group], axis=1) for group in groups], axis=1)


# What the columns are.


@pytest.mark.parametrize("scale", [1, 30, 100])
def test_groups_of_a_thousand_classes_have_the_sum_of_their_probabilities(scale):
    rng = np.random.default_rng(0)
    class_of = np.concatenate([[0] * 700, [1] * 118, [2], [-1] * 181])
    rng.shuffle(class_of)
    names = [f"n{number}" for number in range(1000)]
    columns = TeacherColumns.from_classes(OURS, names, class_of)
    logits = rng.normal(0, scale, (50, 1000)).astype(np.float32)
    found = columns.of(logits)
    assert found.dtype == np.float32 and columns.are_groups
    groups = [np.flatnonzero(class_of == own) for own in range(3)]
    np.testing.assert_allclose(found, grouped(logits, groups), rtol=1e-6, atol=1e-5)
    # One column is taken as it is, to the bit.
    np.testing.assert_array_equal(found[:, 2], logits[:, groups[2][0]])
    # The sum of probabilities, renormalised over the classes in use.
    p = np.exp(log_softmax(logits))
    sums = np.stack([p[:, group].sum(axis=1) for group in groups], axis=1)
    np.testing.assert_allclose(
        np.exp(log_softmax(found)), sums / sums.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("codec", ["float16", "packed:8", "packed:3+4", "packed:0+4"])
def test_columns_are_those_that_any_codec_gives(wide, images, codec):
    columns = choose_columns(store := wide(codec=codec), images, classes="images")
    logits = store.gather(np.arange(30))
    found = columns.of(logits)
    np.testing.assert_array_equal(found, logits[:, COLUMNS])
    # The image's own class is the largest, and so it is kept.
    largest = own_logits(np.arange(30), images.labels)[:, COLUMNS].max(axis=1)
    np.testing.assert_allclose(found.max(axis=1), largest, atol=0.1)
    np.testing.assert_array_equal(found.argmax(axis=1), images.labels)


@pytest.mark.parametrize(
    "classes",
    ["images", ["bee", "owl", "cat", "ant"], np.array(TEACHERS[::-1])],
    ids=["images", "more", "all, reversed"],
)
def test_every_image_gets_its_own_logits_of_the_classes_by_name(wide, images, classes):
    stream = joined(images, wide(), classes=classes, batch_size=30)
    names = OURS if isinstance(classes, str) else list(classes)
    assert stream.class_names == names and stream.num_classes == len(names)
    batch, numbers, own = batch_of(stream)
    assert sorted(numbers) == list(range(30))
    expected = own_logits(numbers, own)[:, [TEACHERS.index(name) for name in names]]
    np.testing.assert_array_equal(batch["teacher_logits"], expected)
    np.testing.assert_array_equal(batch["labels"][:, 0], [names.index(OURS[c]) for c in own])


def test_all_classes_in_the_teachers_order_are_no_choice(wide, images):
    for options in ({"classes": TEACHERS}, {"teacher_class_map": {n: n for n in TEACHERS}}):
        columns = choose_columns(
            wide(),
            images,
            classes=TEACHERS,
            class_map=options.get("teacher_class_map"),
        )
        assert columns is None


MAP = {"ant": "small", "bee": "small", "hen": "small", "cat": "large", "yak": "large", "emu": None}
GROUPS = [[3, 6, 9], [1, 7]]


def test_the_loss_of_groups_is_that_of_float64_at_every_temperature(wide, images):
    unlabelled = scan(images.root, labels=None)
    columns = choose_columns(store := wide(), unlabelled, class_map=MAP)
    assert columns.class_names == ["small", "large"]  # in the order of the map
    found_logits = columns.of(store.gather(np.arange(30)))
    logits = grouped(own_logits(np.arange(30), images.labels), GROUPS)
    np.testing.assert_allclose(found_logits, logits, rtol=1e-6)
    student = np.random.default_rng(1).normal(size=(30, 2)).astype(np.float32)
    for temperature in (1.0, 4.0, 20.0):
        found = kd.distillation_loss(found_logits, student, temperature=temperature)
        # The teacher's probabilities are added, and then softened.
        p = np.exp(log_softmax(own_logits(np.arange(30), images.labels)))
        sums = np.stack([p[:, group].sum(axis=1) for group in GROUPS], axis=1)
        expected = distillation(np.log(sums), student, temperature)
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_stores_read_as_one_give_the_same_columns(wide, images, tmp_path):
    parts = ((slice(0, 14), "a.h5"), (slice(14, 30), "b.h5"), (slice(3, 9), "delta.h5"))
    paths = [write(images.select(part), tmp_path / name).path for part, name in parts]
    index = merge(paths, tmp_path / "index.h5", index=True, progress=False).store
    whole, rows = wide(), np.arange(30)[::-1]
    for options in ({"classes": "images"}, {"classes": ["small", "large"], "class_map": MAP}):
        columns = choose_columns(index, images, **options)
        np.testing.assert_array_equal(
            columns.of(index.gather(rows)),
            choose_columns(whole, images, **options).of(whole.gather(rows)),
        )


def test_views_caches_and_images_without_logits_take_the_same_columns(images, tmp_path):
    options = {"codec": "float32", "class_names": TEACHERS, "image_size": (8, 8)}
    options["views"] = Views(2, flip=True, canonical_size=(8, 8))
    some = images.select(slice(0, 29))
    store = helpers.teach_small(some, coded_logits, tmp_path / "s.h5", **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "1 of 30 images have no logits")
        stream = joined(
            *(images, store),
            classes=["cat", "bee", "ant"],
            cache="memory",
            missing="label",
            batch_size=30,
            views_per_decode=2,
        )
    order = [COLUMNS[2], COLUMNS[1], COLUMNS[0]]
    for batch in arrays_of(stream.batches(0, 3)):
        numbers, classes = helpers.pixel_numbers(batch["pixels"]).T
        expected = own_logits(numbers, classes)[:, order]
        expected[batch["rows"] < 0] = 0
        np.testing.assert_array_equal(batch["teacher_logits"], expected)
        np.testing.assert_array_equal(batch["labels"][:, 0], 2 - classes)


# What is refused, and what is warned of.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"classes": ["ant", "dog"]},
            "The student's classes and those of the store disagree.\n  student: 'ant', 'dog'\n",
        ),
        ({"classes": ["ant", "dog"]}, "  first of 1 unknown to the store: 'dog'\nName the"),
        ({"classes": ["ant", "Bee"]}, "'Bee' and 'bee' differ only in capitals\n"),
        ({"classes": ["ant", "dog"]}, "which: `--teacher-class-map FILE.json`."),
        ({"classes": ["ant", "ant"]}, "'ant' twice"),
        ({"classes": ["ant"]}, "one class, 'ant', and a softmax over one class is always 1.\n"),
        ({"classes": "folders"}, "classes is 'folders'; give 'images', or a list of the student's"),
        ({"classes": {"ant", "bee"}}, "give 'images', or a list of the student's classes."),
        ({"classes": ["ant", 3]}, "classes is ['ant', 3]; it must be a list"),
        ({"classes": []}, "classes is []; give 'images', or a list"),
        (
            {"teacher_class_map": {"ant": "ant", "bees": "bee", "cat": "cat"}},
            "The teacher class map and the store disagree.\n  class map: 'ant', 'bees', 'cat'\n",
        ),
        (
            {"teacher_class_map": {"ant": "ant", "bees": "bee", "cat": "cat"}},
            "  first of 1 unknown to the store: 'bees'\nMap the names that the store has; "
            "`streamkd inspect` shows them.",
        ),
        (
            {"teacher_class_map": {"ant": "ant", "bee": "bee", "cat": "cat", "owl": "bird"}},
            "  first of 1 that the student does not have: 'bird'\nGive null to leave a class of "
            "the teacher out, or name all classes of the student: `--classes FILE`.",
        ),
        (
            {"teacher_class_map": {"ant": "ant", "bee": "ant", "cat": "cat"}},
            "  first of 1 without a class of the teacher: 'bee'\nMap at least one of the teacher's",
        ),
        ({"teacher_class_map": {"owl": None}, "labels": None}, "leaves out all of the teacher's"),
        ({"teacher_class_map": {}}, "The teacher class map is dict or empty; it must name the"),
        (
            {"teacher_class_map": ["ant"]},
            "teacher_class_map is ['ant']; it must be a dict",
        ),
        (
            {"teacher_class_map": {"ant": 1}},
            "The teacher class map gives 'ant' the class 1, which is no name.\nGive a name, or "
            "null to leave the class of the teacher out.",
        ),
    ],
)
def test_classes_that_do_not_fit_are_refused_with_both_sides(wide, images, options, words):
    if "labels" in options:
        images = scan(images.root, labels=options.pop("labels"))
    with pytest.raises((ClassNamesError, OptionError)) as refusal:
        joined(images, wide(), **options)
    assert words in str(refusal.value)


def test_a_store_without_names_says_how_to_get_them(images, tmp_path):
    unlabelled = scan(images.root, labels=None)
    store = write(unlabelled, tmp_path / "s.h5", class_names=None)
    with pytest.raises(OptionError) as refusal:
        joined(images, store, classes="images")
    assert str(refusal.value) == (
        f"The store {store.path} was taught without class names, so its 10 columns cannot be "
        "chosen by name.\nTeach a store with the teacher's classes in the order of its outputs: "
        "`streamkd teach … --class-names FILE`."
    )
    with pytest.raises(StudentError, match=r"model has 3 classes, .* has 10 columns without class"):
        evaluate(dense_student(), images, store=store, class_names=OURS, progress=False)


def test_images_without_classes_and_streams_without_a_store_have_none_to_choose(wide, images):
    with pytest.raises(OptionError, match=r"have no labels\.\nGive a text file, one class a line"):
        joined(scan(images.root, labels=None), wide(), classes="images")
    for options in ({"classes": OURS}, {"teacher_class_map": MAP}):
        with pytest.raises(OptionError, match="Without a store there are no columns of a teacher"):
            joined(images, None, image_size=(8, 8), **options)
    with pytest.raises(OptionError, match=r"there is no store\.\nAdd `--store`, or leave"):
        evaluate(dense_student(), images, teacher_class_map=MAP, progress=False)


def test_a_name_in_another_unicode_form_is_another_class(tmp_path):
    images = scan(helpers.draw_directory(tmp_path / "images", {"café": 3, "thé": 3}))
    apart = [unicodedata.normalize("NFD", name) for name in images.class_names]
    store = kd.write_store(
        scan(images.root, labels=None),
        tmp_path / "s.h5",
        lambda batch: np.eye(3)[[int(b"caf" not in key) for key in batch.keys]],
        teacher="eye",
        class_names=[*apart, "owl"],
        progress=False,
    )
    with pytest.raises(ClassNamesError, match="differ only in Unicode form"):
        joined(images, store, image_size=(8, 8), classes="images")
    same = dict(zip(apart, images.class_names, strict=True))
    columns = choose_columns(store, images, class_map=same)
    found = columns.of(store.gather(np.arange(6))).argmax(axis=1)
    np.testing.assert_array_equal(found, images.labels)


def test_two_classes_of_one_name_are_refused_only_where_one_is_chosen(wide, images):
    names = ["crane", "cat", "crane", *TEACHERS[3:]]
    store = wide(class_names=names)
    assert joined(images, store, classes="images").num_classes == 3
    with pytest.raises(ClassNamesError, match="has two classes of the name 'crane'"):
        joined(images, store, classes=[*OURS, "crane"])


def test_folders_that_the_teacher_does_not_name_hear_of_the_map(wide, images, tmp_path):
    other = scan(helpers.draw_directory(tmp_path / "other", {"insect": 3, "cat": 3}))
    teacher = helpers.EncodingTeacher(num_classes=10)
    with pytest.raises(ClassNamesError) as refusal:
        helpers.teach_small(other, teacher, tmp_path / "s.h5", class_names=TEACHERS)
    assert teacher.num_calls == 0
    assert "unknown to the teacher: 'insect'\n" in str(refusal.value)
    assert str(refusal.value).endswith(
        "Teach with `--labels none` if the teacher knows only some of your classes. If several of "
        "the teacher's classes are one of yours, teach with `--labels none`, and "
        "train with `--teacher-class-map FILE.json`."
    )
    renamed = kd.Manifest(
        images.root, images.keys, images.labels, class_names=["insect", "bee", "cat"]
    )
    with pytest.raises(ClassNamesError) as refusal:
        joined(renamed, wide())
    assert str(refusal.value).endswith("say which: `--teacher-class-map FILE.json`.")


def test_a_map_that_mixes_classes_up_is_warned_of(wide, images):
    store = wide()
    wrong = {"ant": "bee", "bee": "cat", "cat": "ant"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        joined(images, store, teacher_class_map=wrong)
    assert {warning.message.code for warning in caught} == {
        "teacher_at_chance",
        "teacher_accuracy_changed",
    }
    text = str(next(w.message for w in caught if w.message.code == "teacher_at_chance"))
    assert text.startswith(
        f"Among the student's 3 classes, the teacher of {store.path} is right on 0.0% of 30 images"
    )


def test_a_group_may_be_right_more_often_than_its_classes(wide, images):
    options = {"classes": ["small", "large"], "class_map": MAP}
    columns = choose_columns(store := wide(), images, **options)
    labels = np.repeat(np.array([0, 1], np.int32), [20, 10])
    low = types.SimpleNamespace(
        summary={"teacher_accuracy": 0.5}, path="s.h5", gather=store.gather, header=store.header
    )
    check_accuracy(labels, np.arange(30), low, columns)  # all right, and no warning
    with pytest.warns(kd.StreamkdWarning) as caught:
        check_accuracy(1 - labels, np.arange(30), low, columns)
    codes = [warning.message.code for warning in caught]
    assert codes == ["teacher_at_chance", "teacher_accuracy_changed"]


def test_logits_that_the_codec_did_not_keep_are_told(wide, images):
    store = wide(codec="packed:0+2")
    others = ["gnu", "elk", "hen"]
    with pytest.warns(kd.StreamkdWarning) as caught:
        stream = joined(scan(images.root, labels=None), store, classes=others)
    logits = store.gather(stream.rows)[:, [5, 8, 9]]
    equal = np.mean(np.ptp(logits, axis=1) == 0)
    assert equal > 0.3 and [w.message.code for w in caught] == ["equal_answers"]
    assert str(caught[0].message) == (
        f"For {equal:.1%} of 30 joined images, {store.path} has one and the same logit for all "
        "classes of the teacher that the student learns, and so says nothing of them. The codec "
        "packed:0+2 keeps the largest logits best; teach with `--codec float16`."
    )


def test_a_teacher_that_gives_the_class_alone_says_nothing_of_the_others(images, tmp_path):
    one_hot = np.where(np.arange(10) == 1, 0, np.float32(-16.1))
    store = kd.write_store(
        images,
        tmp_path / "s.h5",
        lambda batch: np.repeat(one_hot[None], len(batch.keys), axis=0),
        teacher="class",
        class_names=TEACHERS,
        progress=False,
    )
    unlabelled, options = scan(images.root, labels=None), {"image_size": (8, 8)}
    with pytest.warns(kd.StreamkdWarning, match=r"Does the teacher answer with the class alone"):
        joined(unlabelled, store, classes=["ant", "bee"], **options)
    joined(unlabelled, store, classes=["ant", "cat"], **options)


def test_two_names_of_one_column_are_no_columns_to_choose_from(images):
    store = types.SimpleNamespace(path="s.h5", class_names=["no", "yes"], num_classes=1)
    with pytest.raises(OptionError) as refusal:
        choose_columns(store, images, classes=["yes", "no"])
    assert str(refusal.value) == (
        "The store s.h5 has 1 columns and 2 class names, so its columns cannot be chosen by name.\n"
        "Let the student learn all of them."
    )


def test_probabilities_of_independent_classes_are_not_added(wide, images):
    store = wide()
    store.header.teacher["removed"] = "sigmoid"
    with pytest.raises(OptionError, match=r"do not exclude each other, so their probabilities"):
        joined(scan(images.root, labels=None), store, teacher_class_map=MAP)
    assert joined(images, store, classes="images").num_classes == 3


# Runs and evaluations.


def test_a_run_keeps_its_choice_and_evaluate_repeats_it(wide, images, tmp_path):
    store, run = wide(), tmp_path / "run"
    ours = {"ant": "ant", "bee": "bee", "hen": "bee", "cat": "cat", "emu": "cat"}
    groups = [[3], [6, 9], [1, 2]]
    stream = joined(images, store, teacher_class_map=ours)
    distiller, _ = fit(stream, run=run, validation=images)
    again = {"run": run, "validation": images}
    config = json.loads((run / "config.json").read_text())
    assert config["class_names"] == OURS
    assert config["teacher_classes"] == [
        ["ant", ["ant"]],
        ["bee", ["bee", "hen"]],
        ["cat", ["cat", "emu"]],
    ]
    everything = joined(images, None, image_size=(8, 8), batch_size=30, shuffle=False)
    batch, numbers, classes = batch_of(everything)
    kernel, bias = distiller.student.get_weights()
    student = batch["pixels"].reshape(30, -1).astype(np.float64) / 255 @ kernel + bias
    teacher = grouped(own_logits(numbers, classes), groups)
    report = evaluate(run, images, store=store, progress=False)
    assert report.agreement == np.mean(student.argmax(1) == teacher.argmax(1))
    assert report.kl_to_teacher == pytest.approx(
        distillation(teacher, student, 1.0).mean(), rel=1e-4
    )
    assert report.teacher_accuracy == np.mean(teacher.argmax(1) == classes)
    assert report.nll == pytest.approx(cross_entropy(classes, student).mean(), rel=1e-4)
    by_name = evaluate(run / "student.keras", images, store=store, progress=False)
    plain = own_logits(numbers, classes)[:, COLUMNS]
    assert by_name.kl_to_teacher == pytest.approx(
        distillation(plain, student, 1.0).mean(), rel=1e-4
    )
    # The same classes of another order of the map resume; another choice is another run.
    fit(joined(images, store, teacher_class_map=dict(reversed(ours.items()))), **again)
    with pytest.raises(ResumeError, match="teacher_classes"):
        fit(joined(images, store, classes="images"), **again)
    # The store of another teacher, which names its classes as the student does.
    names = [name if name in OURS else name.upper() for name in TEACHERS]
    other = write(images, tmp_path / "other.h5", class_names=names)
    report = evaluate(run, images, store=other, progress=False)
    assert report.kl_to_teacher == by_name.kl_to_teacher
    config["teacher_classes"] = [["ant", 3]]
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(StudentError, match=r"its entry 'teacher_classes' does not pair"):
        evaluate(run, images, store=store, progress=False)


def test_a_student_of_the_images_classes_is_told_of_them(wide, images):
    with pytest.raises(StudentError) as refusal:
        Distiller(dense_student()).fit(joined(images, wide()), epochs=1, progress=False)
    assert str(refusal.value).endswith(
        "Give a student with 10 outputs.\nIf its outputs are the classes of the images, 'ant', "
        "'bee', 'cat', take the teacher's columns of these classes: `--classes images`."
    )
    with pytest.raises(StudentError) as refusal:
        Distiller(dense_student(num_classes=4)).fit(joined(images, wide()), epochs=1)
    assert str(refusal.value).endswith("Give a student with 10 outputs.")


# The command line.


@pytest.fixture
def written(wide, images, tmp_path):
    """A directory with the images, their wide store, and a student of three classes."""
    wide()
    dense_student().save(tmp_path / "student.keras")
    return tmp_path


def train(folder, *words):
    flags = ["--store", folder / "wide.h5", "--student", folder / "student.keras"]
    more = ["--epochs", 1, "--optimizer", "sgd", "--batch-size", 8, "--jit", "off"]
    return ["train", folder / "images", *flags, "--out", folder / "run", *more, *words]


def test_train_and_evaluate_take_the_columns_of_the_images(written, capsys):
    words = refused(capsys, *train(written))
    assert "take the teacher's columns of these classes: `--classes images`." in words
    assert not (written / "run").exists()
    code, answer, _ = command(capsys, *train(written, "--classes", "images"))
    assert code == 0 and answer["agreement"] is not None
    named = written / "names.txt"
    named.write_text("bee\nant\ncat\n")
    words = refused(capsys, *train(written, "--classes", named))
    assert "teacher_classes" in words  # another order is another run
    evaluation = ["evaluate", written / "run", written / "images", "--store", written / "wide.h5"]
    code, answer, _ = command(capsys, *evaluation)
    assert (code, answer["teacher_accuracy"]) == (0, 1.0)
    code, shown, _ = command(capsys, "inspect", written / "wide.h5")
    assert (shown["num_classes"], shown["num_class_names"]) == (10, 10)


def test_a_map_is_read_from_a_file_as_every_class_map(written, capsys):
    path = written / "map.json"
    words = train(written, "--teacher-class-map", path)
    path.write_text('{"ant": "ant", "ant": "bee", "cat": "cat"}')
    assert refused(capsys, *words).startswith(
        f"The teacher class map '{path}' cannot be read: it names 'ant' twice."
    )
    path.write_text(
        json.dumps({"ant": "ant", "bee": "bee", "cat": "cat", "owl": None}), "utf-8-sig"
    )
    evaluation = ["evaluate", written / "student.keras", written / "images"]
    assert "there is no store" in refused(capsys, *evaluation, "--teacher-class-map", path)
    code, _, _ = command(
        capsys, *evaluation, "--teacher-class-map", path, "--store", written / "wide.h5"
    )
    assert code == 0


def test_the_flags_name_the_file_that_cannot_be_read(tmp_path):
    with pytest.raises(OptionError, match=r"^--classes '.*none\.txt' cannot be read: No such file"):
        files.read_classes(str(tmp_path / "none.txt"))
    with pytest.raises(OptionError, match=r"^The teacher class map '.*' cannot be read: No such"):
        files.read_teacher_class_map(str(tmp_path / "none.json"))
    assert files.read_classes("images") == "images" and files.read_classes(None) is None
    assert files.read_teacher_class_map(None) is None
