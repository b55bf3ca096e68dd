"""One distribution for teachers that know different classes: the smallest sum of divergences.

    cells = ClassCells(known, with_dustbin)             # known: bool [members, classes]
    log_cells = cells.log_sums(log_evidence)            # [cells, rows]
    log_q = cells.solve(log_cells, mass, dustbin)       # [cells, rows]
    log_q_of_classes = log_evidence + (log_q - log_cells).T[:, cells.of_class]

Each teacher m gives probabilities p_m over the classes S_m that it knows and, if it has an output
"none of these", the dustbin, the mass that is left. The wanted q makes the weighted sum of
KL(p_m ‖ q as m would say it) smallest. A teacher with a dustbin says q's classes of S_m and the sum
of all others (Hinton, Vinyals and Dean, arXiv:1503.02531, equation 5). One without speaks only of
its own classes: q given S_m.

Where the sum is smallest, q(c) = b(c) / D(c). b(c) is the weighted sum of what the teachers say of
class c, and D(c) is the same for all classes that the same teachers know. Such classes make a
cell: a thousand classes and ten specialists with clusters of their own make eleven. So the search
is over the cells, and within a cell q follows b exactly.

The search works on all rows at once, with Newton steps in log q. Where one does not make the sum
smaller, a step of a majorising function takes its place, which never makes it larger. Very many
cells are searched by such steps alone, extrapolated.
"""

from __future__ import annotations

import functools

import numpy as np

# Rows are done where the gradient of every cell is this small beside its evidence, or is rounding.
_TOLERANCE = 1e-9
_ROUNDING = 1e-14
# The time of a Newton step grows with the third power of the number of cells, which many teachers
# whose classes overlap have.
_MAX_NEWTON_CELLS = 40
_MAX_NEWTON_ROUNDS = 100
_MAX_PLAIN_ROUNDS = 1000
# Of a cell's evidence, and of a probability: logarithms carry what is smaller, after the search.
_SMALLEST_EVIDENCE = 1e-200
_SMALLEST = 1e-300
# In natural logarithms: further than this a quadratic model of the sum says nothing.
_LONGEST_STEP = 30.0
_SMALLEST_PIVOT = 1e-13
# Plain steps at the start are cheaper than Newton steps that would be far off.
_FIRST_STEPS = 3


class ClassCells:
    """The classes, in cells that the same teachers know, and the search for q.

    Attributes:
      of_class: int64 `[classes]`, the cell of each class.
      count: how many cells there are.
    """

    def __init__(self, known: np.ndarray, with_dustbin: np.ndarray):
        """Finds the cells.

        Args:
          known: bool `[members, classes]`: which classes each teacher has an output for.
          with_dustbin: bool `[members]`: which teachers have an output for all other classes. It
            plays no part where the teacher knows all classes.
        """
        patterns, of_class = np.unique(known, axis=1, return_inverse=True)
        self.of_class = of_class.reshape(-1).astype(np.int64)
        self.count = patterns.shape[1]
        everything = known.all(axis=1)
        self._whole = everything | with_dustbin
        # Teachers that know the same classes are one term of the sum.
        self._parts, self._part_members = _distinct(patterns, ~self._whole)
        self._outsides, self._outside_members = _distinct(~patterns, with_dustbin & ~everything)
        order = np.argsort(self.of_class, kind="stable")
        self._in_order = bool((order == np.arange(len(order))).all())
        self._order = order
        self._starts = np.searchsorted(self.of_class[order], np.arange(self.count))

    def log_sums(self, log_evidence: np.ndarray) -> np.ndarray:
        """Returns the log of the evidence of each cell, float64 `[cells, rows]`.

        Args:
          log_evidence: float64 `[rows, classes]`: log of b(c) = Σ weight · p_m(c) over the teachers
            that know class c. Finite.
        """
        ordered = log_evidence if self._in_order else log_evidence[:, self._order]
        largest = np.maximum.reduceat(ordered, self._starts, axis=1)
        shifted = ordered - largest[:, self.of_class[self._order]]
        sums = np.add.reduceat(np.exp(shifted), self._starts, axis=1)
        return (largest + np.log(sums)).T

    def solve(self, log_cells: np.ndarray, mass: np.ndarray, dustbin: np.ndarray) -> np.ndarray:
        """Returns log q of each cell; within a cell, q follows the evidence of its classes.

        Args:
          log_cells: float64 `[cells, rows]`, as `log_sums` returns it.
          mass: float64 `[members, rows]`: Σ weight · p_m(c) over the classes of each teacher.
          dustbin: float64 `[members, rows]`: weight · p_m(dustbin), 0 without one.

        Returns:
          float64 `[cells, rows]`. Where teachers without a dustbin meet teachers with one, the sum
          may have several smallest places; the one that is found depends on the row alone.
        """
        if not len(self._parts) and not len(self._outsides):
            return log_cells - _log_sum(log_cells)
        evidence = np.maximum(np.exp(log_cells), _SMALLEST_EVIDENCE)
        whole = self._whole[None].astype(np.float64)
        search = _Search(
            evidence,
            parts=self._parts,
            part_masses=_product(self._part_members, mass),
            outsides=self._outsides,
            outside_masses=_product(self._outside_members, dustbin),
            whole_mass=_product(whole, mass + dustbin)[0],
        )
        # Evidence that was too small for the search scales its cell: D(c) hardly feels it.
        return search.run() + np.minimum(log_cells - np.log(_SMALLEST_EVIDENCE), 0.0)


class _Search:
    """The search over cells. Arrays are `[…, rows]`, so that each operation runs along the rows.

    All operations are elementwise along the rows: a row has the same bits in any batch.
    """

    def __init__(
        self,
        evidence: np.ndarray,
        *,
        parts: np.ndarray,
        part_masses: np.ndarray,
        outsides: np.ndarray,
        outside_masses: np.ndarray,
        whole_mass: np.ndarray,
    ):
        self._evidence = evidence
        self._parts, self._part_masses = parts, part_masses
        self._outsides, self._outside_masses = outsides, outside_masses
        self._whole = whole_mass
        self._free = _added(part_masses) if len(parts) else np.zeros_like(whole_mass)
        if len(evidence) <= _MAX_NEWTON_CELLS:
            self._part_pairs, self._outside_pairs = _pairs(parts), _pairs(outsides)

    def run(self) -> np.ndarray:
        """Returns log q of each cell, `[cells, rows]`."""
        log_q = np.empty_like(self._evidence)
        rows = np.arange(self._evidence.shape[1])
        q = _normalised(self._evidence)
        for _ in range(_FIRST_STEPS):
            q = self._plain_step(q, *self._rates(q, self._masses_of(q)))
        many = len(q) > _MAX_NEWTON_CELLS
        for _ in range(_MAX_PLAIN_ROUNDS if many else _MAX_NEWTON_ROUNDS):
            masses = self._masses_of(q)
            up, down = self._rates(q, masses)
            gradient = q * (self._whole + up - down) - self._evidence
            open_rows = self._are_open(q, gradient)
            if not open_rows.all():
                log_q[:, rows[~open_rows]] = np.log(q[:, ~open_rows])
                if not open_rows.any():
                    return log_q
                self._keep(open_rows)
                kept = (q, up, down, gradient, *masses)
                q, up, down, gradient, *masses = (array[:, open_rows] for array in kept)
                rows = rows[open_rows]
            if many:
                q = self._extrapolated(q, up, down)
            else:
                q = self._next(q, masses, up, down, gradient)
        log_q[:, rows] = np.log(q)
        return log_q

    def _keep(self, rows: np.ndarray) -> None:
        """Leaves the other rows out of the search."""
        self._evidence = self._evidence[:, rows]
        self._part_masses = self._part_masses[:, rows]
        self._outside_masses = self._outside_masses[:, rows]
        self._whole, self._free = self._whole[rows], self._free[rows]

    def _are_open(self, q: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Returns which rows are not solved. Rows that are not numbers are as good as they get."""
        allowed = _TOLERANCE * self._evidence + _ROUNDING * (self._whole + self._free) * q
        open_rows: np.ndarray = (np.abs(gradient) > allowed).any(axis=0)
        return open_rows

    def _masses_of(self, q: np.ndarray) -> list[np.ndarray]:
        """Returns q's mass in each part and outside each specialist, `[sets, rows]` each."""
        return [_product(self._parts, q), _product(self._outsides, q)]

    def _rates(self, q: np.ndarray, masses: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Returns what parts add to D(c) of each cell, and what dustbins take from it."""
        up = _product(self._parts.T, self._part_masses / masses[0], like=q)
        down = _product(self._outsides.T, self._outside_masses / masses[1], like=q)
        return up, down

    def _plain_step(self, q: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
        """Returns a q with a smaller sum, from a bound of the sum that touches it at q."""
        return _normalised((self._evidence + q * down) / (self._whole + up))

    def _next(
        self,
        q: np.ndarray,
        masses: list[np.ndarray],
        up: np.ndarray,
        down: np.ndarray,
        gradient: np.ndarray,
    ) -> np.ndarray:
        """Returns q after a Newton step in log q; a plain step in rows where that is no better."""
        step = _solve(self._curvature(q, masses, gradient), gradient)
        np.clip(step, -_LONGEST_STEP, _LONGEST_STEP, out=step)
        before = self._sums(q, masses) + _ROUNDING * (self._whole + self._free)
        candidate, better = self._moved(q, step, before)
        if better.all():
            return candidate
        # No cell moves further than by a factor of e: so far the model of the sum is nearly right.
        shorter, less = self._moved(q, step / (1 + np.abs(step).max(axis=0)), before)
        fallback = np.where(less, shorter, self._plain_step(q, up, down))
        return np.where(better, candidate, fallback)

    def _extrapolated(self, q: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
        """Returns q after two plain steps, or further their way where the sum is smaller there.

        Varadhan and Roland, Scandinavian Journal of Statistics 35 (2008): squared extrapolation.
        """
        first = self._plain_step(q, up, down)
        second = self._plain_step(first, *self._rates(first, self._masses_of(first)))
        change = np.log(first / q)
        bend = np.log(second / first) - change
        length = np.sqrt(_added(change**2) / np.maximum(_added(bend**2), _SMALLEST))
        length = np.maximum(length, 1.0)
        move = 2 * length * change + length**2 * bend
        candidate = _normalised(q * np.exp(np.clip(move, -_LONGEST_STEP, _LONGEST_STEP)))
        after = self._sums(second, self._masses_of(second))
        better = self._sums(candidate, self._masses_of(candidate)) < after
        return np.where(better, candidate, second)

    def _moved(
        self, q: np.ndarray, step: np.ndarray, before: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns q after a step against `step`, and the rows in which its sum is no larger."""
        factors = np.exp(-step)
        if len(self._outsides):
            # Beside dustbins the sum is convex in q, and a step up in log q would go too far.
            factors = np.where(step < 0, 1 - step, factors)
        candidate = _normalised(q * factors)
        return candidate, self._sums(candidate, self._masses_of(candidate)) <= before

    def _sums(self, q: np.ndarray, masses: list[np.ndarray]) -> np.ndarray:
        """Returns the sum of divergences of each row, up to a constant."""
        sums = -_added(self._evidence * np.log(q))
        if len(self._parts):
            sums += _added(self._part_masses * np.log(masses[0]))
        if len(self._outsides):
            sums -= _added(self._outside_masses * np.log(masses[1]))
        return sums

    def _curvature(
        self, q: np.ndarray, masses: list[np.ndarray], gradient: np.ndarray
    ) -> np.ndarray:
        """Returns the second derivatives of the sum in log q, `[cells, cells, rows]`.

        Away from the solution the larger of two expressions, equal at the solution, stands on the
        diagonal: each alone is right for one kind of teacher only.
        """
        cells = len(q)
        curvature = _product(self._outside_pairs, self._outside_masses / masses[1] ** 2, like=q)
        if len(self._parts):
            curvature -= _product(self._part_pairs, self._part_masses / masses[0] ** 2)
            # The sum does not change where all of log q grows alike. This fixes that direction.
            curvature += self._free
        curvature = curvature.reshape(cells, cells, -1)
        curvature *= q
        curvature *= q[:, None]
        diagonal = np.einsum("kkr->kr", curvature)
        diagonal += self._evidence + np.maximum(gradient, 0.0)
        return curvature


def _product(matrix: np.ndarray, values: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """Returns matrix @ values, added up in one order whatever the number of rows.

    Args:
      matrix: `[sets, n]`.
      values: `[n, rows]`; may be empty where `like`, any array `[…, rows]`, tells the rows.
    """
    rows = values.shape[1] if like is None else like.shape[1]
    result = np.zeros((len(matrix), rows))
    for column, value in zip(matrix.T, values, strict=True):
        result += column[:, None] * value
    return result


def _added(values: np.ndarray) -> np.ndarray:
    """Returns the sum over the first axis, added up in one order whatever the number of rows."""
    return functools.reduce(np.add, values)


def _pairs(sets: np.ndarray) -> np.ndarray:
    """Returns 1 where a set has both cells of a pair, `[cells · cells, sets]`."""
    both = sets[:, :, None] * sets[:, None, :]
    return both.reshape(len(sets), sets.shape[1] ** 2).T


def _solve(matrices: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the solutions of symmetric systems, by elimination along all rows at once.

    LAPACK, called row by row, takes several times as long for matrices of so few cells.
    """
    size = len(right)
    smallest = _SMALLEST_PIVOT * np.einsum("kkr->kr", matrices)
    smallest = np.maximum(smallest, _SMALLEST)
    solution = right.copy()
    for cell in range(size):
        pivot = np.maximum(matrices[cell, cell], smallest[cell])
        matrices[cell, cell] = pivot
        factors = matrices[cell + 1 :, cell] / pivot
        matrices[cell + 1 :, cell + 1 :] -= factors[:, None] * matrices[cell, cell + 1 :]
        solution[cell + 1 :] -= factors * solution[cell]
    for cell in reversed(range(size)):
        for later in range(cell + 1, size):
            solution[cell] -= matrices[cell, later] * solution[later]
        solution[cell] /= matrices[cell, cell]
    return solution


def _normalised(q: np.ndarray) -> np.ndarray:
    return np.maximum(q / _added(q), _SMALLEST)


def _log_sum(log_values: np.ndarray) -> np.ndarray:
    """Returns log Σ exp over the first axis, `[rows]`."""
    largest = log_values.max(axis=0)
    return largest + np.log(_added(np.exp(log_values - largest)))


def _distinct(patterns: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct patterns of some members, `[sets, cells]`, and `[sets, members]`."""
    chosen = np.flatnonzero(members)
    sets, of_member = np.unique(patterns[chosen], axis=0, return_inverse=True)
    belongs = np.zeros((len(sets), len(members)))
    belongs[of_member.reshape(-1), chosen] = 1.0
    return sets.astype(np.float64).reshape(len(sets), patterns.shape[1]), belongs
