"""Keys as people have them lead to their images, or are refused with the form that fits."""

import os
import unicodedata
import urllib.parse

import numpy as np
import pytest

from streamkd.errors import OptionError
from streamkd.keys import Keys
from streamkd.manifest.manifest import Manifest
from streamkd.teachers.import_logits import select_listed

NAMES = [f"{c}/{i} ü.png" for c in ("cat", "dog") for i in range(3)]


def manifest(names, root="/data/photos/train"):
    keys = Keys.from_list([os.fsencode(name) for name in names])
    return Manifest(os.fsencode(root), keys, np.zeros(len(names), np.int32), ["all"])


def select(names, keys, root="/data/photos/train"):
    """Returns the names of the images in the order of the keys that found them."""
    keys = [key if isinstance(key, bytes) else os.fsencode(key) for key in keys]
    chosen, rows = select_listed(manifest(names, root), keys)
    found = dict(zip(rows.tolist(), map(os.fsdecode, chosen.keys), strict=True))
    return [found[row] for row in range(len(keys))]


FORMS = {
    "as scan": "{}",
    "dot": "./{}",
    "twice a slash": ".//{}",
    "the end of the root": "train/{}",
    "more of the root": "photos/train/{}",
    "the whole root": "/data/photos/train/{}",
    "dot and root": "./photos/train/{}",
    "root without slash": "data/photos/train/{}",
}
WRITINGS = {
    "plain": lambda text: text,
    "backslashes": lambda text: text.replace("/", "\\"),
    "percents": urllib.parse.quote,
    "url": lambda text: "file://" + urllib.parse.quote(text),
    "a Mac's": lambda text: unicodedata.normalize("NFD", text),
    "backslashes and percents": lambda text: urllib.parse.quote(text.replace("/", "\\")),
}


@pytest.mark.parametrize("writing", list(WRITINGS))
@pytest.mark.parametrize("form", list(FORMS))
def test_keys_of_the_root_are_taken_in_every_form_and_order(form, writing):
    order = np.random.default_rng(0).permutation(len(NAMES))
    names = [NAMES[i] for i in order]
    assert select(NAMES, [WRITINGS[writing](FORMS[form].format(name)) for name in names]) == names


OTHER_ROOTS = {
    "another root": "/home/me/data/train/{}",
    "a root without parts": "/home/me/pictures/{}",
    "a drive": "C:\\data\\{}",
    "above": "../{}",
    "a bucket": "gs://bucket/photos/{}",
}


@pytest.mark.parametrize("form", list(OTHER_ROOTS))
def test_keys_of_another_root_are_taken_with_a_warning(form):
    keys = [OTHER_ROOTS[form].format(name) for name in NAMES]
    with pytest.warns(UserWarning, match=r"another directory: '.*' is taken for the image 'cat/0"):
        assert select(NAMES, keys) == NAMES


def test_names_alone_are_taken_if_each_is_one_image():
    names = ["cat/1.png", "cat/2.png", "dog/3.png"]
    with pytest.warns(UserWarning, match=r"'3\.png' is taken for the image 'dog/3\.png'"):
        assert select(names, ["3.png", "1.png"]) == ["dog/3.png", "cat/1.png"]


def test_a_part_of_the_classes_of_another_root():
    with pytest.warns(UserWarning, match="below another directory"):
        assert select(NAMES, [f"old/{name}" for name in NAMES[:3]]) == NAMES[:3]


REFUSED = {
    "one of several": (
        ["cat/1.png", "dog/1.png"],
        ["1.png"],
        r"1 of 1 keys .*\n  images: .*\(2 images\)\n  first:  '1\.png'\n"
        r"  of that name: 'cat/1\.png', 'dog/1\.png'\n",
    ),
    "another part": (
        ["cat/1.png", "cat/2.png"],
        ["photos/val/cat/1.png", "photos/val/cat/2.png"],
        r"2 of 2 keys .*\n.*\n  first:  'photos/val/cat/1\.png'\n  of that name: 'cat/1\.png'\n",
    ),
    "two roots": (
        ["cat/1.png", "cat/2.png"],
        ["a/cat/1.png", "b/cat/2.png"],
        r"  first:  'a/cat/1\.png'\n  of that name: 'cat/1\.png'\n",
    ),
    "one is gone": (
        ["cat/1.png", "cat/2.png"],
        ["train/cat/1.png", "train/cat/gone.png"],
        r"1 of 2 keys .*\n.*\n  first:  'train/cat/gone\.png'\n  an image: 'cat/1\.png'\n",
    ),
    "an empty key": (["cat/1.png"], [""], r"  first:  ''\n  an image: 'cat/1\.png'\n"),
    "other case": (["cat/1.png"], ["cat/1.PNG"], r"  an image: 'cat/1\.png'\n"),
    "many of the name": (
        [f"{c}/1.png" for c in "abcdef"],
        ["x/1.png"],
        r"'a/1\.png', 'b/1\.png', 'c/1\.png' and 3 more\n",
    ),
    "look-alikes": (
        ["cat/\u00fc.png", "cat/u\u0308.png"],
        ["./cat/\u00fc.png"],
        r"1 of 1 keys",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_keys_that_could_be_others_are_refused_with_the_form_that_fits(case):
    names, keys, words = REFUSED[case]
    with pytest.raises(OptionError, match=words):
        select(names, keys)


def test_two_keys_of_one_image_are_refused():
    with pytest.raises(OptionError, match=r"'cat/1\.png' is listed twice"):
        select(["cat/1.png", "cat/2.png"], ["cat/1.png", "./cat/1.png"])


def test_a_key_that_is_an_image_stays_what_it_is():
    names = ["a%20b.png", "a b.png", "c\\d.png", "c/d.png", "train/x.png", "x.png"]
    assert select(names, names) == names
    twins = ["cat/\u00fc.png", "cat/u\u0308.png", "cat/z.png"]
    assert select(twins, [*twins[:2], "./cat/z.png"]) == twins


def test_bytes_that_are_no_text_keep_their_form():
    assert select([b"cat/\xff.png".decode("utf-8", "surrogateescape")], [b"./cat/\xff.png"])
