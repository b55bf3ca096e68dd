"""Combinations that people and their habits lead to: odd labels, names, numbers, copies and words.

The expected answers are plain NumPy, in float64.
"""

from __future__ import annotations

import numpy as np
import pytest
import store_helpers
from ensemble_helpers import OURS, answers_of, log_softmax, refusal, write_small, write_store_of
from run_helpers import command
from run_helpers import refusal as refused

import streamkd as kd
from streamkd.errors import OptionError
from streamkd.keys import Keys
from streamkd.views.views import Views

SIGMOID = {"name": "t", "output": "sigmoid-logits"}


def sigmoid(logits):
    return 0.5 * (1 + np.tanh(np.asarray(logits, np.float64) / 2))


class TestIndependentLabels:
    @pytest.mark.parametrize("rule", ["logits", "probabilities", "divergence"])
    def test_a_dustbin_of_a_teacher_of_all_labels_shifts_no_label(self, tmp_path, rule):
        names = [OURS, ["cat", "other", "ant", "bee"]]
        paths = [
            write_small(tmp_path / f"{n}.h5", names[n], seed=n, teacher=SIGMOID) for n in range(2)
        ]
        store = kd.combine_stores([paths[0], kd.Member(paths[1], dustbin="other")], rule=rule)
        first, second = answers_of(paths[0]), answers_of(paths[1])[:, [2, 3, 0]]
        answers = store.gather(np.arange(10))
        assert store.class_names == OURS
        if rule == "logits":
            np.testing.assert_allclose(answers, (first + second) / 2, atol=1e-5)
        else:
            expected = (sigmoid(first) + sigmoid(second)) / 2
            np.testing.assert_allclose(sigmoid(answers), expected, atol=1e-6)

    def test_oversampling_of_independent_labels_is_refused(self, tmp_path):
        paths = [write_small(tmp_path / f"{n}.h5", seed=n, teacher=SIGMOID) for n in range(2)]
        members = [kd.Member(path, dustbin="cat", oversampling=4) for path in paths]
        words = str(refusal(kd.combine_stores, members))
        assert "oversampling is 4 for" in words and "independent (sigmoid)" in words
        assert "Leave oversampling out." in words

    @pytest.mark.parametrize("name", ["ant", "bee"])
    def test_a_single_output_has_no_weights_by_class(self, tmp_path, name):
        paths = [
            write_small(tmp_path / f"{n}.h5", ["ant", "bee"], seed=n, num_classes=1)
            for n in range(2)
        ]
        error = refusal(kd.combine_stores, paths, [{name: 0.5}, {name: 0.5}])
        assert "have a single output for 'ant', 'bee'" in str(error)
        assert "Give one weight a store, such as 0.7 and 0.3." in str(error)


@pytest.mark.parametrize("offset", [1e4, -3e5, 2e6])
def test_what_all_logits_of_a_teacher_have_in_common_says_nothing(tmp_path, offset):
    logits = np.random.default_rng(3).integers(-6, 7, (10, 3)).astype(np.float64)
    paths = [
        write_small(tmp_path / "far.h5", logits=logits + offset),
        write_small(tmp_path / "b.h5", seed=1),
    ]
    answers = kd.combine_stores(paths).gather(np.arange(10))
    expected = log_softmax(0.5 * logits + 0.5 * answers_of(paths[1]))
    np.testing.assert_allclose(log_softmax(answers), expected, atol=1e-4)


class TestCopiesOfAnImage:
    """A copy under another name, which only one of the teachers has seen."""

    @pytest.fixture
    def stores(self, tmp_path):
        def written(views):
            content = store_helpers.content_of([0, 1, 2, 0])
            keys = [b"a.png", b"b.png", b"c.png", b"copy.png"]
            counts = (4, 3)
            return [
                write_store_of(
                    tmp_path / f"{count}.h5",
                    Keys.from_list(keys[:count]),
                    content[:count],
                    OURS,
                    seed=count,
                    views=views,
                )
                for count in counts
            ]

        return written

    def test_its_views_are_its_own_so_that_it_is_missing(self, stores):
        paths = stores(Views(2, crop=(0.3, 1)))
        for order in (paths, paths[::-1]):
            assert [bytes(key) for key in kd.combine_stores(order).keys] == [
                b"a.png",
                b"b.png",
                b"c.png",
            ]

    def test_without_drawn_views_the_answers_to_its_bytes_are_taken(self, stores):
        paths = stores(None)
        store = kd.combine_stores(paths)
        assert store.num_images == 4
        first, second = (log_softmax(answers_of(path)) for path in paths)
        expected = log_softmax((first + second[[0, 1, 2, 0]]) / 2)
        np.testing.assert_allclose(log_softmax(store.gather(np.arange(4))), expected, atol=1e-5)


class TestWeightsWhereTheyDoNotBelong:
    def test_in_the_path(self, tmp_path):
        path = write_small(tmp_path / "a.h5")
        error = refusal(kd.combine_stores, [f"{path}=0.7", f"{path}=0.3"])
        assert type(error) is OptionError
        assert "`PATH=WEIGHT` is for the command line" in str(error)
        assert "Give {path: weight}, or weights=[0.7, 0.3]" in str(error)

    def test_in_pairs(self, tmp_path):
        path = write_small(tmp_path / "a.h5")
        error = refusal(kd.combine_stores, [(path, 0.7), (path, 0.3)])
        assert "A store is given as the pair (" in str(error)
        assert "Give {path: weight}" in str(error)


class TestAnswersThatWouldCountTwice:
    """One store under two names is told by its rows; these hold the same answers otherwise."""

    def test_stores_of_one_teacher(self, tmp_path):
        teacher = {"name": "net", "weights": "f0f0", "output": "logits"}
        paths = [
            write_small(tmp_path / "a.h5", teacher=teacher),
            write_small(tmp_path / "half.h5", teacher=teacher, codec="float16"),
        ]
        words = str(refusal(kd.combine_stores, paths))
        assert "a.h5 and " in words and "half.h5 hold answers of the same teacher" in words
        assert "Give one of them." in words and "`streamkd merge` without `--combine`" in words

    def test_teachers_of_the_same_weights_that_saw_other_sizes(self, tmp_path):
        teacher = {"name": "net", "weights": "f0f0", "output": "logits"}
        paths = [
            write_small(
                tmp_path / f"{n}.h5", seed=n, teacher=teacher, images={"image_size": [n, n]}
            )
            for n in (8, 12)
        ]
        assert kd.combine_stores(paths).num_images == 10

    def test_a_store_of_answers_that_were_combined_before(self, tmp_path):
        paths = [write_small(tmp_path / f"{n}.h5", seed=n) for n in range(3)]
        both = kd.combine_stores(paths[:2]).write(tmp_path / "both.h5", progress=False)
        assert kd.combine_stores([both, paths[2]]).num_images == 10
        for stores in ([both, paths[1]], [paths[0], both]):
            words = str(refusal(kd.combine_stores, stores))
            assert "both.h5 has the answers of " in words and "count twice" in words
            assert "Give the single stores, with weights" in words


class TestWordsOfTheCommandLine:
    @pytest.fixture(autouse=True)
    def stores(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for seed, name in enumerate("ab"):
            write_small(tmp_path / f"{name}.h5", seed=seed)

    def test_a_file_that_is_called_like_a_rule(self, tmp_path, capsys):
        (tmp_path / "logits").mkdir()
        words = ["merge", "a.h5", "b.h5", "--combine", "logits", "--out", "both.h5"]
        code, answer, _ = command(capsys, *words)
        assert code == 0 and answer["combination"]["rule"] == "logits"

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (
                ["merge", "a.h5=0.7", "b.h5=0.3"],
                "a.h5=0.7 gives a weight, which is for the combined answers of several teachers.\n"
                "Add `--combine`, or leave the weight out.",
            ),
            (
                ["merge", "--combine", "aa.h5=0.7", "b.h5=0.3"],
                "--combine is 'aa.h5=0.7'; choose one of auto, logits, probabilities, divergence.\n"
                "If it is a store, look at its path: there is no such file.",
            ),
            (
                ["merge", "--combine", "logits", "=0.7", "b.h5=0.3"],
                "The path of the store is empty.",
            ),
        ],
    )
    def test_words_that_do_not_fit(self, words, message, capsys):
        assert message in refused(capsys, *words, "--out", "both.h5")


def test_a_path_that_is_none_is_refused_by_name(tmp_path):
    both = kd.combine_stores([write_small(tmp_path / f"{n}.h5", seed=n) for n in range(2)])
    with pytest.raises(OptionError, match=r"^out is 5; it must be"):
        both.write(5)
