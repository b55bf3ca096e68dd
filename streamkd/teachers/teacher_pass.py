"""One pass of a teacher over one store file: every missing block is answered and written.

    setup = teacher_setup(images, "teacher.keras", batch_size=64, codec="float16")
    store = TeacherPass(setup, images, "teacher.h5").run()

The pass goes through the store's blocks of rows and always groups images in the same way, since
another grouping changes the last bits of a float32 model's answers. A block that has been written
is never asked for again: kill the pass at any moment and start it again, and it resumes. On the
same machine the finished file is the same to the byte.

The first answered block creates the store: a teacher or image that does not fit leaves no file.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from streamkd.errors import (
    QueryBudgetError,
    StoreError,
    TeacherError,
    readable_key,
    readable_names,
)
from streamkd.image_options import DECODER, ImageOptions
from streamkd.manifest.class_names import renumber
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.bad_images import refuse_bad_image
from streamkd.pixels.who_decodes import may_need_pillow
from streamkd.store import codecs
from streamkd.store.codecs.check_range import check_range
from streamkd.store.creation import create_store
from streamkd.store.decisions import fits_names
from streamkd.store.fill import Answer, fill_store
from streamkd.store.layout import StoreHeader
from streamkd.store.reader import LogitStore
from streamkd.store.store_list import refuse_stale_index
from streamkd.teachers.drawn_views import DrawnViews
from streamkd.teachers.dropped_outputs import classes_to_give
from streamkd.teachers.first_answers import answers_vary, nearly_equal, warn_of_first_answers
from streamkd.teachers.kept_pixels import KeptPixels
from streamkd.teachers.other_images import other_images
from streamkd.teachers.provenance import check_same, package_versions
from streamkd.teachers.rendered_blocks import Blocks, rendered_blocks
from streamkd.teachers.teacher import NO_WEIGHTS, Teacher
from streamkd.views.views import Views

# Largest difference of two answers of one teacher, as a fraction of the largest logit. Another
# machine, or float16 in the store, changes the last digits, up to 1e-3; another preprocessing or
# another teacher changes tenths and more.
ANSWER_TOLERANCE = 0.01
# What a message offers to images whose classes the teacher does not name.
_MAPPED_LATER = (
    "Teach with `--labels none` if the teacher knows only some of your classes. If several of the "
    "teacher's classes are one of yours, teach with `--labels none`, and train "
    "with `--teacher-class-map FILE.json`."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherSetup:
    """All that the answers depend on, apart from the images.

    Attributes:
      teacher: the teacher that is asked.
      options: how files become the pixels that the teacher sees.
      class_names: the teacher's classes in the order of its outputs; None without names.
      batch_size: largest number of rows answered and written at once; a block has whole images.
      codec: name of the codec that keeps the logits.
      views: the renditions of an image that are answered.
    """

    teacher: Teacher
    options: ImageOptions
    class_names: list[str] | None
    batch_size: int
    codec: str
    views: Views

    @property
    def images_per_block(self) -> int:
        """Images that are answered and written at once."""
        return max(1, self.batch_size // self.views.num_views)

    def check_same(self, store: LogitStore) -> None:
        """Raises StoreError for a store that was begun with another setup, naming both sides."""
        header = store.header
        identity = self.teacher.identity(default_output=header.teacher.get("output"))
        if header.teacher.get("weights") == NO_WEIGHTS:  # the first answers tell teachers apart
            identity["weights"] = NO_WEIGHTS
        settings = {
            "teacher": (identity, header.teacher),
            "image specification": (self.options.to_dict(), header.images),
            "--codec": (self.codec, header.codec),
            "view specification": (self.views.to_dict(), header.views),
            "--batch-size": (self.images_per_block * self.views.num_views, header.block_rows),
            "decoder": (DECODER, header.decoder),
            "--class-names": (self.class_names or [], store.class_names),
        }
        check_same(store, settings)


class TeacherPass:
    """The answers of one teacher to all images of a store file.

    Attributes:
      setup: all that the answers depend on.
      images: the images, in key order.
      path: of the store.
      skip_bad: mark images that cannot be decoded as refused in the store; by default the first
        such image ends the pass.
      kept: where the pass leaves the decoded images for training.

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
        kept: KeptPixels | None = None,
    ) -> None:
        self.setup = setup
        self.images = images
        self.path = os.fspath(path)
        self.skip_bad = skip_bad
        self._kept = kept
        classes = setup.class_names
        self._labels = renumber(
            images.labels, images.class_names, classes, "the teacher", _MAPPED_LATER
        )

    @functools.cached_property
    def _drawn(self) -> DrawnViews:
        """Views of all images; made late, since matching partners looks at every image."""
        return DrawnViews(self.setup.views, self.images.keys)

    @functools.cached_property
    def _blocks(self) -> Blocks:
        """Indices of the images of each block of the store."""
        return Blocks(len(self.images), self.setup.images_per_block)

    def run(self, progress: bool = True) -> LogitStore:
        """Creates or resumes the store, fills it, finishes it, and returns it.

        Raises:
          StreamkdError: setup, images and store do not fit; nothing that was written is lost.
        """
        answers = self.answers
        if self._kept is not None:
            self._kept.open()
        if not os.path.exists(self.path):
            refuse_stale_index(self.path)
            answers = functools.partial(self._resumed, self._create())
        store = LogitStore(self.path)
        self.setup.teacher.follow(store.header.teacher)
        self.setup.check_same(store)
        if store.header.fingerprint != self.images.fingerprint:
            raise other_images(self.images, store)
        self.setup.teacher.settle_output(store.header.teacher["output"])
        self.check_answers(store)
        try:
            return fill_store(self.path, answers, activity="teaching", progress=progress)
        except QueryBudgetError as error:
            raise self._stopped_by_budget(error) from error

    def _stopped_by_budget(self, error: QueryBudgetError) -> QueryBudgetError:
        """Returns the refusal that says how far the pass has come."""
        store = LogitStore(self.path)
        answered = store.rows_done // store.num_views
        return QueryBudgetError(
            f"The query budget of this call is used up: {answered:,} of {store.num_images:,} "
            f"images are answered in {store.path}.\n"
            f"Give the same command again, and it goes on. ({error.message.splitlines()[0]})"
        )

    def check_answers(self, store: LogitStore) -> None:
        """Refuses a teacher whose answers differ from those in a store of the same setup.

        The weights alone do not tell two teachers apart (a layer without weights may have been
        added), and a callable has none. So the images of one block are answered again and
        compared. Images that are gone or have changed since are left out. A teacher whose answers
        are paid for is not asked again.
        """
        if not self.setup.teacher.is_asked_twice:
            return
        block = store.first_done_block()
        if block is None:
            return
        first, count = block * store.header.images_per_block, store.header.images_per_block
        in_store = np.arange(first, min(first + count, store.num_images))
        in_images = np.array([self._index_of(key) for key in store.keys.take(in_store)])
        in_store, in_images = in_store[in_images >= 0], in_images[in_images >= 0]
        if not len(in_images):
            return
        plain = DrawnViews(
            Views(0, canonical_size=self.setup.views.canonical_size), self.images.keys
        )
        pixels, content_digests, refused, _ = next(self._read([in_images], plain))
        same = (content_digests == store.content_of(in_store)) & ~refused
        if not same.any():
            return
        stored = store.gather(in_store[same] * store.num_views)
        now = self.setup.teacher(pixels)[same]
        codec = codecs.get(store.header.codec)
        if now.shape == stored.shape and nearly_equal(now, stored, codec, ANSWER_TOLERANCE):
            return
        remedy = "Give the teacher that the store was begun with, or another path with `--out`."
        if answers_vary(self.setup.teacher(pixels)[same], now):
            remedy = (
                "The teacher answers the same image differently each time, so no pass of it can be "
                "resumed.\nGive a teacher whose random layers are called with `training=False`, "
                "and another path with `--out`."
            )
        raise StoreError(
            f"The teacher's answers differ from those in the store {store.path}.\n"
            f"  image '{readable_key(store.keys[int(in_store[same][0])])}'\n"
            f"  now:   {_first_numbers(now[0])}\n"
            f"  store: {_first_numbers(stored[0])}\n"
            f"{remedy}"
        )

    def answers(
        self,
        groups: Sequence[np.ndarray],
        look: Callable[[tf.Tensor, np.ndarray], None] | None = None,
    ) -> Iterator[Answer]:
        """Yields the answer to each group of image indices, and asks the teacher meanwhile.

        `look` is called with the pixels and the logits of the first group.
        """
        for group, block in zip(groups, self._read(groups, self._drawn, self._kept), strict=True):
            pixels, content_digests, refused, alone = block
            views = self._drawn.of_rows(group, alone)
            logits = self.setup.teacher(pixels)
            if look is not None:
                look(pixels, logits)
                look = None
            yield Answer(logits, content_digests, views, refused)

    def first_pixels(self) -> tf.Tensor:
        """Returns the pixels of the first block, float32 `[rows, height, width, channels]`."""
        return next(self._read([self._blocks[0]], self._drawn))[0]

    def _resumed(self, begun: Iterator[Answer], groups: Sequence[np.ndarray]) -> Iterator[Answer]:
        """Returns the answers that `_create` has begun, if every block is still to be written.

        Another process may have written blocks since the store was created; then the teacher is
        asked about the other groups alone.
        """
        return begun if len(groups) == len(self._blocks) else self.answers(groups)

    def _create(self) -> Iterator[Answer]:
        """Creates the store once the teacher has answered the first block.

        Returns the answers to all blocks, the first of which has been made.
        """
        setup, images = self.setup, self.images
        num_views = setup.views.num_views
        look = functools.partial(warn_of_first_answers, setup.teacher)
        answers = self.answers(self._blocks, look)
        first = next(answers)
        logits = np.array(first.logits)
        self.check_num_classes(logits.shape[1])
        if first.refused is not None:
            logits[np.repeat(first.refused, num_views)] = 0
        check_range(logits, images.keys.take(self._blocks[0]), setup.codec)
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
            versions=package_versions("tensorflow", "numpy", "h5py", *self._pillow()),
        )
        create_store(self.path, header, images.keys, self._labels, setup.class_names or [])
        return itertools.chain([first], answers)

    def _pillow(self) -> list[str]:
        """Returns "pillow" where Pillow may decode some of the images."""
        return ["pillow"] if may_need_pillow(self.images.keys, self.setup.options) else []

    def _read(
        self, groups: Sequence[np.ndarray], drawn: DrawnViews, kept: KeptPixels | None = None
    ) -> Iterator[tuple[tf.Tensor, np.ndarray, np.ndarray, np.ndarray]]:
        """Yields the fields of the `Block` of each group, with the views `drawn`.

        Args:
          groups: int64 arrays, indices of images that are read together.
          kept: as in `rendered_blocks`.

        Raises:
          BadImageError: names the file that cannot be decoded.
        """
        options = self.setup.options
        blocks = iter(
            rendered_blocks(self.images, groups, drawn, options, skip_bad=self.skip_bad, kept=kept)
        )
        for group in groups:
            try:
                pixels, *rest = next(blocks)
            except tf.errors.OpError as error:
                involved = np.unique(np.concatenate([group, drawn.partners_of(group)]))
                refuse_bad_image(error, self.images, involved.tolist(), options)
                raise
            content_digests, refused, alone = (part.numpy() for part in rest)
            yield pixels, content_digests, refused, alone

    def _index_of(self, key: bytes) -> int:
        """Returns the index of the image with this key; -1 for an unknown key."""
        index = bisect.bisect_left(self.images.keys, key)
        return index if index < len(self.images) and self.images.keys[index] == key else -1

    def check_num_classes(self, num_outputs: int) -> None:
        """Refuses a teacher whose number of outputs is not the number of classes."""
        classes = self.setup.class_names
        if classes is not None and not fits_names(num_outputs, classes):
            teacher = self.setup.teacher
            outputs = f"{num_outputs} output{'' if num_outputs == 1 else 's'}"
            raise TeacherError(
                f"The teacher has {outputs}, and there are {len(classes)} classes.\n"
                f"  teacher: {teacher.name}, {outputs}\n"
                f"  classes: {readable_names(classes)}\n"
                f"{classes_to_give(classes, num_outputs, teacher.dropped_output)}"
            )


def _first_numbers(logits: np.ndarray) -> str:
    more = ", …" if len(logits) > 5 else ""
    return ", ".join(f"{number:.4g}" for number in logits[:5]) + more
