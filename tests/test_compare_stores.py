"""The comparison of several stores: every number against NumPy over all rows at once."""

from __future__ import annotations

import json

import numpy as np
import pytest
from store_helpers import content_of, header_of, keys_of

import streamkd as kd
from streamkd.cli.main import main
from streamkd.ensemble import compare_stores as module
from streamkd.ensemble.comparison import as_text
from streamkd.errors import OptionError, OtherImagesError, StoreError
from streamkd.store.creation import create_store
from streamkd.store.writer import StoreWriter

NUM_IMAGES = 90
CLASSES = ["ant", "bee", "cat", "dog", "emu"]
FIRST, SECOND = ["cat", "ant", "bee", "dog"], ["bee", "cat", "emu"]
LABELS = np.random.default_rng(5).integers(-1, len(CLASSES), NUM_IMAGES)


def write_answers(
    path, logits, classes, *, images=None, labels=None, keys=None, codec="float32", **teacher
):
    """Writes a finished store of plain views and returns its path."""
    images = np.arange(len(logits)) if images is None else images
    keys = keys_of(len(logits)) if keys is None else keys
    header = header_of(
        len(images),
        num_classes=logits.shape[1],
        codec=codec,
        teacher={"name": path.stem, **teacher},
        fingerprint=path.stem,
    )
    if labels is None:
        labels = np.full(len(logits), -1)
    create_store(path, header, keys.take(images), labels[images], classes)
    with StoreWriter(path) as writer:
        for block in writer.pending_blocks().tolist():
            own = images[writer.images_of_block(block)]
            writer.write_block(block, logits[own], content_of(own))
        writer.finish({"teacher_accuracy": None, "num_labelled": 0})
    return path


def labelled_images():
    """A manifest of the images, with the labels `LABELS`; no file is there."""
    return kd.Manifest(b"/nowhere", keys_of(NUM_IMAGES), LABELS, CLASSES)


@pytest.fixture(scope="module")
def answers():
    """Logits of two teachers, each right more often than not where it knows the label."""
    rng = np.random.default_rng(6)
    logits = []
    for classes in (FIRST, SECOND):
        own = rng.normal(0, 1, (NUM_IMAGES, len(classes))).astype(np.float32)
        for image, label in enumerate(LABELS):
            if label >= 0 and CLASSES[label] in classes:
                own[image, classes.index(CLASSES[label])] += 1
        logits.append(own)
    return logits


@pytest.fixture(scope="module")
def stores(answers, tmp_path_factory):
    """Paths of the stores of the two teachers, without labels."""
    folder = tmp_path_factory.mktemp("stores")
    names = [("first.h5", FIRST), ("second.h5", SECOND)]
    return [
        str(write_answers(folder / name, own, classes))
        for own, (name, classes) in zip(answers, names, strict=True)
    ]


@pytest.fixture(params=[7, 4096])
def at_once(request, monkeypatch):
    """The number of images that are read at once."""
    monkeypatch.setattr(module, "_MAX_IMAGES_AT_ONCE", request.param)


def chosen_classes(logits, classes, among):
    columns = [classes.index(name) for name in among]
    return np.array(among)[logits[:, columns].argmax(axis=1)]


def test_teachers_of_partly_the_same_classes(stores, answers, at_once):
    report = kd.compare_stores(stores, labelled_images(), progress=False)
    truth = np.array([*CLASSES, ""])[LABELS]
    assert (report.num_stores, report.num_images, report.num_compared) == (2, 90, 90)
    assert (report.num_classes, report.rule, report.num_pairs) == (5, "divergence", 1)
    assert report.num_labelled == (LABELS >= 0).sum() and report.num_unknown_classes == 0

    together = kd.combine_stores(stores)
    combined = together.gather(np.arange(NUM_IMAGES))
    said = np.array(together.class_names)[combined.argmax(axis=1)]
    assert report.accuracy == np.mean((said == truth)[LABELS >= 0])
    for member, own, classes, path in zip(
        report.teachers, answers, (FIRST, SECOND), stores, strict=True
    ):
        known = np.isin(truth, classes)
        assert member.store == path and member.num_classes == len(classes)
        assert member.num_labelled == known.sum() and member.weight == 0.5
        assert member.accuracy == np.mean((chosen_classes(own, classes, classes) == truth)[known])
        assert member.combined_accuracy == np.mean((said == truth)[known])
        assert member.num_bytes == kd.open_store(path).describe().num_bytes
    assert report.num_bytes == sum(member.num_bytes for member in report.teachers)

    (pair,) = report.pairs
    taken = np.isin(truth, ["", "bee", "cat"])
    ours, theirs = (
        chosen_classes(own, classes, ["bee", "cat"])[taken]
        for own, classes in zip(answers, (FIRST, SECOND), strict=True)
    )
    assert (pair.first, pair.second, pair.num_shared_classes) == (*stores, 2)
    assert pair.num_images == taken.sum() and pair.agreement == np.mean(ours == theirs)
    keys = [key.decode("utf-8", "backslashreplace") for key in keys_of(NUM_IMAGES)]
    for entry in pair.contradictions:
        differ = (ours == entry["first_class"]) & (theirs == entry["second_class"])
        assert entry["count"] == differ.sum() and entry["first_class"] != entry["second_class"]
        first = np.flatnonzero(taken)[differ][:3]
        assert [example["key"] for example in entry["examples"]] == [keys[i] for i in first]
    assert sum(entry["count"] for entry in pair.contradictions) == (ours != theirs).sum()


def test_labels_come_from_the_stores_unless_images_are_given(answers, tmp_path):
    in_first = np.array([FIRST.index(n) if n in FIRST else -1 for n in CLASSES] + [-1])[LABELS]
    paths = [
        write_answers(tmp_path / "a.h5", answers[0], FIRST, labels=in_first),
        write_answers(tmp_path / "b.h5", answers[1], SECOND),
    ]
    report = kd.compare_stores(paths, progress=False)
    assert report.num_labelled == (in_first >= 0).sum()
    assert report.teachers[1].num_labelled == np.isin(in_first, [0, 2]).sum()
    truth = kd.compare_stores(paths, labelled_images(), progress=False)
    assert truth.num_labelled == (LABELS >= 0).sum()
    assert truth.teachers[0].accuracy == report.teachers[0].accuracy


def test_a_class_that_no_teacher_knows_is_named(stores):
    names = ["ant", "bee", "fly", "dog", "emu"]
    images = kd.Manifest(b"/nowhere", keys_of(NUM_IMAGES), LABELS, names)
    report = kd.compare_stores(stores, images, progress=False)
    assert (report.num_unknown_classes, report.unknown_classes) == (1, ["fly"])
    assert report.num_labelled == ((LABELS >= 0) & (LABELS != 2)).sum()
    assert "no teacher knows 1 classes of the images: fly" in as_text(report)


def test_a_sample_is_drawn_by_its_seed(stores):
    def sampled(**options):
        return kd.compare_stores(stores, labelled_images(), progress=False, **options)

    assert sampled(sample=20).num_compared == 20 and sampled(sample=20).num_images == 90
    assert sampled(sample=20) == sampled(sample=20) != sampled(sample=20, seed=1)
    assert sampled(sample=1000) == sampled()
    with pytest.raises(OptionError, match="--sample is 0"):
        sampled(sample=0)


def test_a_combination_is_taken_as_it_is(stores):
    combined = kd.combine_stores(stores, weights=[0.9, 0.1])
    report = kd.compare_stores(combined, labelled_images(), progress=False)
    assert report == kd.compare_stores(
        stores, labelled_images(), weights=[0.9, 0.1], progress=False
    )
    assert [member.weight for member in report.teachers] == [0.9, 0.1]
    with pytest.raises(OptionError, match=r"combined already(.|\n)*Leave weights and rule out"):
        kd.compare_stores(combined, rule="logits")


def test_images_that_not_all_teachers_answered_are_left_out(answers, stores, tmp_path):
    some = np.arange(30, 70)
    path = write_answers(tmp_path / "some.h5", answers[1], SECOND, images=some)
    report = kd.compare_stores([stores[0], path], labelled_images().select(some), progress=False)
    assert report.num_images == 40 and report.teachers[0].num_images == 90
    others = labelled_images().select(np.arange(20))
    with pytest.raises(OtherImagesError, match=r"no answers to compare(.|\n)*/nowhere"):
        kd.compare_stores([stores[0], path], others, progress=False)


def test_teachers_of_the_same_labels_that_are_independent(answers, tmp_path):
    paths = [
        write_answers(tmp_path / f"{n}.h5", own[:, :3], SECOND, output="sigmoid-logits")
        for n, own in enumerate(answers)
    ]
    report = kd.compare_stores(paths, progress=False)
    ours, theirs = (own[:, :3] > 0 for own in answers)
    (pair,) = report.pairs
    assert report.activation == "sigmoid" and report.accuracy is None
    assert pair.agreement == np.mean(ours == theirs)
    found = {(e["first_class"], e["second_class"]): e["count"] for e in pair.contradictions}
    assert found["cat", None] == (ours & ~theirs)[:, 1].sum()
    assert found[None, "emu"] == (theirs & ~ours)[:, 2].sum()
    assert "cat against not it" in as_text(report)


def test_the_text_has_every_teacher_and_pair(stores):
    report = kd.compare_stores(stores, labelled_images(), progress=False)
    text = as_text(report)
    for words in ("2 teachers, 5 classes together", "first.h5", "second.h5", "all together"):
        assert words in text
    assert f"{report.accuracy:.2%}" in text and f"{report.pairs[0].agreement:.2%}" in text
    assert f"{report.pairs[0].contradictions[0]['count']:,}  " in text
    assert json.loads(json.dumps(report)) == report


def test_pairs_and_contradictions_are_counted_where_they_are_cut_off(stores, monkeypatch):
    monkeypatch.setattr(module, "MAX_LISTED", 1)
    monkeypatch.setattr(module, "MAX_CONTRADICTIONS", 1)
    report = kd.compare_stores(stores, progress=False)
    assert (len(report.teachers), report.num_stores) == (1, 2)
    (pair,) = report.pairs
    assert (len(pair.contradictions), pair.num_contradictions) == (1, 2)
    text = as_text(report)
    assert "the first 1 of 2 teachers" in text and "and 1 more pairs of classes" in text


def run(capsys, *words):
    """Runs a command; returns its exit code and its JSON object."""
    code = main([*map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_inspect_compares_several_stores(stores, capsys):
    code, answer = run(capsys, "inspect", f"{stores[0]}=0.75", f"{stores[1]}=0.25")
    combined = kd.combine_stores(stores, weights=[0.75, 0.25])
    assert code == 0
    assert answer["comparison"] == kd.compare_stores(combined, progress=False)
    described = dict(combined.describe())
    assert {name: answer[name] for name in described} == described
    _, answer = run(capsys, "inspect", *stores, "--sample", "9")
    assert answer["comparison"]["num_compared"] == 9
    assert main(["inspect", *stores]) == 0
    assert as_text(kd.compare_stores(stores, progress=False)) in capsys.readouterr().out


def test_inspect_of_one_store_is_what_it_was(stores, capsys):
    code, answer = run(capsys, "inspect", stores[0])
    described = kd.open_store(stores[0]).describe()
    assert code == 0 and {name: answer[name] for name in described} == described
    for flag, value in [("--sample", "5"), ("--combine", "logits"), ("--dustbin", "cat")]:
        code, answer = run(capsys, "inspect", stores[0], flag, value)
        assert (code, answer["error"]["message"]) == (
            2,
            f"{flag} is for several stores, and there is one.\n"
            f"Add another store, or leave {flag} out.",
        )


@pytest.mark.parametrize("command", ["inspect", "plan"])
def test_help_lists_the_keys_of_a_comparison(command, stores, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out.replace("Jensen-\n", "Jensen-")
    report = kd.compare_stores(stores, progress=False)
    (pair, *_), (member, *_) = report.pairs, report.teachers
    for name in (*report, *pair, *member, *pair.contradictions[0]):
        assert name in text


def test_a_plan_compares_the_teachers_on_its_sample(directory, tmp_path, capsys):
    images = kd.scan(directory)
    rng = np.random.default_rng(7)
    words, paths = ["plan", directory, "--sample", "12"], []
    for name, classes in [("a.h5", ["ant", "bee"]), ("b.h5", ["bee", "cat"])]:
        logits = rng.normal(0, 2, (len(images), 2)).astype(np.float32)
        paths.append(write_answers(tmp_path / name, logits, classes, keys=images.keys))
        words += ["--store", paths[-1]]
    code, answer = run(capsys, *words)
    report = answer["comparison"]
    assert (code, answer["num_classes"], answer["num_sampled"]) == (0, 3, 12)
    assert (report["num_compared"], report["num_labelled"], report["rule"]) == (
        12,
        12,
        "divergence",
    )
    drawn = np.sort(np.random.default_rng(0).permutation(len(images))[:12])
    assert report == kd.compare_stores(paths, images.select(drawn), progress=False)
    assert main([*map(str, words)]) == 0
    assert "recommended: " in (out := capsys.readouterr().out) and "all together" in out
    assert "comparison" not in run(capsys, *words[:-2])[1]


def test_a_plan_needs_exact_logits_of_every_teacher(directory, tmp_path):
    images, paths = kd.scan(directory), []
    for name, codec in [("exact.h5", "float32"), ("packed.h5", "packed:8")]:
        logits = np.random.default_rng(len(name)).normal(0, 1, (len(images), 3))
        path = tmp_path / name
        names = images.class_names
        paths.append(
            write_answers(path, logits.astype(np.float32), names, keys=images.keys, codec=codec)
        )
    with pytest.raises(StoreError, match=r"packed\.h5 holds logits as packed:8"):
        kd.plan(directory, store=paths)
