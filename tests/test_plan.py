"""The plan: divergences against float64 sums, bytes against real files, refusals."""

from __future__ import annotations

import itertools
import json
import math
import shutil

import h5py
import helpers
import numpy as np
import pytest
from process_helpers import finished

import streamkd as kd
from streamkd.cli.main import main
from streamkd.errors import OptionError, OtherImagesError, StoreError, TeacherError
from streamkd.store import codecs
from streamkd.store.codecs import fidelity
from streamkd.teachers import plan
from streamkd.teachers.teach import teach
from streamkd.views.views import Views

NUM_CLASSES = 60


class WideTeacher:
    """Answers with 60 logits that depend on the image alone, the largest at its label."""

    def __call__(self, images):
        numbers_and_labels = helpers.pixel_numbers(images).astype(int)
        return np.stack([self.logits_of(number, label) for number, label in numbers_and_labels])

    @staticmethod
    def logits_of(number: int, label: int) -> np.ndarray:
        logits = np.random.default_rng(number).normal(0, 2, NUM_CLASSES)
        logits[label] += 9
        return logits.astype(np.float32)


CLASSES = ["ant", "bee", "cat", *(f"other {n}" for n in range(3, NUM_CLASSES))]


def wide_store(images, path, **arguments):
    return teach(
        images,
        WideTeacher(),
        path,
        image_size=(8, 8),
        batch_size=7,
        class_names=CLASSES,
        progress=False,
        **{"codec": "float32", **arguments},
    )


@pytest.fixture(scope="module")
def taught_wide(tmp_path_factory):
    """Path of a store of images like those of `images`, taught once by a `WideTeacher`."""
    root = tmp_path_factory.mktemp("wide")
    images = kd.scan(helpers.draw_directory(root / "images", helpers.COUNTS))
    return wide_store(images, root / "wide.h5").path


@pytest.fixture
def wide(taught_wide, tmp_path):
    """A copy of that store."""
    return kd.open_store(shutil.copyfile(taught_wide, tmp_path / "wide.h5"))


def plain_divergence(true, rebuilt, temperature):
    """Returns KL(true ‖ rebuilt) of one row, with Python's own sums."""
    exponentials = [[math.exp(z / temperature) for z in row.tolist()] for row in (true, rebuilt)]
    p, q = ([x / math.fsum(row) for x in row] for row in exponentials)
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("name", ["float16", "packed:8", "packed:3+8", "packed:0+9"])
def test_fidelity_agrees_with_plain_sums(name):
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (5, 40)).astype(np.float32)
    codec = codecs.get(name)
    rebuilt = codec.decode(codec.encode(logits), 40)
    measured = fidelity.measure(codec, logits)
    for temperature in (1, 2, 4, 20):
        rows = [plain_divergence(*pair, temperature) for pair in zip(logits, rebuilt, strict=True)]
        assert measured.divergences[temperature] == pytest.approx(
            np.mean(rows), rel=1e-6, abs=1e-15
        )
    assert measured.agreement == np.mean(rebuilt.argmax(axis=1) == logits.argmax(axis=1))


def test_fidelity_of_many_rows_is_that_of_its_parts(monkeypatch):
    logits = np.random.default_rng(5).normal(0, 3, (50, 12)).astype(np.float32)
    whole = fidelity.measure(codecs.get("packed:4"), logits)
    monkeypatch.setattr(fidelity, "_NUMBERS_AT_ONCE", 12 * 7)
    parts = fidelity.measure(codecs.get("packed:4"), logits)
    assert parts.divergences == pytest.approx(whole.divergences, rel=1e-12)
    assert parts.agreement == whole.agreement


def test_nothing_is_lost_in_float32_and_confident_rows_stay_finite():
    logits = np.array([[300.0, -300.0, 0.0, 1.0]], np.float32)
    assert set(fidelity.measure(codecs.get("float32"), logits).divergences.values()) == {0.0}
    lost = fidelity.measure(codecs.get("packed:2+1"), logits).divergences
    assert all(math.isfinite(kl) and kl >= 0 for kl in lost.values())


def test_a_plan_from_a_store_measures_the_rows_of_the_store(images, wide):
    report = kd.plan(images, store=wide.path, progress=False)
    assert (report["num_sampled"], report["num_classes"]) == (30, NUM_CLASSES)
    logits = wide.gather(np.arange(30))
    for entry in report["codecs"]:
        codec = codecs.get(entry["codec"])
        rebuilt = codec.decode(codec.encode(logits), NUM_CLASSES)
        rows = [plain_divergence(*pair, 2) for pair in zip(logits, rebuilt, strict=True)]
        assert entry["kl"]["2"] == pytest.approx(np.mean(rows), rel=1e-6, abs=1e-15)
    assert report["hours"] is report["seconds_per_row"] is None


def test_a_plan_reads_as_attributes_and_as_keys_and_becomes_json(images, wide):
    report = kd.plan(images, store=wide, codecs=["float16", "packed:4"])
    assert report.recommended == report["recommended"] and report.num_views == 1
    assert [entry.codec for entry in report.codecs] == ["packed:4", "float16"]
    assert report.codecs[0].kl == report["codecs"][0]["kl"]
    assert json.loads(json.dumps(report)) == report == report.to_dict()
    with pytest.raises(AttributeError):
        report.max_kl = 1.0


def test_codecs_stand_in_the_order_of_their_bytes_and_those_that_keep_most_are_left_out(
    images, wide
):
    names = [entry["codec"] for entry in kd.plan(images, store=wide)["codecs"]]
    assert names == [
        *("packed:4", "packed:3+8", "packed:4+16", "packed:3+28"),
        *("packed:8", "packed:8+1", "float16", "float32"),
    ]


@pytest.mark.parametrize("codec", ["float32", "float16", "packed:8", "packed:3+2", "packed:0+1"])
def test_the_bytes_of_a_plan_are_those_of_the_file(images, store, teacher, tmp_path, codec):
    (entry,) = kd.plan(images, store=store, codecs=[codec])["codecs"]
    path = tmp_path / "real.h5"
    teach(images, teacher, path, image_size=(8, 8), codec=codec, progress=False)
    with h5py.File(path, "r") as file:
        assert entry["num_bytes"] == file.userblock_size + sum(file[name].nbytes for name in file)
        logits = set(file) & {"logits", "scale", "packed", "kept_distances", "kept_classes"}
        assert entry["row_bytes"] == sum(file[name].nbytes for name in logits) / 30
    assert entry["bytes_per_image"] == entry["num_bytes"] / 30
    assert 0 < path.stat().st_size - entry["num_bytes"] < 200_000


def test_views_multiply_the_rows(images, wide):
    plain, views = (kd.plan(images, store=wide, views=n, codecs=["float16"]) for n in (0, 8))
    assert (plain["num_views"], views["num_views"], views["rows_total"]) == (1, 9, 270)
    (one,), (nine,) = plain["codecs"], views["codecs"]
    # Of a row: its logits, its checksum, whether it is done; and of a view its crop and flip.
    row = 2 * NUM_CLASSES + 5
    assert nine["num_bytes"] - one["num_bytes"] == 30 * (8 * row + 9 * 17)
    mixed = kd.plan(images, store=wide, views=Views(8, mixup=0.8), codecs=["float16"])["codecs"]
    assert mixed[0]["num_bytes"] - one["num_bytes"] == 30 * (8 * row + 9 * 12)


def test_the_smallest_codec_under_the_limit_is_recommended(images, wide):
    entries = kd.plan(images, store=wide)["codecs"]
    worst = {entry["codec"]: max(entry["kl"].values()) for entry in entries}
    for limit in (1.0, 0.02, 1e-3, 1e-5, 1e-12):
        fitting = [entry for entry in entries if worst[entry["codec"]] <= limit]
        expected = min(fitting, key=lambda entry: entry["row_bytes"])["codec"]
        assert kd.plan(images, store=wide, max_kl=limit)["recommended"] == expected
    assert kd.plan(images, store=wide, max_kl=1e-12)["recommended"] == "float32"
    only = kd.plan(images, store=wide, codecs=["packed:2"], max_kl=1e-12)
    assert only["recommended"] == "float32"


def test_the_teacher_is_asked_about_a_sample_and_timed_without_its_first_batch(images):
    # One second a batch, but 100 for the first.
    ticks = itertools.chain([0.0, 100.0], itertools.count(101.0))
    report = kd.plan(
        images,
        teacher=WideTeacher(),
        sample=20,
        views=1,
        batch_size=8,
        image_size=(8, 8),
        class_names=CLASSES,
        progress=False,
        clock=lambda: next(ticks),
    )
    assert (report["num_sampled"], report["teacher"]) == (20, "WideTeacher")
    assert report["seconds_per_row"] == pytest.approx(2 / 12)
    assert report["hours"] == pytest.approx(60 * 2 / 12 / 3600)


def test_teacher_and_store_lead_to_the_same_plan(images, wide):
    asked = kd.plan(
        images,
        teacher=WideTeacher(),
        batch_size=7,
        image_size=(8, 8),
        class_names=CLASSES,
        progress=False,
    )
    assert asked["codecs"] == kd.plan(images, store=wide)["codecs"]


def test_an_unfinished_store_is_enough(images, tmp_path):
    class Tired(WideTeacher):
        num_calls = 0

        def __call__(self, pixels):
            self.num_calls += 1
            if self.num_calls > 3:  # the first images are asked about twice
                raise helpers.TeacherFailedError
            return super().__call__(pixels)

    path = tmp_path / "some.h5"
    with pytest.raises(helpers.TeacherFailedError):
        teach(
            images,
            Tired(),
            path,
            image_size=(8, 8),
            batch_size=7,
            class_names=CLASSES,
            progress=False,
        )
    report = kd.plan(images, store=path)
    assert report["num_sampled"] == 14


def test_logits_too_large_for_a_codec_are_no_reason_to_fail(images, tmp_path):
    store = wide_store(images, tmp_path / "large.h5")
    large = kd.load_teacher(lambda pixels: WideTeacher()(pixels) * 1e5, name="large")
    report = kd.plan(
        images,
        teacher=large,
        image_size=(8, 8),
        class_names=store.class_names,
        codecs=["packed:8", "float32"],
        progress=False,
    )
    assert [entry["kl"] is None for entry in report["codecs"]] == [True, False]
    assert report["recommended"] == "float32"
    assert "logits too large for it" in plan.describe(report)


def test_a_packed_store_cannot_tell_what_it_lost(images, tmp_path):
    store = wide_store(images, tmp_path / "packed.h5", codec="packed:3+5")
    words = r"holds logits as packed:3\+5, and the loss .* exact logits\.\n.*--teacher T"
    with pytest.raises(StoreError, match=words):
        kd.plan(images, store=store)


def test_a_store_of_other_images_is_refused(directory, images, wide):
    for file in directory.glob("*/*"):
        file.rename(file.with_name("x" + file.name))
    with pytest.raises(OtherImagesError, match=r"no logits of the images .*\n.*30 drawn\n.*30 im"):
        kd.plan(kd.scan(directory), store=wide)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give one of --store S.h5 and --teacher T"),
        ({"teacher": WideTeacher(), "store": "wide.h5"}, "give one of --store"),
        ({"store": "wide.h5", "views": -1}, "--views is -1"),
        ({"store": "wide.h5", "sample": 0}, "--sample is 0"),
        ({"store": "wide.h5", "max_kl": 0.0}, "--max-kl is 0.0"),
        ({"store": "wide.h5", "codecs": ["packed:3+60"]}, "keeps 60 logits, and there are 60 cl"),
    ],
    ids=["no source", "two sources", "views", "sample", "limit", "codec"],
)
def test_arguments_that_fit_no_plan_are_refused(
    images, wide, monkeypatch, tmp_path, arguments, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=message):
        kd.plan(images, **arguments)


def test_a_teacher_of_other_classes_is_refused(images):
    with pytest.raises(TeacherError, match="has 60 outputs, and there are 3 classes"):
        kd.plan(images, teacher=WideTeacher(), image_size=(8, 8), progress=False)


def test_the_command_answers_with_its_keys_and_as_a_table(directory, wide, capsys):
    words = ["plan", str(directory), "--views", "2", "--store", wide.path]
    assert main([*words, "--json", "--codecs", "float16", "packed:4+16"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {
        *("num_images", "num_views", "rows_total", "num_classes", "num_sampled", "teacher"),
        *("seconds_per_row", "hours", "max_kl", "recommended", "codecs"),
    }
    assert [set(entry) for entry in report["codecs"]] == 2 * [
        {"codec", "row_bytes", "bytes_per_image", "num_bytes", "kl", "agreement"}
    ]
    assert list(report["codecs"][0]["kl"]) == ["1", "2", "4", "20"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert text.startswith("30 images, 3 rows an image, 60 classes; measured on 30 answers of Wide")
    assert f"recommended: {report['recommended']}" in text or "recommended: packed" in text


def test_a_plan_from_a_store_needs_no_tensorflow(directory, wide):
    code = (
        "import sys, streamkd.cli.main as m\n"
        f"assert m.main(['plan', {str(directory)!r}, '--store', {wide.path!r}, '--json']) == 0\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    finished("-c", code)


@pytest.mark.parametrize("codec", ["packed:3+8", "packed:0+9"])
def test_shards_of_a_packed_pass_hold_the_rows_of_the_undivided_pass(images, tmp_path, codec):
    whole = wide_store(images, tmp_path / "whole.h5", codec=codec)
    paths = [tmp_path / f"{number}.h5" for number in (1, 2)]
    for number, path in enumerate(paths, 1):
        wide_store(images, path, codec=codec, shard=(number, 2))
    merged = kd.merge(paths, tmp_path / "merged.h5", progress=False).store
    assert merged.digest_of_rows() == whole.digest_of_rows()
    assert np.array_equal(merged.gather(np.arange(30)), whole.gather(np.arange(30)))


def test_shards_read_as_one_are_planned_from_like_one_store(images, wide, tmp_path):
    paths = [tmp_path / f"{number}.h5" for number in (1, 2)]
    for number, path in enumerate(paths, 1):
        wide_store(images, path, shard=(number, 2))
    kd.merge(paths, tmp_path / "all.index", index=True, progress=False)
    assert kd.plan(images, store=tmp_path / "all.index") == kd.plan(images, store=wide)


@pytest.mark.parametrize("codec", ["packed:3+8", "packed:8"])
def test_a_packed_pass_resumes_and_refuses_another_teacher(images, tmp_path, codec):
    path = tmp_path / "packed.h5"
    before = wide_store(images, path, codec=codec)
    rows = before.gather(np.arange(30))
    assert wide_store(images, path, codec=codec).gather(np.arange(30)).tobytes() == rows.tobytes()
    other = kd.load_teacher(lambda pixels: 1.1 * WideTeacher()(pixels), name="WideTeacher")
    with pytest.raises(StoreError, match="answers differ from"):
        teach(
            images,
            other,
            path,
            image_size=(8, 8),
            batch_size=7,
            class_names=CLASSES,
            codec=codec,
            progress=False,
        )
