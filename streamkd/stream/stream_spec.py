"""The specification of a stream: which images, which of their views, in which order, read how.

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
from streamkd.store.row_store import RowStore
from streamkd.stream.cache.pixel_cache import PixelCache
from streamkd.views.operation import ViewOperation
from streamkd.views.views import Views


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StreamSpec:
    """Joined images and all that decides on their batches.

    Attributes:
      images: the manifest.
      store: the logit store, or None in a stream of labels alone.
      rows: int64 `[num_images]`, the row of each image's view 0; -1 without logits.
      labels: int32 `[num_images]`, class numbers of the logits; -1 is no label.
      class_names: the classes in the order of the logits, or None.
      num_classes: number of logits.
      options: how files become pixels.
      batch_size: rows a batch, over all workers.
      seed, shuffle: of the order.
      independent: the views that are drawn anew for every epoch; None to replay those of the store.
      operation: the user's own operation on the views shown, with its function; or None.
      on_bad: 'raise' or 'skip' at a file that cannot be decoded or has changed.
      cache: where decoded pixels are kept, or None.
      balance: whether every class is drawn equally often.
      views_per_decode: rows that are made of one decoded file.
    """

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
    cache: PixelCache | None = None
    balance: bool = False
    views_per_decode: int = 1

    @functools.cached_property
    def views(self) -> Views:
        """The views that the teacher answered."""
        return Views(0) if self.store is None else Views.from_dict(self.store.header.views)

    @property
    def shown(self) -> Views:
        """The views that the student is shown."""
        return self.independent or self.views

    @property
    def is_mixed(self) -> bool:
        """Whether neighbours in a batch are mixed with each other."""
        return self.independent is None and self.views.mixes
