"""The specification of a stream: its images, their views, the order, and how files are read.

    spec = StreamSpec(images=images, store=store, rows=rows, labels=labels, …)
    stream = Stream(spec)

`join` makes the specification after all checks, and every module of the stream takes it whole.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.cache.cache_part import CachePart
from streamkd.pixels.cache.pixel_cache import PixelCache
from streamkd.store.row_store import RowStore
from streamkd.stream.teacher_columns import TeacherColumns
from streamkd.views.operation import ViewOperation
from streamkd.views.views import Views


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StreamSpec:
    """Joined images and all that decides on their batches; `Stream` documents the fields."""

    images: Manifest
    store: RowStore | None
    rows: np.ndarray
    labels: np.ndarray
    class_names: list[str] | None
    num_classes: int
    options: ImageOptions
    batch_size: int
    seed: int
    shuffle: bool
    independent: Views | None = None
    operation: ViewOperation | None = None
    on_bad: str = "raise"
    cache: PixelCache | CachePart | None = None
    balance: bool = False
    views_per_decode: int = 1
    multi_hot: np.ndarray | None = None
    teacher_columns: TeacherColumns | None = None

    @functools.cached_property
    def views(self) -> Views:
        """The views that the teacher answered."""
        return Views(0) if self.store is None else Views.from_dict(self.store.header.views)

    @property
    def labelled(self) -> np.ndarray:
        """bool `[num_images]`, the images whose label, or list of labels, is known."""
        known = self.labels[:, None] if self.multi_hot is None else self.multi_hot
        return np.all(known >= 0, axis=1)

    @property
    def shown(self) -> Views:
        """The views that the student is shown."""
        return self.independent or self.views

    @property
    def is_mixed(self) -> bool:
        """Whether neighbours in a batch are mixed with each other."""
        return self.independent is None and self.views.mixes
