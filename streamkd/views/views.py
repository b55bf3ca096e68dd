"""Views: fixed renditions of an image, drawn once and stored with the teacher's answers.

    views = Views(8, crop=(0.35, 1.0), flip=True, mixup=0.8)
    drawn = views.draw(hash_keys(keys))       # {"view_crop": float32 [images, 9, 4], …}

View 0 is always the plain image; `Views(8)` adds views 1 to 8. The parameters of a view are a hash
of the seed, the key and the number of the view, so that the order of drawing does not matter. They
are drawn when the teacher is asked, and stored with its answer. A student's stream reads the stored
parameters and draws nothing. `views/render.py` renders pixels from them.

The parameters of a view, in the order in which they are applied:

| parameter      | dtype, shape a view | meaning                                                  |
|----------------|---------------------|----------------------------------------------------------|
| `view_crop`    | f4 `[4]`            | corners y1, x1, y2, x2 of the crop, relative: 0 to 1     |
| `view_flip`    | u1                  | 1: mirrored, left and right                              |
| `view_color`   | f4 `[3]`            | factors of brightness, contrast and saturation           |
| `view_seed`    | u8                  | seed of the user's own operation (`operation.py`)        |
| `view_partner` | i8                  | image that the view is mixed with; -1: none              |
| `view_share`   | f4                  | the image's own fraction of the mixture, 0 to 1          |
| `view_paste`   | f4 `[4]`            | cutmix: the box that the partner fills; empty: mixup     |
| `view_erase`   | f4 `[4]`            | corners of a box that is grey; empty: none               |
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from streamkd.checks import check_types
from streamkd.errors import OptionError
from streamkd.public import public
from streamkd.views.operation import ViewOperation

# Specification of the plain view alone.
PLAIN = {"kind": "plain", "count": 1}

# Smallest and largest aspect ratio of a crop; area, as a fraction, and aspect ratio of an erased
# box: those of the papers (Szegedy 2015; Zhong 2017) and of every library since.
_CROP_RATIO = (3 / 4, 4 / 3)
_ERASE_AREA = (0.02, 1 / 3)
_ERASE_RATIO = (0.3, 3.3)
_NO_BOX = np.zeros(4, np.float32)
# Parameters of the plain view.
NEUTRAL: dict[str, Any] = {
    "view_crop": [0, 0, 1, 1],
    "view_flip": 0,
    "view_color": [1, 1, 1],
    "view_seed": 0,
    "view_partner": -1,
    "view_share": 1,
    "view_paste": [0, 0, 0, 0],
    "view_erase": [0, 0, 0, 0],
}
# 2^64 divided by the golden ratio: the increment of SplitMix64.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@public
@dataclasses.dataclass(frozen=True)
class Views:
    """The number of views besides the plain one, and the range of their parameters.

    Attributes:
      count: number of drawn views; 0 for the plain image alone.
      crop: smallest and largest fraction of the image's area that a crop keeps, or None.
      flip: mirror half of the views.
      color: largest distance of the factors of brightness, contrast and saturation from 1, 0 to 1.
      erase: fraction of the views in which a box is erased.
      mixup: parameter of the Beta distribution of mixup's fractions (Zhang 2018); 0 for no mixup.
      cutmix: parameter of the Beta distribution of cutmix's areas (Yun 2019); 0 for no cutmix. With
        both, a coin decides for each pair.
      canonical_size: (height, width) to which every image is resized before views are cut from it;
        None to cut them from the file's own pixels. The pixel cache needs a canonical size.
      operation: the user's own operation, applied to each drawn view with another seed; or None.
      seed: seed of all draws.

    Raises:
      OptionError: a value outside its range.
    """

    count: int
    _: dataclasses.KW_ONLY
    crop: tuple[float, float] | None = None
    flip: bool = False
    color: float = 0.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    canonical_size: tuple[int, int] | None = None
    operation: ViewOperation | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 0:
            raise OptionError(f"--views is {self.count!r}; it must be a whole number from 0.")
        check_types(Views, vars(self))
        if self.crop is not None:
            low, high = self.crop
            if not 0 < low <= high <= 1:
                raise OptionError(
                    f"--crop is {low} {high}; give the smallest and the largest fraction of the "
                    "area, such as 0.35 1."
                )
            object.__setattr__(self, "crop", (float(low), float(high)))
        for name in ("color", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"--{name} is {getattr(self, name)}; it must lie in 0 to 1.")
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < 100:
                raise OptionError(f"--{name} is {getattr(self, name)}; it must lie in 0 to 100.")
        if not 0 <= self.seed < 2**32:
            raise OptionError(f"the seed of the views is {self.seed}; it must be 0 to 4294967295.")
        if self.operation is not None and not isinstance(self.operation, ViewOperation):
            raise OptionError(
                f"The operation of the views is {self.operation!r}; give a "
                "`kd.ViewOperation(name, version, function)`."
            )
        drawn = self.crop or self.flip or self.color or self.erase or self.operation
        if not self.count and (drawn or self.mixes):
            raise OptionError("There are no views to crop, change or mix.\nAdd `--views 8`.")

    @property
    def num_views(self) -> int:
        """Rows of each image: the plain view and the drawn ones."""
        return 1 + self.count

    @property
    def mixes(self) -> bool:
        """Whether views are mixed with other images."""
        return bool(self.mixup or self.cutmix)

    def to_dict(self) -> dict[str, Any]:
        """Returns the view specification as a store keeps it."""
        if not self.count and self.canonical_size is None:
            return dict(PLAIN)
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values["count"], values["operation"]
        for name in ("crop", "canonical_size"):
            values[name] = None if values[name] is None else list(values[name])
        if self.operation is not None:  # specifications without one stay as older versions wrote
            values["operation"] = self.operation.to_dict()
        return {"kind": "drawn", "count": self.num_views, **values}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Views:
        """Returns the views of a specification; an operation comes without its function.

        Raises:
          OptionError: a specification of a newer version.
        """
        known = {field.name for field in dataclasses.fields(cls)} | {"kind"}
        unknown = sorted(set(values) - known)
        if unknown or values.get("kind") not in ("plain", "drawn"):
            raise OptionError(
                f"The view specification has an unknown field, {(unknown or ['kind'])[0]!r}, of a "
                "newer streamkd.\nUpgrade with `pip install --upgrade streamkd`."
            )
        fields = {n: v for n, v in values.items() if n not in ("kind", "count")}
        for name in ("crop", "canonical_size"):
            if fields.get(name) is not None:
                fields[name] = tuple(fields[name])
        if "operation" in fields:
            fields["operation"] = ViewOperation.from_dict(fields["operation"])
        return cls(values["count"] - 1, **fields)

    def datasets(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Returns dtype and shape of each stored parameter, for one view."""
        parameters = {
            "view_crop": ("<f4", (4,), self.crop is not None),
            "view_flip": ("|u1", (), self.flip),
            "view_color": ("<f4", (3,), self.color > 0),
            "view_seed": ("<u8", (), self.operation is not None),
            "view_partner": ("<i8", (), self.mixes),
            "view_share": ("<f4", (), self.mixes),
            "view_paste": ("<f4", (4,), self.cutmix > 0),
            "view_erase": ("<f4", (4,), self.erase > 0),
        }
        return {name: (dtype, shape) for name, (dtype, shape, used) in parameters.items() if used}

    def draw(self, key_hashes: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the parameters of every view of images, without partners; view 0 is plain.

        They are arrays `[images, num_views, …]`, typed as in `datasets`. `key_hashes` are uint64
        `[images]`, from `keys.hash_keys`.
        """
        views = np.arange(1, self.num_views, dtype=np.uint64)
        uniform = functools.partial(_uniform, self.seed, key_hashes[:, None], views[None, :])
        drawn: dict[str, np.ndarray] = {}
        if self.crop is not None:
            drawn["view_crop"] = _boxes(uniform, "crop", self.crop, _CROP_RATIO)
        if self.flip:
            drawn["view_flip"] = (uniform("flip") < 0.5).astype(np.uint8)
        if self.color:
            factors = [uniform(n) for n in ("brightness", "contrast", "saturation")]
            drawn["view_color"] = 1 + self.color * (2 * np.stack(factors, axis=-1) - 1)
        if self.operation is not None:  # the plain view alone has the seed 0
            seeds = _hash(self.seed, key_hashes[:, None], views[None, :], "operation")
            drawn["view_seed"] = np.maximum(seeds, np.uint64(1))
        if self.erase:
            boxes = _boxes(uniform, "erase", _ERASE_AREA, _ERASE_RATIO)
            drawn["view_erase"] = np.where(
                uniform("erase at all")[..., None] < self.erase, boxes, _NO_BOX
            )
        stored = {
            name: _with_plain(values, NEUTRAL[name], self.datasets()[name][0])
            for name, values in drawn.items()
        }
        if self.crop is not None:  # rounding may move a corner out of the image
            stored["view_crop"] = np.clip(stored["view_crop"], 0, 1)
        return stored

    def match(self, key_hashes: np.ndarray) -> np.ndarray:
        """Returns int64 `[images, num_views]`, the partner of each image in each view, or -1.

        For each view the images are put into a random order, and neighbours become each other's
        partners. With an odd number of images, one stays alone. View 0 is not mixed.
        """
        partners = np.full((len(key_hashes), self.num_views), -1, np.int64)
        if not self.mixes:
            return partners
        for view in range(1, self.num_views):
            order = np.argsort(
                _hash(self.seed, key_hashes, np.array(view, np.uint64), "partner"), kind="stable"
            )
            first, second = order[0 : len(order) // 2 * 2 : 2], order[1::2]
            partners[first, view], partners[second, view] = second, first
        return partners

    def draw_mixing(self, key_hashes: np.ndarray, partners: np.ndarray) -> dict[str, np.ndarray]:
        """Returns `view_share`, and `view_paste` with cutmix, equal for both partners of a pair.

        Args:
          key_hashes: uint64 `[images, num_views]`, the hash of each image's key in every column.
          partners: uint64 `[images, num_views]`, hashes of the partners' keys; the image's own hash
            for a view that is not mixed.
        """
        views = np.arange(self.num_views, dtype=np.uint64)[None, :]
        # Both images of a pair draw the same numbers.
        low, high = np.minimum(key_hashes, partners), np.maximum(key_hashes, partners)
        uniform = functools.partial(_uniform, self.seed, low ^ _mixed(high), views)
        alone = key_hashes == partners
        cut = uniform("kind") < (0.5 if self.mixup and self.cutmix else float(self.cutmix > 0))
        share = np.where(
            cut, _beta(self.cutmix, uniform("share")), _beta(self.mixup, uniform("share"))
        )
        boxes = _pasted(1 - share, uniform("top"), uniform("left"))
        area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
        share = np.where(cut, 1 - area, share)
        mixing = {"view_share": np.where(alone, 1, share).astype(np.float32)}
        if self.cutmix:
            pasted = cut & ~alone
            mixing["view_paste"] = np.where(pasted[..., None], boxes, _NO_BOX).astype(np.float32)
        return mixing


def _mixed(values: np.ndarray) -> np.ndarray:
    """Returns uint64 hashes of uint64 numbers: the last steps of SplitMix64 (Steele 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _hash(seed: int, key_hashes: np.ndarray, views: np.ndarray, purpose: str) -> np.ndarray:
    """Returns uint64, one for each key and view; the hashes of two purposes are independent."""
    word = np.frombuffer(purpose.encode().ljust(16, b"\0")[:16], "<u8")
    with np.errstate(over="ignore"):
        state = _mixed(np.uint64(seed) * _GOLDEN + word[0])
        state = _mixed(state + word[1] * _GOLDEN + key_hashes)
        return _mixed(state + (views + np.uint64(1)) * _GOLDEN)


def _uniform(seed: int, key_hashes: np.ndarray, views: np.ndarray, purpose: str) -> np.ndarray:
    """Returns float64 in [0, 1), one for each key and view."""
    return (_hash(seed, key_hashes, views, purpose) >> np.uint64(11)) * 2.0**-53


def _boxes(
    uniform: Any, purpose: str, areas: tuple[float, float], ratios: tuple[float, float]
) -> Any:
    """Returns float64 `[…, 4]`, corners of boxes of random area, shape and position.

    The aspect ratio is uniform in its logarithm. A side longer than the image is cut to the image,
    and the other side keeps its length.
    """
    area = areas[0] + (areas[1] - areas[0]) * uniform(f"{purpose} area")
    low, high = np.log(ratios)
    ratio = np.exp(low + (high - low) * uniform(f"{purpose} ratio"))
    height = np.minimum(np.sqrt(area / ratio), 1)
    width = np.minimum(np.sqrt(area * ratio), 1)
    top, left = uniform(f"{purpose} top") * (1 - height), uniform(f"{purpose} left") * (1 - width)
    return np.stack([top, left, top + height, left + width], axis=-1)


def _pasted(area: np.ndarray, vertical: np.ndarray, horizontal: np.ndarray) -> np.ndarray:
    """Returns float64 `[…, 4]`, square boxes around a random point, cut at the image's edges."""
    half = np.sqrt(area) / 2
    corners = [vertical - half, horizontal - half, vertical + half, horizontal + half]
    return np.clip(np.stack(corners, axis=-1), 0, 1)


def _with_plain(values: np.ndarray, neutral: Any, dtype: str) -> np.ndarray:
    """Returns the parameters of drawn views with those of the plain view before them."""
    # Both have one type: NumPy makes float64 of int64 and uint64, which loses bits of a seed.
    neutral = np.asarray(neutral, values.dtype)
    plain = np.broadcast_to(neutral, (len(values), 1, *values.shape[2:]))
    return np.concatenate([plain, values], axis=1).astype(dtype)


def _beta(parameter: float, uniform: np.ndarray) -> np.ndarray:
    """Returns draws of Beta(parameter, parameter) by its inverse, from uniform draws."""
    if not parameter:
        return np.ones_like(uniform)
    cumulative, values = _beta_table(parameter)
    return np.interp(uniform, cumulative, values)


@functools.lru_cache(maxsize=8)
def _beta_table(parameter: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cumulative distribution of Beta(parameter, parameter), and its values x.

    With x = t^(1/a) / 2 below the middle, x^(a-1) dx is dt up to a factor, so that no parameter
    leaves a pole at 0. Above the middle the distribution is the mirror image.
    """
    edges = 0.5 * np.linspace(0, 1, 10_001) ** (1 / parameter)
    centers = 0.5 * ((np.arange(10_000) + 0.5) / 10_000) ** (1 / parameter)
    below = np.concatenate([[0], np.cumsum((1 - centers) ** (parameter - 1))])
    below = 0.5 * below / below[-1]
    return (
        np.concatenate([below, (1 - below[-2::-1])]),
        np.concatenate([edges, 1 - edges[-2::-1]]),
    )
