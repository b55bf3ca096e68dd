"""Rows that have their checksum and that no teacher gave: named by `verify`, refused when read."""

import re

import numpy as np
import pytest
import store_helpers as helpers

from streamkd.errors import DamagedStoreError
from streamkd.store import codecs
from streamkd.store.collection import open_store
from streamkd.store.verify_file import verify_store
from streamkd.store.writer import StoreWriter
from streamkd.views.possible_parameters import impossible_parameters
from streamkd.views.views import Views

VIEWS = Views(2, crop=(0.3, 1.0), flip=True, color=0.4, erase=0.5, mixup=0.8, cutmix=0.5)
IMAGES, CLASSES = 5, 21
ROWS = IMAGES * VIEWS.num_views
FORGED_ROW = 7  # view 1 of the third image


def rows_of(codec):
    """Returns what a teacher's pass writes for `IMAGES` images, by dataset, each `[rows, …]`."""
    hashes = np.arange(1, IMAGES + 1, dtype=np.uint64)
    partners = VIEWS.match(hashes)
    own = np.repeat(hashes[:, None], VIEWS.num_views, axis=1)
    others = np.where(partners < 0, own, hashes[partners])
    drawn = VIEWS.draw(hashes) | {"view_partner": partners} | VIEWS.draw_mixing(own, others)
    drawn = {name: values.reshape(ROWS, *values.shape[2:]) for name, values in drawn.items()}
    logits = np.random.default_rng(3).normal(size=(ROWS, CLASSES)).astype(np.float32)
    return drawn | codecs.get(codec).encode(logits)


def store_of(path, codec, stored):
    """Writes a finished store whose rows have the right checksums, whatever they hold."""
    changes = {"num_views": VIEWS.num_views, "views": VIEWS.to_dict(), "block_rows": ROWS}
    helpers.create(path, IMAGES, codec=codec, num_classes=CLASSES, **changes)
    with StoreWriter(path) as writer:
        content = helpers.content_of(range(IMAGES))
        writer.write_stored(0, stored, content, np.zeros(IMAGES, bool))
        writer.finish(helpers.SUMMARY)


NOT_FINITE = "its logits are not finite"
FORGED = [
    ("float32", "logits", np.nan, NOT_FINITE),
    ("float32", "logits", -np.inf, NOT_FINITE),
    ("float16", "logits", np.inf, NOT_FINITE),
    ("float16", "logits", np.nan, NOT_FINITE),
    ("packed:8", "scale", np.nan, NOT_FINITE),
    ("packed:3+3", "scale", np.inf, NOT_FINITE),
    ("packed:0+3", "scale", -np.inf, NOT_FINITE),
    ("packed:8", "scale", 3e38, NOT_FINITE),  # a level beyond float32
    ("packed:0+3", "kept_classes", CLASSES, "it is not one that the codec packed:0+3 writes"),
    ("float16", "view_share", 5, "its `view_share` is 5.0; it must be 0 to 1"),
    ("float16", "view_share", -0.5, "its `view_share` is -0.5; it must be 0 to 1"),
    ("float16", "view_share", np.nan, "its `view_share` is nan; it must be 0 to 1"),
    ("float16", "view_crop", np.nan, "its `view_crop` is [nan, nan, nan, nan]; it must be a box"),
    ("float16", "view_crop", [0.5, 0, 0.25, 1], "its `view_crop` is [0.5, 0.0, 0.25, 1.0]"),
    ("float16", "view_paste", [0, 0, 1, 2], "a box, y1, x1, y2, x2, from 0 to 1"),
    ("float16", "view_erase", [-1, 0, 1, 1], "a box, y1, x1, y2, x2, from 0 to 1"),
    ("float16", "view_color", 9, "it must be three factors, 0.6 to 1.4"),
    ("float16", "view_flip", 2, "its `view_flip` is 2; it must be 0 or 1"),
    ("float16", "view_partner", IMAGES, "its `view_partner` is 5; it must be one of 5 images"),
    ("float16", "view_partner", -3, "must be one of 5 images, -1 for none, or -2 for one gone"),
]


@pytest.mark.parametrize(("codec", "name", "value", "words"), FORGED)
def test_a_row_that_no_teacher_gave_is_named_although_it_has_its_checksum(
    tmp_path, codec, name, value, words
):
    path, stored = tmp_path / "s.h5", rows_of(codec)
    stored[name][FORGED_ROW] = value
    store_of(path, codec, stored)
    report = verify_store(path)
    (problem,) = report.problems
    image, view = divmod(FORGED_ROW, VIEWS.num_views)
    assert (problem["key"], problem["view"]) == (helpers.keys_of(IMAGES)[image], view)
    assert "the row has its checksum, and no teacher gave it: " in problem["reason"]
    assert words in problem["reason"]
    with pytest.raises(DamagedStoreError, match=re.escape(words)) as caught:
        open_store(path).gather(np.arange(ROWS))
    assert f"view {view} (row {FORGED_ROW})" in str(caught.value)
    with pytest.raises(DamagedStoreError, match=re.escape(words)):
        open_store(path).view_parameters(np.arange(ROWS))
    assert len(open_store(path).gather(np.arange(FORGED_ROW))) == FORGED_ROW


@pytest.mark.parametrize("codec", ["float32", "float16", "packed:8", "packed:2+3", "packed:0+3"])
def test_rows_as_a_teacher_gives_them_are_sound(tmp_path, codec):
    store_of(tmp_path / "s.h5", codec, rows_of(codec))
    assert verify_store(tmp_path / "s.h5").sound


def test_everything_that_is_drawn_is_possible():
    views = Views(3, crop=(0.01, 1.0), flip=True, color=1.0, erase=1.0, mixup=0.2, cutmix=0.2)
    hashes = np.random.default_rng(0).integers(1, 1 << 63, 20_000).astype(np.uint64)
    own = np.repeat(hashes[:, None], views.num_views, axis=1)
    partners = views.match(hashes)
    mixing = views.draw_mixing(own, np.where(partners < 0, own, hashes[partners]))
    drawn = views.draw(hashes) | {"view_partner": partners} | mixing
    for impossible, fault in impossible_parameters(views, drawn, len(hashes)):
        assert not impossible.any(), fault(int(np.flatnonzero(impossible)[0]))
