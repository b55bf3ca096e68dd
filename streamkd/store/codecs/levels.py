"""Levels: evenly spaced numbers that stand for the logits of a row.

    lowest, step, codes = fit_levels(logits, kept, num_levels=7)
    lowest[:, None] + step[:, None] * codes          # instead of the logits that are not kept

The levels change the softmax as little as possible: at temperature 1, where the few large logits
count, and at 20, where all logits count alike. DESIGN.md compares them with the usual rounding
between the smallest and the largest logit.
"""

from __future__ import annotations

import numpy as np

# Temperatures whose KL is minimized, and their weights. One gains at the other's cost (DESIGN.md).
_TEMPERATURES = (1.0, 20.0)
_IMPORTANCES = (1.0, 4.0)
# Rounds of nearest levels and regression.
_ITERATIONS = 4
# Levels on either side of the mean, in standard deviations, from which the fit starts: about
# where normally distributed logits want them.
_REACH = {3: 1.3, 4: 1.5, 7: 1.9, 8: 2.0, 15: 2.5, 16: 2.6, 255: 4.0, 256: 4.0}
# Logits that are fitted at a time, which stay in the second-level cache.
_NUMBERS_AT_ONCE = 1 << 15
# A weight too small to matter, for logits without any other.
_MIN_WEIGHT = np.float32(1e-30)


def fit_levels(
    logits: np.ndarray, kept: np.ndarray | None, num_levels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the lowest level and the step between levels that fit each row's logits best.

    Args:
      logits: float32 `[rows, num_classes]`.
      kept: bool `[rows, num_classes]`, logits that are kept in another way: the largest of each
        row, but not all; None for none.
      num_levels: one of 3, 4, 7, 8, 15, 16, 255, 256.

    Returns:
      lowest: float32 `[rows]`.
      step: float32 `[rows]`, not negative; 0 where all logits are equal.
      codes: uint8 `[rows, num_classes]`, 0 to `num_levels - 1`; meaningless for kept logits.

    No level in use lies above the largest logit that is not kept, and all lie below the kept ones.
    A row's levels depend on that row alone, not on the other rows.
    """
    rows, num_classes = logits.shape
    lowest, step = np.empty(rows, np.float32), np.empty(rows, np.float32)
    codes = np.empty((rows, num_classes), np.uint8)
    at_once = max(1, _NUMBERS_AT_ONCE // num_classes)
    for start in range(0, rows, at_once):
        part = slice(start, start + at_once)
        fit = _Fit(logits[part], None if kept is None else kept[part], num_levels)
        lowest[part], step[part], codes[part] = fit.best()
    return lowest, step, codes


class _Fit:
    """The levels of a few rows.

    Attributes, float32 `[rows, num_classes]` or `[rows, 1]`:
      logits: counted from the largest of the row, so none is positive.
      rest: 1 for a logit that is not kept, else 0.
      probabilities: softmax(logits / temperature) for each temperature, 0 for kept logits.
      weights: cost of a squared error, to the second order of the KL; 0 for kept logits.
      smallest, largest: of the logits that are not kept.
    """

    def __init__(self, logits: np.ndarray, kept: np.ndarray | None, num_levels: int) -> None:
        self.kept = kept
        self.top = logits.max(axis=1, keepdims=True)
        self.logits = logits - self.top
        self.last_code = np.float32(num_levels - 1)
        self.reach = np.float32(_REACH[num_levels])
        self.smallest = self.logits.min(axis=1, keepdims=True)
        self.rest = np.ones_like(logits) if kept is None else (~kept).astype(np.float32)
        self.largest = np.where(self.rest > 0, self.logits, self.smallest).max(
            axis=1, keepdims=True
        )
        self.probabilities, self.wholes = [], []
        # The smallest weight is for rows whose logits, far below the largest, have no probability.
        self.weights = self.rest * _MIN_WEIGHT
        for temperature, importance in zip(_TEMPERATURES, _IMPORTANCES, strict=True):
            probability = np.exp(self.logits * np.float32(1 / temperature))
            whole = _sum(probability)
            probability *= self.rest / whole
            self.weights += probability * np.float32(importance / temperature**2)
            self.probabilities.append(probability)
            self.wholes.append(whole)
        self.weight = _sum(self.weights)
        self.weighted_logit = _sum(self.weights * self.logits) / self.weight

    def best(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns lowest, step and codes of the better of two fits.

        The first fit starts with the levels that suit normally distributed logits, the second with
        the whole range, which a row of two heaps needs (classes ruled out at -10,000, for example).
        """
        probability = self.probabilities[-1] + self.rest * _MIN_WEIGHT
        whole = _sum(probability)
        mean = _sum(probability * self.logits) / whole
        reach = self.reach * np.sqrt(_sum(probability * np.square(self.logits - mean)) / whole)
        first = self._refined(
            np.maximum(mean - reach, self.smallest), np.minimum(mean + reach, self.largest)
        )
        second = self._refined(self.smallest, self.largest)
        better = self._loss(*first) <= self._loss(*second)
        return self._stored(*(np.where(better, a, b) for a, b in zip(first, second, strict=True)))

    def _refined(self, lowest: np.ndarray, highest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns lowest and step after a few rounds of nearest levels and weighted regression."""
        step = np.maximum(highest - lowest, 0) / self.last_code
        for _ in range(_ITERATIONS):
            codes = self._codes(lowest, step)
            mean = _sum(self.weights * codes) / self.weight
            codes -= mean
            weighted = self.weights * codes
            spread, together = _sum(weighted * codes), _sum(weighted * self.logits)
            sloped = (spread > 0) & (together > 0)
            step = np.divide(together, spread, out=step.copy(), where=sloped)
            lowest = np.where(sloped, self.weighted_logit - step * mean, lowest)
        return lowest, step

    def _codes(self, lowest: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Returns the nearest level of each logit, as float32."""
        codes = self.logits - lowest
        codes /= np.where(step > 0, step, np.float32(1))
        np.rint(codes, out=codes)
        np.maximum(codes, 0, out=codes)
        return np.minimum(codes, self.last_code, out=codes)

    def _loss(self, lowest: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Returns the weighted KL of each row, with kept logits taken as exact."""
        rebuilt = self._codes(lowest, step)
        rebuilt *= step
        rebuilt += lowest
        error = self.logits - rebuilt
        loss = np.zeros_like(self.top)
        for probability, whole, temperature, importance in zip(
            self.probabilities, self.wholes, _TEMPERATURES, _IMPORTANCES, strict=True
        ):
            # Not probability * exp(-error): a class that was ruled out has none, and may gain some.
            gained = np.exp(rebuilt * np.float32(1 / temperature))
            gained *= self.rest
            mass = _sum(gained) / whole - _sum(probability)
            moved = _sum(probability * error) / np.float32(temperature)
            loss += np.float32(importance) * (moved + np.log1p(np.maximum(mass, _MIN_WEIGHT - 1)))
        return loss

    def _stored(
        self, lowest: np.ndarray, step: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns lowest, step and codes with no level above the largest logit, as it is read."""
        codes = self._codes(lowest, step)
        last = (codes * self.rest).max(axis=1, keepdims=True)
        lowest, highest = lowest + self.top, self.largest + self.top
        if self.kept is not None:
            # A logit equal to the largest that is not kept must not come back as its equal: other
            # logits of that level would too.
            highest = np.minimum(highest, np.nextafter(self.top, np.float32(-np.inf)))
        for _ in range(3):
            above = step * last + lowest - highest
            down = np.nextafter(lowest - above, np.float32(-np.inf))
            lowest = np.where(above > 0, down, lowest)
        flat = step * last + lowest > highest
        lowest, step = np.where(flat, highest, lowest), np.where(flat, np.float32(0), step)
        return lowest[:, 0], step[:, 0], codes.astype(np.uint8)


def _sum(numbers: np.ndarray) -> np.ndarray:
    # Not a matrix product: the last bits of a row may depend on the other rows.
    return numbers.sum(axis=1, keepdims=True)
