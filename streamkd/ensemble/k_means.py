"""K-means with at least two points a group; the same points and seed give the same groups.

group_of = k_means(points, 3, seed=0)         # int64 [num_points]
"""

from __future__ import annotations

import numpy as np

_STARTS = 20
_MAX_ROUNDS = 100
# Points that a group has at least: one class alone cannot be confused.
_SMALLEST_GROUP = 2


def k_means(points: np.ndarray, num_groups: int, *, seed: int) -> np.ndarray:
    """Returns the group of each point, int64 `[num_points]`, the best of several starts.

    Args:
      points: float64 `[num_points, coordinates]`, at least twice as many as groups.
      num_groups: how many groups there are.
      seed: of the first centres, which are drawn as k-means++ does.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    best, least = np.zeros(len(points), np.int64), np.inf
    for _ in range(_STARTS):
        centres = _first_centres(points, num_groups, generator)
        group_of = _assigned(points, centres)
        for _ in range(_MAX_ROUNDS):
            before = group_of
            centres = np.stack(
                [points[before == group].mean(axis=0) for group in range(num_groups)]
            )
            group_of = _assigned(points, centres)
            if np.array_equal(group_of, before):
                break
        spread = _distances(points, centres)[np.arange(len(points)), group_of].sum()
        # Two starts that end alike differ by rounding alone: the first is kept.
        if spread < least * (1 - 1e-9):
            best, least = group_of, spread
    return best


def _first_centres(
    points: np.ndarray, num_groups: int, generator: np.random.Generator
) -> np.ndarray:
    """Returns centres that are points, each drawn by its squared distance from those before."""
    chosen = [int(generator.integers(len(points)))]
    while len(chosen) < num_groups:
        distances = _distances(points, points[chosen]).min(axis=1)
        distances[chosen] = 0.0
        total = distances.sum()
        if total > 0:
            chosen.append(int(generator.choice(len(points), p=distances / total)))
        else:  # all points lie on centres
            chosen.append(int(np.setdiff1d(np.arange(len(points)), chosen)[0]))
    return points[chosen]


def _distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Returns squared distances, `[num_points, num_centres]`."""
    return np.stack([((points - centre) ** 2).sum(axis=1) for centre in centres], axis=1)


def _assigned(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Returns the nearest centre of each point; small groups take the points that lose least."""
    distances = _distances(points, centres)
    group_of = distances.argmin(axis=1)
    sizes = np.bincount(group_of, minlength=len(centres))
    while (sizes < _SMALLEST_GROUP).any():
        group = int(sizes.argmin())
        loss = distances[:, group] - distances[np.arange(len(points)), group_of]
        loss[sizes[group_of] <= _SMALLEST_GROUP] = np.inf
        loss[group_of == group] = np.inf
        moved = int(loss.argmin())
        sizes[group_of[moved]] -= 1
        sizes[group] += 1
        group_of[moved] = group
    return group_of
