"""Combinations that cannot be: each is one message, with both sides and something to type."""

from __future__ import annotations

import re

import numpy as np
import pytest
import store_helpers
from ensemble_helpers import OURS, refusal, write_small, write_store_of

import streamkd as kd
from streamkd.errors import (
    ClassNamesError,
    OptionError,
    OtherImagesError,
    StoreError,
    UnfinishedStoreError,
)
from streamkd.keys import Keys
from streamkd.store.layout import ELSEWHERE
from streamkd.views.views import Views


@pytest.fixture
def first(tmp_path):
    return write_small(tmp_path / "a.h5")


@pytest.fixture
def second(tmp_path):
    return write_small(tmp_path / "b.h5", seed=1)


def assert_refused(kind, code, words, *values, **options):
    """Asserts the class, the code and, in this order, the words of the refusal to combine."""
    error = refusal(kd.combine_stores, *values, **options)
    assert (type(error), error.code) == (kind, code)
    assert re.search(".*".join(map(re.escape, words)), str(error), re.DOTALL), str(error)
    return error


def test_different_views(tmp_path, first):
    other = write_small(tmp_path / "b.h5", views=Views(2, flip=True))
    words = ["differ in views cannot be combined: the teachers saw different pixels", "a.h5:"]
    words += ['"count": 1', "b.h5:", '"flip": true', "with the views of the other: `--views`"]
    assert_refused(StoreError, "store", words, [first, other])


@pytest.mark.parametrize("seeds", [(1, 2), (0, 1)])
def test_views_of_another_seed(tmp_path, seeds):
    paths = [
        write_small(tmp_path / f"{seed}.h5", seed=seed, views=Views(1, flip=True, seed=seed))
        for seed in seeds
    ]
    words = [f'"seed": {seeds[0]}', f'"seed": {seeds[1]}', "the same seed"]
    assert_refused(StoreError, "store", words, paths)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"images": {"image_size": [8, 8], "interpolation": "area"}}, ["image options", '"area"']),
        ({"images": {"image_size": [8, 8], "exif": "apply"}}, ["image options", "--exif"]),
        ({"decoder": "another"}, ["differ in decoder", "tf.io.decode_image", "another"]),
    ],
)
def test_different_pixels(tmp_path, first, options, words):
    other = write_small(tmp_path / "b.h5", seed=1, **options)
    assert_refused(StoreError, "store", words, [first, other])


def test_logits_that_were_made_elsewhere_say_nothing_of_a_decoder(tmp_path, first):
    other = write_small(tmp_path / "b.h5", seed=1, decoder=ELSEWHERE)
    assert kd.combine_stores([first, other]).num_images == 10


def test_no_image_in_common(tmp_path, first):
    keys = Keys.from_list([b"x/1.png", b"x/2.png"])
    other = write_store_of(
        tmp_path / "b.h5", keys, store_helpers.content_of(range(50, 52)), OURS, seed=1
    )
    words = ["have no image in common, neither by key nor by content", "a.h5: 10 images"]
    words += ["b.h5: 2 images, the first is 'x/1.png'", "`streamkd merge` without `--combine`"]
    assert_refused(OtherImagesError, "other_images", words, [first, other])


def test_three_stores_of_which_each_two_share_images(tmp_path):
    keys, content = store_helpers.keys_of(3), store_helpers.content_of(range(3))
    paths = [
        write_store_of(
            tmp_path / f"{n}.h5",
            keys.take(np.sort([n, (n + 1) % 3])),
            content[np.sort([n, (n + 1) % 3])],
            OURS,
            seed=n,
        )
        for n in range(3)
    ]
    words = ["No image is in all of", "0.h5", "2.h5", "taught on the same directory"]
    assert_refused(OtherImagesError, "other_images", words, paths)


def test_other_bytes_under_the_same_key(tmp_path, first):
    content = store_helpers.content_of(range(10)).copy()
    content[[4, 7]] += np.uint64(1)
    keys = store_helpers.keys_of(10)
    other = write_store_of(tmp_path / "b.h5", keys, content, OURS, seed=1)
    words = ["saw different files under one name: 2 of 10 images", "content digest in"]
    words += [str(content[4] - np.uint64(1)), str(content[4]), "Give the `teach` command"]
    error = assert_refused(OtherImagesError, "other_images", words, [first, other])
    assert error.key == keys[4]


def test_an_image_that_was_renamed_has_other_views(tmp_path):
    content = store_helpers.content_of(range(3))
    names = ([b"a", b"b", b"c"], [b"a", b"bb", b"c"])
    paths = [
        write_store_of(
            tmp_path / f"{n}.h5",
            Keys.from_list(k),
            content,
            OURS,
            seed=n,
            views=Views(3, color=0.4),
        )
        for n, k in enumerate(names)
    ]
    words = ["Two teachers saw different views of 'b', view 1: view_color is not the same"]
    words += ["0.h5:", "1.h5:", "one file under one name. Teach a new store"]
    error = assert_refused(StoreError, "store", words, paths)
    assert error.key == b"b"


def test_names_of_classes_that_look_alike(tmp_path, first):
    other = write_small(tmp_path / "b.h5", ["ant", "Bee", "cat"], seed=1)
    words = ["Two stores spell a class in two ways", "a.h5: 'ant', 'bee', 'cat'"]
    words += ["b.h5: 'ant', 'Bee', 'cat'", "'Bee' and 'bee' differ only in capitals"]
    words += ["with the other's spelling: `--class-names FILE`"]
    assert_refused(ClassNamesError, "class_names", words, [first, other])


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        ("caf\u00e9", "cafe\u0301", "Unicode form"),
        ("cat", "cat\u200b", "not seen"),
        ("cat", "c\u0430t", "letters that look alike"),
    ],
)
def test_spellings_of_other_kinds(tmp_path, ours, theirs, words):
    paths = [
        write_small(tmp_path / f"{n}.h5", ["ant", name], seed=n)
        for n, name in enumerate((ours, theirs))
    ]
    assert_refused(ClassNamesError, "class_names", [words], paths)


def test_two_spellings_of_one_teacher_are_two_classes(tmp_path):
    lists = (["Crane", "crane", "ant"], ["crane", "Crane", "bee"])
    paths = [write_small(tmp_path / f"{n}.h5", names, seed=n) for n, names in enumerate(lists)]
    assert kd.combine_stores(paths).class_names == ["Crane", "crane", "ant", "bee"]


def test_two_classes_of_one_name(tmp_path, first):
    other = write_small(tmp_path / "b.h5", ["crane", "ant", "crane"], seed=1)
    words = ["b.h5 has two classes of the name 'crane'", "a name for each class"]
    assert_refused(ClassNamesError, "class_names", words, [first, other])
    twin = write_small(tmp_path / "c.h5", ["crane", "ant", "crane"], seed=2)
    assert kd.combine_stores([other, twin]).num_classes == 3  # alike, so joined by number


@pytest.mark.parametrize("num_classes", [3, 5])
def test_a_store_without_class_names(tmp_path, first, num_classes):
    other = write_small(tmp_path / "b.h5", [], seed=1, num_classes=num_classes)
    words = ["joined by the names of the classes, and a store has no names", "without names: "]
    words += [f"b.h5 ({num_classes} classes)", "a.h5 ('ant', 'bee', 'cat')", "`--class-names FILE`"]
    assert_refused(ClassNamesError, "class_names", words, [first, other])


def test_two_stores_without_class_names_of_different_lengths(tmp_path):
    paths = [write_small(tmp_path / f"{n}.h5", [], seed=n, num_classes=n) for n in (3, 4)]
    words = ["3.h5 (3 classes)", "4.h5 (4 classes, no names)"]
    assert_refused(ClassNamesError, "class_names", words, paths)


def test_one_output_for_two_names_beside_other_classes(tmp_path, first):
    other = write_small(tmp_path / "b.h5", ["no", "yes"], num_classes=1, seed=1)
    sigmoid = {"name": "s", "output": "sigmoid-logits"}
    third = write_small(tmp_path / "c.h5", teacher=sigmoid, seed=2)
    words = ["b.h5 has 1 outputs and 2 class names", "stores of the same classes"]
    assert_refused(ClassNamesError, "class_names", words, [other, third])


@pytest.mark.parametrize(
    ("dustbin", "kind", "words"),
    [
        ("van", ClassNamesError, ["is no class of this store", "dustbin: 'van'", "'ant', 'bee'"]),
        ("Bee", ClassNamesError, ["'Bee' and 'bee' differ only in capitals"]),
        ("bee", ClassNamesError, ["'bee' is the dustbin of", "b.h5 and a class of", "for both"]),
    ],
)
def test_a_dustbin_that_does_not_fit(first, second, dustbin, kind, words):
    members = [first, kd.Member(second, dustbin=dustbin)]
    assert_refused(kind, "class_names", words, members)


def test_a_store_of_a_dustbin_alone(tmp_path, first):
    sigmoid = {"name": "s", "output": "sigmoid-logits"}
    paths = [
        write_small(tmp_path / "c.h5", teacher=sigmoid, seed=2),
        write_small(tmp_path / "d.h5", ["none"], teacher=sigmoid, seed=3),
    ]
    words = ["d.h5 has no class besides its dustbin, 'none'.", "Leave the store out."]
    members = [paths[0], kd.Member(paths[1], dustbin="none")]
    assert_refused(ClassNamesError, "class_names", words, members)


def test_groups_of_classes_that_no_teacher_compares(tmp_path, first):
    other = write_small(tmp_path / "b.h5", ["van", "bus"], seed=1)
    words = ["fall into 2 groups that no teacher compares", "classes: 'ant', 'bee', 'cat'"]
    words += ["classes: 'van', 'bus'", "Add a teacher that knows classes of several groups"]
    assert_refused(ClassNamesError, "class_names", words, [first, other])
    third = write_small(tmp_path / "c.h5", ["van", "bus", "none"], seed=2)
    assert kd.combine_stores([first, kd.Member(third, dustbin="none")]).num_classes == 5
    assert_refused(ClassNamesError, "class_names", ["2 groups"], [first, third])


@pytest.mark.parametrize("rule", ["logits", "divergence"])
def test_a_class_of_which_only_a_teacher_without_weight_knows(tmp_path, first, rule):
    other = write_small(tmp_path / "b.h5", ["bee", "cat", "van"], seed=1)
    words = ["No teacher that is heard knows the class 'van':", "b.h5 has the weight 0"]
    assert_refused(OptionError, "bad_option", words, [first, other], [1, 0], rule)
    assert kd.combine_stores([first, other], [0.9, 0.1], rule).num_classes == 4


def test_an_unfinished_store(tmp_path, first):
    other = write_small(tmp_path / "b.h5", num_blocks=1)
    words = ["b.h5 is unfinished: 4 of 10 rows", "Run the same `streamkd teach` command again"]
    assert_refused(UnfinishedStoreError, "unfinished_store", words, [first, other])


def test_one_store_twice(tmp_path, first):
    words = ["a.h5 is given twice.", "give weights: `--store S.h5=0.7`"]
    assert_refused(OptionError, "bad_option", words, [first, first])
    copy = write_small(tmp_path / "copy.h5", teacher=kd.open_store(first).header.teacher)
    words = ["a.h5 is given twice, once as the copy", "copy.h5"]
    assert_refused(OptionError, "bad_option", words, [first, copy])


def test_a_sigmoid_beside_a_softmax(tmp_path, first):
    sigmoid = {"name": "s", "output": "sigmoid-logits"}
    other = write_small(tmp_path / "b.h5", seed=1, teacher=sigmoid)
    words = ["independent labels cannot be combined", "b.h5: sigmoid", "a.h5: does not say"]
    words += ["`--teacher-output sigmoid-logits`"]
    assert_refused(StoreError, "store", words, [first, other])


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([0.7, 0.5], ["do not sum to 1", "0.7 + 0.5 = 1.2", "a.h5=0.583333", "b.h5=0.416667`"]),
        ([2, 1], ["2 + 1 = 3", "a.h5=0.666667", "b.h5=0.333333`"]),
        ([0, 0], ["are all 0, so that no teacher is heard"]),
        ([-0.5, 1.5], ["weight of", "a.h5 is -0.5; a weight is a number from 0 to 1"]),
        ([float("nan"), 1], ["a.h5 is nan;"]),
        ([float("inf"), 0], ["a.h5 is inf;"]),
        ([True, 0], ["a.h5 is True;"]),
        (["0.5", 0.5], ["a.h5 is '0.5';"]),
        ([0.5, None], ["a.h5 has a weight, and", "b.h5 has none", "or for none of them"]),
        ([1.0], ["There are 2 stores and 1 weights"]),
        (0.5, ["weights is 0.5; give a list"]),
        ({0.5}, ["weights is {0.5}; give a list with a weight for each store, in the order"]),
        (b"ab", ["weights is b'ab'; give a list"]),
        (np.array(0.5), ["weights is array(0.5); give a list"]),
        (np.full((2, 1), 0.5), ["weights is array(", "give a list"]),
        ([10**400, 1], ["a.h5 is 1000", "a weight is a number from 0 to 1"]),
        ([{0: 0.5, "bee": 1, "cat": 1}, 0.5], ["by 0, of the type int", "Write it in quotes"]),
        (
            [{"ant": 1, "bee": 0.5, "cat": 0.5}, 0.5],
            ["for the class 'ant' do not", "1 + 0.5", "0.666667 in"],
        ),
        ([{"ant": 1, "bee": 0.5}, 0.5], ["leave out 1 of its 3 classes; the first is 'cat'"]),
        ([{"ant": 1, "Bee": 0, "bee": 1, "cat": 1}, 0], ["first unknown: 'Bee'", "in capitals"]),
        ([{"ant": -1, "bee": 1, "cat": 1}, 0], ["a.h5 for 'ant' is -1;"]),
    ],
)
def test_weights(first, second, weights, words):
    assert_refused(OptionError, "bad_option", words, [first, second], weights)


def test_weights_that_are_offered_are_accepted(tmp_path):
    paths = [write_small(tmp_path / f"{n}.h5", seed=n) for n in range(3)]
    words = str(refusal(kd.combine_stores, paths, [1, 1, 1]))
    offered = [float(text) for text in re.findall(r"h5=([\d.]+)", words)]
    assert offered[1:] == [0.333333, 0.333333]
    assert kd.combine_stores(paths, offered).num_images == 10


def test_weights_that_are_given_twice(first, second):
    words = ["a.h5 is given twice: by its Member, and by weights"]
    members = [kd.Member(first, 0.5), kd.Member(second, 0.5)]
    assert_refused(OptionError, "bad_option", words, members, [0.5, 0.5])
    mapping = {first: 0.5, second: 0.5}
    words = ["a mapping to their weights, and weights are given besides"]
    assert_refused(OptionError, "bad_option", words, mapping, [0.5, 0.5])


def test_weights_by_class_without_class_names(tmp_path):
    paths = [write_small(tmp_path / f"{n}.h5", [], seed=n, num_classes=2) for n in range(2)]
    words = ["these stores have no class names"]
    assert_refused(OptionError, "bad_option", words, paths, [{"ant": 1}, 0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"oversampling": 0, "dustbin": "cat"}, "oversampling is 0; it must be a positive number"),
        ({"oversampling": "2", "dustbin": "cat"}, "oversampling is '2'"),
        ({"oversampling": 10**400, "dustbin": "cat"}, "oversampling is 1000"),
        ({"oversampling": 2}, "oversampling is 2 for .*a.h5, which has no dustbin"),
        ({"dustbin": 3}, "dustbin is 3; give the name of a class"),
    ],
)
def test_a_member(first, options, words):
    assert re.search(words, str(refusal(kd.Member, first, **options)))


@pytest.mark.parametrize(
    ("stores", "kind"),
    [("a.h5", "str"), (7, "int"), ({"a.h5"}, "set"), (iter(()), "tuple_iterator")],
)
def test_stores_that_are_no_list(stores, kind):
    words = [f"The stores are of the type {kind}, which is no list.", "Give a list such as"]
    assert_refused(OptionError, "bad_option", words, stores)


def test_too_few_stores_and_an_unknown_rule(first, second):
    words = ["at least two stores, and there is 1", "Add another"]
    assert_refused(OptionError, "bad_option", words, [first])
    assert_refused(OptionError, "bad_option", ["there is 0"], [])
    words = ["rule is 'mean'; choose one of auto, logits, probabilities, divergence"]
    assert_refused(OptionError, "bad_option", words, [first, second], rule="mean")
