"""One pass of a teacher over one store file: every block that is missing is answered and kept.

    store = TeacherPass(setup, images, "teacher.h5").run()

The pass goes through the store's blocks of rows, always grouped in the same way, since regrouping
a batch changes the last bits of a float32 model's answers. A block that has been written is never
asked for again: kill the pass at any moment, start it again, and it goes on. On the same machine
the finished file is the same to the byte.

The store is created when the first block has been answered, so that a teacher or an image that
does not fit leaves nothing behind; the answers go on from there.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from streamkd.errors import OtherImagesError, StoreError, TeacherError, readable_key
from streamkd.image_options import DECODER, ImageOptions
from streamkd.manifest.class_names import renumber, shown
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.bad_images import refuse_bad_image
from streamkd.store import codecs
from streamkd.store.codecs.check_range import check_range
from streamkd.store.fill import Answer, check_same, fill_store
from streamkd.store.layout import StoreHeader
from streamkd.store.reader import LogitStore
from streamkd.store.store_list import refuse_stale_list
from streamkd.store.writer import create_store
from streamkd.teachers.rendered_blocks import AllInBlocks, DrawnViews, rendered_blocks
from streamkd.teachers.teacher import Teacher
from streamkd.views.views import Views

# Between two machines, or with float16 in the store, the last digits differ: up to 1e-3 of the
# largest logit. Another preprocessing or another teacher differs by tenths of it and more.
ANSWER_TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherSetup:
    """What the answers depend on, apart from the images.

    Attributes:
      teacher: who is asked.
      options: how files become the pixels that it sees.
      class_names: its classes in the order of its outputs, or None where they have no names.
      batch_size: rows that are answered and committed at once, or a few less: whole images.
      codec: how its logits are kept.
      views: which renditions of an image are answered.
    """

    teacher: Teacher
    options: ImageOptions
    class_names: list[str] | None
    batch_size: int
    codec: str
    views: Views

    @property
    def images_per_block(self) -> int:
        return max(1, self.batch_size // self.views.num_views)

    def check_same(self, store: LogitStore) -> None:
        """Refuses a store that was begun with anything else.

        Raises:
          StoreError: names what differs, with both sides.
        """
        header = store.header
        if self.teacher.output_kind == "auto":
            self.teacher.output_kind = header.teacher.get("output", "auto")
        mine = {
            "teacher": self.teacher.identity(),
            "image specification": self.options.to_dict(),
            "--codec": self.codec,
            "view specification": self.views.to_dict(),
            "--batch-size": self.images_per_block * self.views.num_views,
            "decoder": DECODER,
            "--class-names": self.class_names or [],
        }
        theirs = {
            "teacher": header.teacher,
            "image specification": header.images,
            "--codec": header.codec,
            "view specification": header.views,
            "--batch-size": header.block_rows,
            "decoder": header.decoder,
            "--class-names": store.class_names,
        }
        check_same(store.path, mine, theirs)


class TeacherPass:
    """The answers of one teacher to some images, in one store file.

    Attributes:
      setup: what the answers depend on.
      images: in key order.
      path: of the store.
      skip_bad: images that cannot be decoded are marked as refused in the store; by default the
        first of them ends the pass.

    Raises:
      ClassNamesError: a class of the images is not one of the teacher's.
    """

    def __init__(
        self,
        setup: TeacherSetup,
        images: Manifest,
        path: str | os.PathLike,
        *,
        skip_bad: bool = False,
    ) -> None:
        self.setup = setup
        self.images = images
        self.path = os.fspath(path)
        self.skip_bad = skip_bad
        classes = setup.class_names
        self._labels = renumber(images.labels, images.class_names, classes, "the teacher")

    @functools.cached_property
    def _drawn(self) -> DrawnViews:
        """What is answered; matching partners looks at every image, and not every pass asks."""
        return DrawnViews(self.setup.views, self.images.keys)

    def run(self, progress: bool = True) -> LogitStore:
        """Creates or continues the store, fills it, finishes it, and returns it.

        Raises:
          StreamkdError: what does not fit; nothing that was written is lost.
        """
        begun: Iterator[Answer] | None = None
        if not os.path.exists(self.path):
            refuse_stale_list(self.path)
            begun = self._create()
        store = LogitStore(self.path)
        self.setup.check_same(store)
        self._check_images(store)
        self.check_answers(store)

        def answers(groups: list[np.ndarray]) -> Iterator[Answer]:
            # Fewer where another process has answered some since the store was created.
            is_whole = sum(map(len, groups)) == len(self.images)
            return begun if begun is not None and is_whole else self.answers(groups)

        return fill_store(self.path, answers, what="teaching", progress=progress)

    def check_answers(self, store: LogitStore) -> None:
        """Refuses a teacher that answers otherwise than the one that filled `store`.

        Weights do not tell everything (a layer without weights may have been added), and a
        callable has none: so the images of one block are answered again and compared. Images that
        are gone or have changed since are left out.
        """
        block = store.first_done_block()
        if block is None:
            return
        first, count = block * store.header.images_per_block, store.header.images_per_block
        theirs = np.arange(first, min(first + count, store.num_images))
        mine = np.array([self._find(key) for key in store.keys.take(theirs)])
        theirs, mine = theirs[mine >= 0], mine[mine >= 0]
        if not len(mine):
            return
        pixels, content_digests, refused, _ = next(self._read([mine], plain=True))
        same = (content_digests == store.content_of(theirs)) & ~refused
        if not same.any():
            return
        stored = store.gather(theirs[same] * store.num_views)
        now = self.setup.teacher(pixels)[same]
        codec = codecs.get(store.header.codec)
        if now.shape == stored.shape and _nearly_equal(now, stored, codec):
            return
        raise StoreError(
            f"The teacher answers otherwise than when the store {store.path} was begun.\n"
            f"  image '{readable_key(store.keys[int(theirs[same][0])])}'\n"
            f"  now:   {_first_numbers(now[0])}\n"
            f"  store: {_first_numbers(stored[0])}\n"
            "Give the teacher it was begun with, or another path with `--out`."
        )

    def answers(self, groups: Sequence[np.ndarray]) -> Iterator[Answer]:
        """Yields the answer to each group of images, which are asked for now."""
        for group, block in zip(groups, self._read(groups), strict=True):
            pixels, content_digests, refused, alone = block
            views = self._drawn.as_rows(group, alone)
            yield Answer(self.setup.teacher(pixels), content_digests, views, refused)

    def _create(self) -> Iterator[Answer]:
        """Creates the store once the teacher has answered the first block.

        Returns:
          The answers to all blocks, of which the first is there.
        """
        setup, images = self.setup, self.images
        num_views = setup.views.num_views
        blocks = AllInBlocks(len(images), setup.images_per_block)
        answers = self.answers(blocks)
        first = next(answers)
        logits = np.array(first.logits)
        self.check_num_classes(logits.shape[1])
        if first.refused is not None:
            logits[np.repeat(first.refused, num_views)] = 0
        check_range(logits, images.keys.take(blocks[0]), setup.codec)
        header = StoreHeader(
            num_images=len(images),
            num_views=num_views,
            num_classes=logits.shape[1],
            codec=setup.codec,
            block_rows=setup.images_per_block * num_views,
            fingerprint=images.fingerprint,
            images=setup.options.to_dict(),
            views=setup.views.to_dict(),
            decoder=DECODER,
            teacher=setup.teacher.identity(),
            versions=_versions(),
        )
        create_store(self.path, header, images.keys, self._labels, setup.class_names or [])
        return itertools.chain([first], answers)

    def _read(
        self, groups: Sequence[np.ndarray], *, plain: bool = False
    ) -> Iterator[tuple[tf.Tensor, np.ndarray, np.ndarray, np.ndarray]]:
        """Yields the parts of the `Block` of each group.

        Args:
          groups: images that are read together.
          plain: the plain view alone.

        Raises:
          BadImageError: names the file.
        """
        options = self.setup.options
        if plain:
            views = Views(0, canonical_size=self.setup.views.canonical_size)
            drawn = DrawnViews(views, self.images.keys)
        else:
            drawn = self._drawn
        blocks = rendered_blocks(self.images, groups, drawn, options, skip_bad=self.skip_bad)
        batches = iter(blocks)
        for group in groups:
            try:
                pixels, *rest = next(batches)
            except tf.errors.OpError as error:
                involved = np.unique(np.concatenate([group, drawn.partners_of(group)]))
                refuse_bad_image(error, self.images, involved.tolist(), options)
                raise
            content_digests, refused, alone = (part.numpy() for part in rest)
            yield pixels, content_digests, refused, alone

    def _find(self, key: bytes) -> int:
        """Returns the number of the image with this key; -1 where there is none."""
        place = bisect.bisect_left(self.images.keys, key)
        found = place < len(self.images) and self.images.keys[place] == key
        return place if found else -1

    def check_num_classes(self, num_outputs: int) -> None:
        """Refuses a teacher that has not one output a class."""
        classes = self.setup.class_names
        if classes is not None and num_outputs != len(classes):
            raise TeacherError(
                f"The teacher has {num_outputs} outputs, and there are {len(classes)} classes."
                f"\n  teacher: {self.setup.teacher.name}, {num_outputs} outputs\n"
                f"  classes: {shown(classes)}\n"
                "Give the teacher's classes in the order of its outputs, one a line: "
                "`--class-names FILE`; an output that is no class is left out by `--drop-output N`."
            )

    def _check_images(self, store: LogitStore) -> None:
        if store.header.fingerprint != self.images.fingerprint:
            raise other_images(self.images, store)


def other_images(images: Manifest, store: LogitStore) -> OtherImagesError:
    """Returns the refusal of a store that was written for other images."""
    header = store.header
    return OtherImagesError(
        "The logit store was written for other images.\n"
        f"  images: {os.fsdecode(images.root)} ({len(images):,} images, "
        f"fingerprint {images.fingerprint[:8]})\n"
        f"  store:  {store.path} ({header.num_images:,} images, "
        f"fingerprint {header.fingerprint[:8]})\n"
        f"{_first_difference(images, store)}"
        "Give another path with `--out`, or move the old store away."
    )


def _first_difference(images: Manifest, store: LogitStore) -> str:
    """Returns a line that names the first image that one side has and the other has not."""
    missing = np.flatnonzero(store.images_of_keys(images.keys) < 0)
    if len(missing):
        key = readable_key(images.keys[missing[0]])
        return f"  first of {len(missing):,} images without logits: '{key}'\n"
    if len(images) < store.num_images:
        return f"  {store.num_images - len(images):,} images of the store are not there\n"
    return "  the same keys with other labels or class names\n"


def _nearly_equal(now: np.ndarray, stored: np.ndarray, codec: codecs.Codec) -> bool:
    """Returns whether two answers differ by no more than rounding, on this or another machine."""
    if not (np.abs(now) <= codec.largest).all():
        return False
    apart = np.abs(codec.decode(codec.encode(now), now.shape[1]) - stored)
    # Of packed logits a few may fall on the other side of a border between two levels.
    typical = apart.max() if isinstance(codec, codecs.FloatCodec) else apart.mean()
    return bool(typical <= ANSWER_TOLERANCE * (np.abs(stored).max() + 1e-6))


def _first_numbers(logits: np.ndarray) -> str:
    more = ", …" if len(logits) > 5 else ""
    return ", ".join(f"{number:.4g}" for number in logits[:5]) + more


def _versions() -> dict[str, str]:
    import h5py

    import streamkd

    return {
        "streamkd": streamkd.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "h5py": h5py.__version__,
    }
