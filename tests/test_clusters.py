"""Groups of classes that a teacher confuses, and the images for a specialist of one group."""

import json

import numpy as np
import pytest
from store_helpers import content_of, create, header_of, keys_of

import streamkd as kd
from streamkd.cli.main import main
from streamkd.ensemble.clusters import soft_target_covariance, without_variances
from streamkd.ensemble.k_means import k_means
from streamkd.keys import Keys
from streamkd.manifest.manifest import Manifest
from streamkd.store.creation import create_store
from streamkd.store.writer import StoreWriter

NAMES = ["bus", "cat", "dog", "oak", "pine", "truck"]
GROUPS = [["bus", "truck"], ["cat", "dog"], ["oak", "pine"]]


def confused_logits(num_images, *, seed=0, pairs=((0, 5), (1, 2), (3, 4))):
    """Logits of a teacher that is sure of the pair, and half sure which of the two it is."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(num_images, 6))
    for row, pair in zip(logits, generator.integers(len(pairs), size=num_images), strict=True):
        row[list(pairs[pair])] += 6
    return logits.astype(np.float32)


def write(path, logits, names=NAMES, *, refused=(), **changes):
    """Writes a finished store of these logits, in view 0 of each image."""
    count = len(logits)
    header = header_of(count, num_classes=logits.shape[1], **changes)
    create_store(path, header, keys_of(count), np.full(count, -1), names)
    with StoreWriter(path) as writer:
        for block in writer.pending_blocks().tolist():
            rows = np.asarray(writer.rows_of_block(block))
            images = np.asarray(writer.images_of_block(block))
            values = logits[rows // header.num_views] - 50.0 * (rows % header.num_views)[:, None]
            dropped = np.isin(images, refused)
            writer.write_block(block, values, content_of(images), refused=dropped)
        writer.finish({"teacher_accuracy": None})
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write(tmp_path_factory.mktemp("stores") / "all.h5", confused_logits(120))


def test_pairs_that_the_teacher_confuses_are_found(store):
    clusters = kd.cluster_classes(store, 3)
    assert sorted(clusters.classes) == GROUPS
    assert clusters.num_images == 120
    assert clusters.teacher == "Lehrer für Tiere"
    answers = kd.open_store(store).gather(np.arange(120)).argmax(axis=1)
    for cluster in clusters.clusters:
        own = [NAMES.index(name) for name in cluster["classes"]]
        assert cluster["size"] == 2
        assert cluster["share"] == pytest.approx(np.isin(answers, own).mean())
    shares = [cluster["share"] for cluster in clusters.clusters]
    assert shares == sorted(shares, reverse=True)


def test_the_covariance_is_numpys_in_blocks_of_any_size(store, monkeypatch):
    logits = np.float64(kd.open_store(store).gather(np.arange(120))) / 2
    targets = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.cov(targets, rowvar=False, bias=True)
    for at_once in (6, 100, 1 << 21):
        monkeypatch.setattr("streamkd.ensemble.clusters._MAX_PROBABILITIES", at_once)
        covariance, counts, doubt = soft_target_covariance(kd.open_store(store), 2.0)
        np.testing.assert_allclose(covariance, expected, atol=1e-12)
        assert counts.tolist() == np.bincount(logits.argmax(axis=1), minlength=6).tolist()
        assert doubt == pytest.approx(1 - (targets**2).sum(axis=1).mean())


def test_only_plain_views_of_answered_images_count(tmp_path):
    logits = confused_logits(30)
    logits[7] = 1000.0 * np.eye(6)[0]
    path = write(tmp_path / "views.h5", logits, num_views=3, refused=[7])
    covariance, counts, doubt = soft_target_covariance(kd.open_store(path), 1.0)
    whole = write(tmp_path / "plain.h5", np.delete(logits, 7, axis=0))
    expected, expected_counts, expected_doubt = soft_target_covariance(kd.open_store(whole), 1.0)
    np.testing.assert_allclose(covariance, expected, atol=1e-12)
    assert counts.tolist() == expected_counts.tolist()
    assert doubt == pytest.approx(expected_doubt)


def test_an_image_that_was_answered_again_counts_once(tmp_path):
    """A delta, or a later shard, has other answers for some of the images, and new images."""
    old, new = confused_logits(20), confused_logits(30, seed=1)
    whole, part = write(tmp_path / "a.h5", old), write(tmp_path / "b.h5", new)
    kd.merge([whole, part], tmp_path / "all.index", index=True, progress=False)
    indexed = kd.open_store(tmp_path / "all.index")
    merged = kd.merge([whole, part], tmp_path / "m.h5", progress=False).store
    expected, expected_counts, _ = soft_target_covariance(merged, 1.0)
    covariance, counts, _ = soft_target_covariance(indexed, 1.0)
    np.testing.assert_allclose(covariance, expected, atol=1e-12)
    assert counts.tolist() == expected_counts.tolist()
    assert counts.sum() == merged.num_images < 50


@pytest.mark.parametrize("temperature", [1.0, 4.0, 1e-300])
def test_a_teacher_that_is_sure_of_every_image_confuses_nothing(tmp_path, temperature):
    path = write(tmp_path / "sure.h5", 1e4 * np.eye(6, dtype=np.float32)[np.arange(30) % 6])
    with pytest.raises(kd.StreamkdError, match="is sure of every image") as caught:
        kd.cluster_classes(path, 2, temperature=temperature)
    assert f"`--temperature {max(4.0, 4 * temperature):g}`" in str(caught.value)


@pytest.mark.parametrize("temperature", [1.0, 1e300])
def test_a_teacher_that_answers_every_image_alike_tells_nothing(store, tmp_path, temperature):
    path = store
    if temperature == 1:
        path = write(tmp_path / "same.h5", np.tile(confused_logits(1), (9, 1)))
    with pytest.raises(kd.StreamkdError, match="answers every image alike"):
        kd.cluster_classes(path, 2, temperature=temperature)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True])
def test_what_is_no_seed_is_refused(store, seed):
    for use in (
        lambda: kd.cluster_classes(store, 2, seed=seed),
        lambda: kd.specialist_images(images_of([0, 1, 2]), ["bus"], seed=seed),
        lambda: kd.compare_stores([store, store], seed=seed, progress=False),
    ):
        with pytest.raises(kd.StreamkdError, match="seed is "):
            use()


def test_one_group_holds_all_classes_and_the_seed_decides(store):
    (everything,) = kd.cluster_classes(store, 1).classes
    assert everything == NAMES
    assert kd.cluster_classes(store, 2, seed=5) == kd.cluster_classes(store, 2, seed=5)


def test_classes_of_other_frequency_and_difficulty_are_grouped_all_the_same():
    """Four groups of three, in answers whose variances differ more than their covariances."""
    found = {"variances": 0, "covariances": 0}
    for seed in range(20):
        generator = np.random.default_rng(seed)
        group_of = generator.permutation(np.repeat(np.arange(4), 3))
        labels = generator.choice(12, 2000, p=generator.dirichlet(np.full(12, 5.0)))
        logits = generator.normal(size=(2000, 12)) + 3 * (group_of == group_of[labels][:, None])
        logits[np.arange(2000), labels] += generator.uniform(1, 4, 12)[labels]
        targets = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        raw = np.cov(targets, rowvar=False)
        for name, points in (("variances", raw), ("covariances", without_variances(raw))):
            groups = k_means(points, 4, seed=0)
            found[name] += all(len(set(groups[group_of == group])) == 1 for group in range(4))
    assert found["covariances"] >= 17
    assert found["variances"] <= 12


@pytest.mark.parametrize("num_groups", [1, 3, 5])
def test_groups_have_two_points_at_least(num_groups):
    generator = np.random.default_rng(2)
    alike = np.zeros((10, 3))
    far = np.concatenate([generator.normal(size=(9, 3)), [[1e6, 0, 0]]])
    for points in (alike, far):
        sizes = np.bincount(k_means(points, num_groups, seed=0), minlength=num_groups)
        assert len(sizes) == num_groups
        assert sizes.min() >= 2


def test_the_command_writes_what_it_prints(store, tmp_path, capsys):
    out = tmp_path / "clusters.json"
    assert main(["cluster", str(store), "--specialists", "3", "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads(out.read_text())
    assert written.items() <= printed.items()
    assert printed["out"] == str(out)
    assert sorted(kd.read_clusters(out)) == GROUPS
    assert kd.read_clusters(out) == kd.cluster_classes(store, 3).classes


def test_what_cannot_be_clustered_is_refused(store, tmp_path, monkeypatch):
    with pytest.raises(
        kd.StreamkdError, match=r"(?s)4 specialists need two classes each.*has 6 classes"
    ):
        kd.cluster_classes(store, 4)
    with pytest.raises(kd.StreamkdError, match="num_specialists"):
        kd.cluster_classes(store, 0)
    with pytest.raises(kd.StreamkdError, match="temperature"):
        kd.cluster_classes(store, 2, temperature=0.0)
    create(tmp_path / "begun.h5")
    with pytest.raises(kd.StreamkdError, match="is unfinished: 0 of 10 rows are done") as refusal:
        kd.cluster_classes(tmp_path / "begun.h5", 2)
    assert refusal.value.code == "unfinished_store"
    teacher = {"name": "labels", "removed": "sigmoid"}
    write(tmp_path / "sigmoid.h5", confused_logits(9), teacher=teacher)
    with pytest.raises(
        kd.StreamkdError, match=r"(?s)independent labels.*Give the store of a softmax"
    ):
        kd.cluster_classes(tmp_path / "sigmoid.h5", 2)
    write(tmp_path / "nameless.h5", confused_logits(9), [])
    with pytest.raises(kd.StreamkdError, match="has 6 outputs and 0 class names"):
        kd.cluster_classes(tmp_path / "nameless.h5", 2)
    monkeypatch.setattr("streamkd.ensemble.clusters._MAX_CLASSES", 5)
    with pytest.raises(kd.StreamkdError, match="6 classes, and clusters are found among at most 5"):
        kd.cluster_classes(store, 2)
    monkeypatch.undo()
    write(tmp_path / "refused.h5", confused_logits(6), refused=range(6))
    with pytest.raises(kd.StreamkdError, match="has no answers: every image was refused"):
        kd.cluster_classes(tmp_path / "refused.h5", 2)


def test_a_file_that_holds_no_clusters_is_refused(tmp_path):
    texts = ["", "[]", '{"clusters": [{"classes": [1]}]}', '{"clusters": 3}', '{"clusters": "ab"}']
    for text in (*texts, '{"clusters": [["a", "b"]]}', '{"clusters": [{"classes": "ab"}]}'):
        (tmp_path / "odd.json").write_text(text)
        with pytest.raises(kd.StreamkdError, match=r"odd\.json is not a file of clusters"):
            kd.read_clusters(tmp_path / "odd.json")
    with pytest.raises(kd.StreamkdError, match=r"streamkd cluster S\.h5"):
        kd.read_clusters(tmp_path / "none.json")


def images_of(labels, *, weights=None, names=NAMES):
    keys = Keys.from_list([b"%03d.png" % number for number in range(len(labels))])
    return Manifest(b"photos", keys, np.array(labels), names, weights)


def test_a_specialist_sees_its_classes_and_some_of_the_others():
    images = images_of([0, 1, 2, 3, 4, 5] * 10 + [-1] * 5, weights=np.arange(65))
    training = kd.specialist_images(images, ["dog", "cat"], others=0.5, seed=3)
    assert training.dustbin == "other"
    assert training.images.class_names == ["dog", "cat", "other"]
    assert training.images.class_counts == [10, 10, 10]
    assert training.oversampling == 4.0  # 10 of 40 others
    for index in range(len(training.images)):
        number = int(training.images.keys[index][:3])
        expected = {2: 0, 1: 1}.get(number % 6, 2)
        assert training.images.labels[index] == expected
        assert training.images.weights[index] == number
    again = kd.specialist_images(images, ["dog", "cat"], others=0.5, seed=3).images
    assert again.fingerprint == training.images.fingerprint
    other = kd.specialist_images(images, ["dog", "cat"], others=0.5, seed=4).images
    assert other.fingerprint != training.images.fingerprint


def test_more_others_than_there_are_is_all_of_them():
    training = kd.specialist_images(images_of([0, 0, 1, 2]), ["bus"], others=50.0, dustbin="rest")
    assert training.oversampling == 1.0
    assert training.images.class_names == ["bus", "rest"]
    assert training.images.class_counts == [2, 2]


def test_one_other_image_is_the_least():
    training = kd.specialist_images(images_of([0, 1, 2, 3]), ["bus"], others=0.01)
    assert training.images.class_counts == [1, 1]
    assert training.oversampling == 3.0


@pytest.mark.parametrize(
    ("labels", "arguments", "words"),
    [
        ([0, 1], {"classes": ["Cat"]}, "'Cat' is no class of the images.*specialist: 'Cat'"),
        ([0, 1], {"classes": ["cat", "cat"]}, "hold 'cat' twice"),
        ([0, 1], {"classes": []}, "has no classes"),
        ([0, 1], {"classes": ["oak"]}, "'oak' is a class without an image"),
        ([1, 1], {"classes": ["cat"]}, "none is left for the class 'other'"),
        ([0, 1], {"classes": ["cat"], "dustbin": "dog"}, "'dog' is also a class of the images"),
        ([0, 1], {"classes": ["cat"], "others": 0.0}, "others"),
    ],
)
def test_specialists_without_sense_are_refused(labels, arguments, words):
    with pytest.raises(kd.StreamkdError, match="(?s)" + words):
        kd.specialist_images(images_of(labels), **arguments)


def test_images_without_one_class_each_are_refused():
    with pytest.raises(kd.StreamkdError, match="these images have no classes"):
        kd.specialist_images(images_of([-1, -1], names=None), ["cat"])
    several = images_of([-1, -1])
    several.multi_hot = np.ones((2, 6), np.int8)
    with pytest.raises(kd.StreamkdError, match="have several labels each"):
        kd.specialist_images(several, ["cat"])
