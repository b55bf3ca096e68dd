"""Files that an earlier release wrote: read, resumed, and written once more to the byte.

`golden/make_golden.py` made them, and says what each of them is.
"""

import contextlib
import csv
import gzip
import importlib
import json
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from golden import make_golden

import streamkd as kd

STORES = [*make_golden.STORES, "changed", "merged"]
# Entries of config.json that describe the machine and its libraries.
MACHINE_ENTRIES = ("versions", "platform")
# Largest difference between the weights of two processors after a few steps.
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """A copy of the files in which the stores are unpacked."""
    folder = tmp_path_factory.mktemp("golden")
    shutil.copytree(make_golden.FOLDER, folder, dirs_exist_ok=True)
    for path in sorted((folder / "stores").glob("*.gz")):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    return folder


@pytest.fixture(scope="module")
def images(golden):
    return kd.scan(golden / "images")


@pytest.fixture(scope="module")
def facts(golden):
    return json.loads((golden / "facts.json").read_text())


@pytest.fixture(scope="module")
def written_again(golden, images, tmp_path_factory):
    """The stores as this release writes them."""
    folder = tmp_path_factory.mktemp("again")
    with versions_of(golden / "stores" / "float32.h5"):
        make_golden.make_stores(images, folder)
    return folder


@contextlib.contextmanager
def versions_of(path):
    """Within it the libraries have the versions that a store names, which are part of its bytes."""
    with contextlib.ExitStack() as stack:
        for name, version in kd.open_store(path).header.versions.items():
            module = importlib.import_module(name)
            stack.enter_context(mock.patch.object(module, "__version__", version))
        yield


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def copied(folder, names, to):
    """Returns a new folder with copies of some files."""
    to.mkdir()
    for name in names:
        shutil.copy(folder / name, to)
    return to


@pytest.mark.parametrize("name", STORES)
def test_a_store_is_sound_and_reads_as_before(golden, images, name):
    path = golden / "stores" / f"{name}.h5"
    store = kd.open_store(path)
    with np.load(golden / "logits.npz") as logits:
        np.testing.assert_array_equal(make_golden.logits_of(store), logits[name])
    report = kd.verify(path, images=images, progress=False)
    assert report.sound, report.problems
    np.testing.assert_array_equal(np.sort(store.images_of_keys(images.keys)), np.arange(13))
    assert store.class_names == make_golden.CLASSES


def test_a_summary_with_another_number_is_refused(golden, images, tmp_path):
    data = (golden / "stores" / "float32.h5").read_bytes()
    assert data.count(b'"num_labelled": 13') == 1
    (tmp_path / "s.h5").write_bytes(data.replace(b'"num_labelled": 13', b'"num_labelled": 12'))
    with pytest.raises(kd.StreamkdError, match="its summary does not have its checksum"):
        assert kd.open_store(tmp_path / "s.h5").summary
    assert not kd.verify(tmp_path / "s.h5", images=images, progress=False).sound


@pytest.mark.parametrize("kind", make_golden.DRAWN)
def test_stored_views_are_those_that_are_drawn(golden, images, kind):
    (path,) = (golden / "stores").glob(f"*-{kind}.h5")
    store, views = kd.open_store(path), make_golden.DRAWN[kind]
    assert kd.Views.from_dict(store.header.views) == views
    stored = store.view_parameters(np.arange(len(images) * views.num_views))
    assert set(stored) == set(views.datasets())
    with np.load(golden / "views.npz") as drawn:
        for name, values in stored.items():
            expected = drawn[f"{kind} {name.replace('view_partner', 'partners')}"]
            np.testing.assert_array_equal(values, expected.reshape(values.shape), err_msg=name)


def test_teaching_again_writes_the_same_bytes(golden, written_again):
    before, now = files_of(golden / "stores"), files_of(written_again)
    assert set(now) == set(before)
    assert [name for name in before if now[name] != before[name]] == []


def test_an_unfinished_store_is_resumed_to_the_bytes_of_the_finished_one(golden, images, tmp_path):
    folder = copied(golden / "stores", ["unfinished.h5"], tmp_path / "resumed")
    codec, views = make_golden.STORES[make_golden.FINISHED_TWIN]
    assert not kd.open_store(folder / "unfinished.h5").finished
    make_golden.teach(images, folder / "unfinished.h5", codec, views)
    finished = golden / "stores" / f"{make_golden.FINISHED_TWIN}.h5"
    assert (folder / "unfinished.h5").read_bytes() == finished.read_bytes()


def test_a_finished_store_and_its_delta_are_left_as_they_are(golden, images, tmp_path):
    names = ["changed.h5", "changed.delta-1.h5", "changed.h5.index"]
    folder = copied(golden / "stores", names, tmp_path / "finished")
    before = files_of(folder)
    make_golden.teach(images, folder / "changed.h5", "float16", kd.Views(0))
    assert files_of(folder) == before


def test_a_manifest_is_read_and_written_again(golden, images, facts, tmp_path):
    path = golden / "manifest.jsonl"
    manifest = kd.scan(path)
    assert facts["fingerprints"] == {
        "images": images.fingerprint,
        "manifest": manifest.fingerprint,
    }
    manifest.write(tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()


def test_splits_hold_out_the_same_images(golden, facts):
    assert make_golden.splits(golden / "manifest.jsonl") == facts["splits"]


def test_streams_show_the_same_images_in_the_same_order(golden, facts):
    orders = make_golden.label_orders(kd.scan(golden / "manifest.jsonl"))
    assert orders == facts["label streams"]


def test_streams_show_the_same_views_in_the_same_order(golden, images, facts):
    assert make_golden.row_orders(images, golden / "stores") == facts["row streams"]


def test_views_are_drawn_and_matched_alike(golden, images):
    drawn = make_golden.drawn_views(images)
    with np.load(golden / "views.npz") as views:
        assert set(drawn) == set(views.files)
        for name, values in drawn.items():
            assert values.dtype == views[name].dtype
            np.testing.assert_array_equal(values, views[name], err_msg=name)


@pytest.fixture(params=make_golden.FAMILIES)
def runs(request, golden, images, tmp_path):
    """A run that this release resumed and one that it did alone, in `tmp_path`."""
    family = request.param
    shutil.copytree(golden / "runs" / family, tmp_path / "resumed")
    students = {
        name: make_golden.train(images, golden / "stores", family, tmp_path / name)
        for name in ("resumed", "whole")
    }
    weights = {n: make_golden.weights_of(family, s) for n, s in students.items()}
    return family, weights


def test_a_stopped_run_is_resumed(golden, runs, tmp_path):
    family, weights = runs
    with np.load(golden / "weights.npz") as expected:
        for side in weights.values():
            for name, values in side.items():
                np.testing.assert_allclose(values, expected[name], rtol=0, atol=TOLERANCE)
    step = f"checkpoints/step-{make_golden.STOPPED_AT:010d}/tensors.data-00000-of-00001"
    before, now = golden / "runs" / family / step, tmp_path / "whole" / step
    # On another processor the last bits of the two may differ by step 5 already.
    if before.read_bytes() == now.read_bytes():
        for name, values in weights["whole"].items():
            np.testing.assert_array_equal(weights["resumed"][name], values, err_msg=name)
    configs = [config_of(r) for r in (golden / "runs" / family, tmp_path / "whole")]
    assert configs[0] == configs[1]
    (first,), resumed, whole = (
        metrics_of(run)
        for run in (golden / "runs" / family, tmp_path / "resumed", tmp_path / "whole")
    )
    assert resumed[0] == first and list(first) == list(whole[0])
    assert [row["step"] for row in resumed] == [row["step"] for row in whole]


def config_of(run):
    """Returns config.json without the machine's entries and Keras' description of the layers."""
    config = json.loads(Path(run, "config.json").read_text())
    student = {name: value for name, value in config["student"].items() if name != "layers"}
    kept = {name: value for name, value in config.items() if name not in MACHINE_ENTRIES}
    return {**kept, "student": student}


def metrics_of(run):
    with open(Path(run, "metrics.csv"), newline="") as lines:
        return list(csv.DictReader(lines))
