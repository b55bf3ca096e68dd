"""Students of several teachers: joined, trained, resumed, evaluated; and the flags for it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from ensemble_helpers import OURS, answers_of, log_softmax, write_teacher
from helpers import COUNTS, draw_directory
from resume_helpers import after
from run_helpers import command, dense_student, fit, refusal
from stream_helpers import joined

import streamkd as kd
from streamkd.cli import store_flags
from streamkd.errors import MissingLogitsError, OptionError, ResumeError
from streamkd.manifest.manifest import scan
from streamkd.views.views import Views

VIEWS = Views(2, crop=(0.35, 1), flip=True, seed=5)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A directory of 30 images, stores of three teachers of all of them, and of one of 20."""
    root = tmp_path_factory.mktemp("ensemble")
    images = scan(draw_directory(root / "images", COUNTS))
    for seed, name in enumerate("abc"):
        write_teacher(root / f"{name}.h5", images, seed=seed, labels=images.labels)
    write_teacher(root / "part.h5", images.select(np.arange(5, 25)), seed=7)
    for seed, name in enumerate("vw"):
        options = {"labels": images.labels, "views": VIEWS}
        write_teacher(root / f"{name}.h5", images, seed=seed, **options)
    dense_student().save(root / "student.keras")
    return root


@pytest.fixture
def images(root):
    return scan(root / "images")


@pytest.fixture
def at_root(root, monkeypatch):
    monkeypatch.chdir(root)
    return root


def rows_of(stream, num_steps):
    """Returns the rows and the teacher's logits of the first steps."""
    batches = [targets for _, targets, _ in stream.batches(0, num_steps)]
    return (
        np.concatenate([targets["rows"] for targets in batches]),
        np.concatenate([targets["teacher_logits"] for targets in batches]),
    )


def test_a_stream_has_the_combined_answers_of_its_images(root, images):
    paths = [root / "a.h5", root / "b.h5"]
    stream = joined(images, paths, weights=[0.7, 0.3])
    rows, logits = rows_of(stream, 8)
    first, second = (log_softmax(answers_of(path))[rows] for path in paths)
    expected = log_softmax(0.7 * first + 0.3 * second)
    np.testing.assert_allclose(log_softmax(logits), expected, atol=1e-5)
    mapped = joined(images, {str(root / "a.h5"): 0.7, str(root / "b.h5"): 0.3})
    assert np.array_equal(rows_of(mapped, 8)[1], logits)
    opened = joined(images, kd.combine_stores(paths, [0.7, 0.3]))
    assert np.array_equal(rows_of(opened, 8)[1], logits)


def test_a_stream_shows_the_views_that_all_teachers_answered(root, images):
    alone = joined(images, root / "v.h5")
    stream = joined(images, [root / "v.h5", root / "w.h5"], rule="probabilities")
    for (pixels, targets, _), (expected, single, _) in zip(
        stream.batches(0, 9), alone.batches(0, 9), strict=True
    ):
        assert np.array_equal(pixels, expected)
        assert np.array_equal(targets["rows"], single["rows"])


def test_a_teacher_that_lacks_images_is_named(root, images):
    paths = [root / "a.h5", root / "part.h5"]
    with pytest.raises(MissingLogitsError, match="10 of 30 images have no logits") as caught:
        joined(images, paths)
    words = str(caught.value)
    assert f"store:  {root / 'part.h5'} (20 images" in words
    assert f"--out {root / 'part.h5'}" in words and "`--missing drop`" in words
    assert caught.value.key == images.keys[0]
    with pytest.warns(UserWarning, match="10 of 30 images have no logits and are left out"):
        assert len(joined(images, paths, missing="drop").rows) == 20
    with pytest.warns(UserWarning, match="learn from their labels alone"):
        labelled = joined(images, paths, missing="label")
    assert (labelled.rows >= 0).sum() == 20


def test_a_renamed_image_keeps_its_answers(root, tmp_path):
    shutil.copytree(root / "images", tmp_path / "images")
    first = next((tmp_path / "images" / "ant").iterdir())
    first.rename(first.with_name("renamed.png"))
    stream = joined(scan(tmp_path / "images"), [root / "a.h5", root / "b.h5"])
    assert (stream.rows >= 0).all() and len(np.unique(stream.rows)) == 30


def test_a_run_does_not_go_on_with_other_teachers_or_weights(root, images, tmp_path):
    paths = [root / "a.h5", root / "b.h5"]
    options = {"epochs": 2, "steps_per_call": 1}
    stream = joined(images, paths, weights=[0.7, 0.3])
    fit(stream, run=tmp_path / "run", stop=after(3), **options)
    others = {
        '{"weight": 0.7}': joined(images, paths, weights=[0.6, 0.4]),
        '"logits"': joined(images, paths, weights=[0.7, 0.3], rule="probabilities"),
        '"name": "a + b"': joined(images, root / "a.h5"),
        '"name": "a + b + c"': joined(images, [*paths, root / "c.h5"], weights=[0.4, 0.3, 0.3]),
    }
    for words, other in others.items():
        with pytest.raises(ResumeError, match="started with another store") as caught:
            fit(other, run=tmp_path / "run", **options)
        assert words in str(caught.value)
    again = joined(images, dict(zip(map(str, paths), [0.7, 0.3], strict=True)))
    _, history = fit(again, run=tmp_path / "run", **options)
    assert history.last["step"] == 2 * 30 // 4


def test_train_and_evaluate_take_several_stores(at_root, tmp_path, capsys):
    stores = ["--store=a.h5=0.7", "--store=b.h5=0.3", "--combine", "probabilities"]
    train = ["train", "images", "--student", "student.keras", "--out", tmp_path / "run"]
    train += ["--batch-size", "6", "--jit", "off", "--optimizer", "sgd", "--epochs", "1"]
    code, answer, _ = command(capsys, *train, *stores)
    assert code == 0, answer
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["arguments"]["store"] == ["a.h5=0.7", "b.h5=0.3"]
    combination = config["store"]["teacher"]["teachers"]
    assert combination["rule"] == "probabilities"
    assert [combination["members"][n]["weight"] for n in "12"] == [0.7, 0.3]
    words = refusal(capsys, *train, "--store=a.h5=0.6", "--store=b.h5=0.4", *stores[2:])
    assert "started with another store" in words and '{"weight": 0.6}' in words
    code, answer, _ = command(capsys, "evaluate", tmp_path / "run", "images", *stores)
    assert code == 0 and answer["kl_to_teacher"] > 0
    expected = kd.evaluate(
        tmp_path / "run",
        "images",
        store=kd.combine_stores(["a.h5", "b.h5"], [0.7, 0.3], "probabilities"),
        progress=False,
    )
    assert answer["kl_to_teacher"] == pytest.approx(expected["kl_to_teacher"])


class TestMerge:
    def test_the_combined_answers_are_written(self, at_root, tmp_path, capsys):
        out = tmp_path / "all.h5"
        words = ["merge", "--combine", "a.h5=0.7", "b.h5=0.3", "--out", out, "--codec", "float32"]
        code, answer, _ = command(capsys, *words)
        assert code == 0 and (answer["num_superseded"], answer["num_dropped"]) == (0, 0)
        assert answer["combination"]["members"]["2"]["weight"] == 0.3
        combination = kd.combine_stores(["a.h5", "b.h5"], [0.7, 0.3])
        rows = np.arange(30)
        assert np.array_equal(kd.open_store(out).gather(rows), combination.gather(rows))
        before = out.read_bytes()
        assert command(capsys, *words)[0] == 0 and out.read_bytes() == before

    def test_some_images_under_another_rule_and_codec(self, at_root, tmp_path, capsys):
        words = ["merge", "a.h5", "b.h5", "--combine", "probabilities", "--out", tmp_path / "s.h5"]
        words += ["--images", "images", "--subset", "validation", "--validation-split", "0.2"]
        code, answer, _ = command(capsys, *words)
        assert code == 0 and answer["codec"] == "float16"
        assert (answer["num_images"], answer["num_dropped"]) == (6, 24)
        assert answer["combination"]["rule"] == "probabilities"

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["a.h5", "b.h5", "--codec", "float32"], "--codec is for the combined answers"),
            (["a.h5", "b.h5", "--dustbin", "ant"], "--dustbin is for the combined answers"),
            (["a.h5", "b.h5", "--combine", "--index"], "--index copies no rows, and --combine"),
            (["a.h5", "b.h5", "--combine", "mean"], "--combine is 'mean'; choose one of auto"),
            (["a.h5", "--combine", "logits"], "--combine combines several stores, and there is"),
            (["a.h5=1", "b.h5=1", "--combine"], "1 + 1 = 2"),
            (["a.h5", "b.h5", "--combine", "--dustbin", "x"], "--dustbin is 'x', and no store has"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, at_root, tmp_path, capsys, words, message):
        assert message in refusal(capsys, "merge", *words, "--out", tmp_path / "s.h5")
        assert not (tmp_path / "s.h5").exists()


class TestStoreFlags:
    """`--store S.h5=WEIGHT`."""

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("a.h5", ("a.h5", None)),
            ("a.h5=0.7", ("a.h5", 0.7)),
            ("a.h5=1e-1", ("a.h5", 0.1)),
            ("lr=3/a.h5=0.7", ("lr=3/a.h5", 0.7)),
            ("lr=0.5", ("lr=0.5", None)),
            ("gone=x/a.h5", ("gone=x/a.h5", None)),
        ],
    )
    def test_a_path_and_a_weight(self, tmp_path, monkeypatch, text, expected):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "lr=0.5").touch()
        assert store_flags.path_and_weight(text) == expected

    def test_weights_by_class_are_read_from_a_file(self, at_root, tmp_path):
        shares = {"ant": 1, "bee": 0.25, "cat": 0}
        files = [tmp_path / "one.json", tmp_path / "two.json"]
        files[0].write_text(json.dumps(shares))
        files[1].write_text(json.dumps({name: 1 - share for name, share in shares.items()}))
        texts = [f"{name}.h5={file}" for name, file in zip("ab", files, strict=True)]
        store = store_flags.combined(texts, None, None)
        weights = store.header.teacher["teachers"]["members"]["1"]["weight"]
        assert weights == [shares[name] for name in OURS]

    @pytest.mark.parametrize(
        ("weight", "message"),
        [
            ("half", "The weight of a.h5 is 'half', and is no number"),
            ("nan", "The weight of a.h5 is 'nan', and is no number"),
            ("none.json", "The weights by class, none.json, cannot be read: No such file"),
            ("list.json", "The weights by class, list.json, are a list, not an object"),
            ("-1", "The weight of a.h5 is -1.0; a weight is a number from 0 to 1"),
        ],
    )
    def test_a_weight_that_is_none_is_refused(self, at_root, tmp_path, capsys, weight, message):
        (at_root / "list.json").write_text("[1]")
        words = ["merge", f"a.h5={weight}", "b.h5=1", "--combine", "--out", tmp_path / "s.h5"]
        assert message in refusal(capsys, *words)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--combine", "logits"], "--combine combines stores, and there is none"),
            (["--dustbin", "ant"], "--dustbin combines stores, and there is none"),
            (["--store=a.h5", "--combine", "auto"], "several stores, and there is one, a.h5"),
            (["--store=a.h5=0.5"], "a.h5 is the only store, and has a weight"),
            (["--store=a.h5", "--store=a.h5"], "The store a.h5 is given twice."),
            (["--store=a.h5", "--store=none.h5"], "There is no logit store none.h5"),
        ],
    )
    def test_stores_that_do_not_fit_are_refused(self, at_root, tmp_path, capsys, words, message):
        train = ["train", "images", "--student", "student.keras", "--out", tmp_path / "run"]
        assert message in refusal(capsys, *train, *words)
        assert not (tmp_path / "run").exists()

    def test_a_file_of_flags_lists_stores(self, at_root, tmp_path, capsys):
        (tmp_path / "f.toml").write_text('[evaluate]\nstore = ["a.h5=0.5", "b.h5=0.7"]\n')
        words = ["evaluate", "student.keras", "images", "--config", tmp_path / "f.toml"]
        assert "0.5 + 0.7 = 1.2" in refusal(capsys, *words)

    def test_the_dustbin_is_of_the_stores_that_have_it(self, at_root):
        store = store_flags.combined(["a.h5", "b.h5"], None, "cat", ["b.h5=4"])
        assert store.class_names == ["ant", "bee"]
        assert [member.dustbin for member in store.members] == ["cat", "cat"]
        assert [member.oversampling for member in store.members] == [1, 4]

    @pytest.mark.parametrize(
        ("dustbin", "ratios", "message"),
        [
            (None, ["b.h5=4"], "corrects the dustbin of a store, and none is named"),
            ("cat", ["c.h5=4"], r"names c.h5, which is none of the stores.\n  stores: a.h5, b.h5"),
            ("cat", ["b.h5=x"], "--oversampling is 'b.h5=x'; write it as S.h5=RATIO, such as"),
            ("cat", ["4"], "--oversampling is '4'; write it as"),
            ("cat", ["b.h5=-1"], "oversampling is -1.0; it must be a positive number"),
            ("cat", ["b.h5=4", "b.h5=3"], "--oversampling is given twice for b.h5"),
        ],
    )
    def test_a_ratio_that_does_not_fit_is_refused(self, at_root, dustbin, ratios, message):
        with pytest.raises(OptionError, match=message):
            store_flags.combined(["a.h5", "b.h5"], None, dustbin, ratios)
