"""What several teachers say together of a batch of images: three rules.

    rule = make_rule("divergence", members, num_classes=10, activation="softmax")
    logits = rule.combine([answers_of_a, answers_of_b])     # float32 [batch, 10]

The rules combine at temperature 1. A student's temperature softens the combined answer afterwards.

`logits` averages log probabilities: it makes Σ w KL(q ‖ p) smallest. `probabilities` averages
probabilities: it makes Σ w KL(p ‖ q) smallest where all teachers know all classes. `divergence`
does that too where they know different classes (`divergence.py`). Weights that differ by class
weigh the class's term of each sum.
"""

from __future__ import annotations

import abc
import dataclasses

import numpy as np

from streamkd.checks import check_choice
from streamkd.ensemble.divergence import ClassCells

RULES = ("logits", "probabilities", "divergence")
# A class that a teacher rules out has this log probability, below that of the likeliest class. It
# is finite, so that no loss meets 0 · ∞, and float16 holds it.
LOWEST = -30000.0
# Sums of probabilities below this are added in logarithms.
_SMALL_SUM = 1e-280
# The same in float32, which has no smaller normal numbers than 1e-38.
_SMALL_FLOAT32_SUM = 1e-30
# A sum of float32 logits is exact to 1e-4 below this.
_LARGE_LOGIT = 2048.0
# Numbers that are worked on at once: their arrays stay in the processor's cache.
_CELLS_AT_ONCE = 1 << 16
# Rows whose cells are searched at once.
_ROWS_OF_SEARCH = 2048


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemberClasses:
    """How the outputs of one teacher belong to the combined classes.

    Attributes:
      columns: int64 `[outputs]`, the combined class of each output; -1 is the dustbin, "none of
        these". At most one output belongs to each.
      weights: float64 `[num_classes]`, the weight of the teacher for each class; equal numbers
        where it has one weight. The dustbin has their average over the teacher's own classes.
      log_oversampling: added to the dustbin's logit: the log of how much more often the teacher
        was shown its own classes.
    """

    columns: np.ndarray
    weights: np.ndarray
    log_oversampling: float = 0.0


def make_rule(name: str, members: list[MemberClasses], num_classes: int, activation: str) -> Rule:
    """Returns the rule, ready for any number of batches.

    Args:
      name: `"logits"`, `"probabilities"` or `"divergence"`.
      members: one a teacher.
      num_classes: how many combined classes there are.
      activation: `"softmax"`, or `"sigmoid"` for independent labels. A label has no others that it
        competes with, so `divergence` is then the same as `probabilities`.
    """
    check_choice("rule", name, RULES)
    kinds: tuple[type[Rule], ...] = (_MeanOfLogits, _MeanOfProbabilities, _SmallestDivergence)
    if activation == "sigmoid":
        kinds = (_MeanOfLabelLogits, _MeanOfLabelProbabilities, _MeanOfLabelProbabilities)
    outputs = [_Outputs(member) for member in members]
    return kinds[RULES.index(name)](outputs, num_classes)


class _Outputs:
    """The outputs of one teacher, as arrays of the combined classes."""

    def __init__(self, member: MemberClasses):
        columns = np.asarray(member.columns, np.int64)
        # A teacher of all classes leaves nothing that its dustbin could mean.
        self._without_dustbin: np.ndarray | None = None
        if -1 in columns and len(columns) > len(member.weights):
            (self._without_dustbin,) = np.nonzero(columns >= 0)
            columns = columns[columns >= 0]
        self._log_oversampling = member.log_oversampling
        (self.outputs,) = np.nonzero(columns >= 0)
        self.classes = columns[self.outputs]
        dustbins = np.flatnonzero(columns == -1)
        self.dustbin = int(dustbins[0]) if len(dustbins) else None
        self.weights = np.asarray(member.weights, np.float64)[self.classes]
        self.dustbin_weight = float(self.weights.mean())
        # All outputs in the order of the classes need no copy.
        self._plain = np.array_equal(columns, np.arange(len(member.weights)))

    def knows_all_alike(self, num_classes: int) -> bool:
        """Returns whether the outputs are all classes, and no dustbin."""
        has_dustbin = self.dustbin is not None or self._without_dustbin is not None
        return len(self.classes) == num_classes and not has_dustbin

    def of_classes(self, values: np.ndarray) -> np.ndarray:
        """Returns the columns of the teacher's own classes."""
        return values if self._plain else values[:, self.outputs]

    def add(self, sums: np.ndarray, values: np.ndarray) -> None:
        """Adds values of the teacher's own classes to an array of all classes."""
        if self._plain:
            sums += values
        else:
            sums[:, self.classes] += values

    def label_logits(self, answers: np.ndarray) -> np.ndarray:
        """Returns the logits of the labels that the teacher knows, float64, finite."""
        logits = self.of_classes(self._kept(answers))
        return np.clip(logits.astype(np.float64), LOWEST, -LOWEST)

    def _kept(self, answers: np.ndarray) -> np.ndarray:
        """Returns the columns of all outputs but a dustbin that means nothing."""
        return answers if self._without_dustbin is None else answers[:, self._without_dustbin]

    def probabilities(self, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns log probabilities and probabilities, float64 `[batch, outputs]`."""
        logs = self._kept(answers).astype(np.float64)
        if self.dustbin is not None:
            logs[:, self.dustbin] += self._log_oversampling
        logs -= logs.max(axis=1, keepdims=True)
        np.maximum(logs, LOWEST, out=logs)
        probabilities = np.exp(logs)
        sums = probabilities.sum(axis=1, keepdims=True)
        probabilities /= sums
        logs -= np.log(sums)
        return logs, probabilities


class Rule(abc.ABC):
    """What several teachers say together; `make_rule` makes it."""

    def __init__(self, members: list[_Outputs], num_classes: int):
        self._members = members
        self._num_classes = num_classes
        self._weights = np.zeros((1, num_classes))
        for member in members:
            member.add(self._weights, member.weights)
        self._rows_in_cache = max(64, _CELLS_AT_ONCE // num_classes)
        self._rows_at_once = self._rows_in_cache

    def combine(self, answers: list[np.ndarray]) -> np.ndarray:
        """Returns the logits of the combination.

        Args:
          answers: of each teacher, float32 `[batch, outputs]`, logits. Minus infinity is an output
            with no probability; a row in which an answer is not a number is not one afterwards.

        Returns:
          float32 `[batch, num_classes]`, up to a constant of each row for softmax teachers.
        """
        rows = len(answers[0])
        combined = np.empty((rows, self._num_classes), np.float32)
        with np.errstate(all="ignore"):
            for first in range(0, rows, self._rows_at_once):
                part = slice(first, first + self._rows_at_once)
                combined[part] = self._combined([answer[part] for answer in answers])
        return combined

    @abc.abstractmethod
    def _combined(self, answers: list[np.ndarray]) -> np.ndarray:
        """Returns the combined logits of a few rows, as `combine` does."""

    def _log_sums(self, logs: list[np.ndarray], values: list[np.ndarray]) -> np.ndarray:
        """Returns log Σ weight · value of each class, over the teachers that know it.

        Args:
          logs, values: of each teacher, `[batch, classes of the teacher]`, the logs of the values.
        """
        sums = np.zeros((len(logs[0]), self._num_classes))
        for member, value in zip(self._members, values, strict=True):
            member.add(sums, member.weights * value)
        small = (sums < _SMALL_SUM).any(axis=1)
        log_sums = np.log(sums, out=sums)
        if small.any():
            log_sums[small] = self._small_log_sums([log[small] for log in logs])
        return log_sums

    def _small_log_sums(self, logs: list[np.ndarray]) -> np.ndarray:
        log_sums = np.full((len(logs[0]), self._num_classes), -np.inf)
        for member, log in zip(self._members, logs, strict=True):
            own = log + np.log(member.weights)
            log_sums[:, member.classes] = np.logaddexp(log_sums[:, member.classes], own)
        return np.maximum(log_sums, 2 * LOWEST)


class _MeanOfLogits(Rule):
    """The weighted mean of log probabilities.

    Where each teacher has one weight and knows all classes, it is that of the logits, up to a
    constant of each row: a fourth of the time.
    """

    def __init__(self, members: list[_Outputs], num_classes: int):
        super().__init__(members, num_classes)
        self._is_of_logits = _are_alike(members, num_classes)

    def _combined(self, answers: list[np.ndarray]) -> np.ndarray:
        if not self._is_of_logits:
            return self._of_log_probabilities(answers)
        sums = np.zeros((len(answers[0]), self._num_classes), np.float32)
        product = np.empty_like(sums)
        far = np.zeros(len(sums), bool)
        for member, answer in zip(self._members, answers, strict=True):
            share = np.float32(member.weights[0] / self._weights[0, 0])
            own = np.multiply(member.of_classes(answer), share, out=product)
            member.add(sums, own)
            # What a row has in common, each of its logits has: it would round away the others'.
            far |= ~(np.abs(own[:, 0]) < _LARGE_LOGIT)
        if sums.size and not sums.max() - sums.min() < -LOWEST:
            # A class that is ruled out, or no number.
            far |= ~(sums.max(axis=1) - sums.min(axis=1) < -LOWEST)
        if far.any():
            # Each row is handled by itself, so that it has the same bits in any batch.
            sums[far] = self._of_log_probabilities([answer[far] for answer in answers])
        return sums

    def _of_log_probabilities(self, answers: list[np.ndarray]) -> np.ndarray:
        sums = np.zeros((len(answers[0]), self._num_classes))
        for member, answer in zip(self._members, answers, strict=True):
            logs, _ = member.probabilities(answer)
            member.add(sums, member.weights * member.of_classes(logs))
        return sums / self._weights


class _MeanOfLabelLogits(Rule):
    """The weighted mean of the logits of independent labels."""

    def _combined(self, answers: list[np.ndarray]) -> np.ndarray:
        sums = np.zeros((len(answers[0]), self._num_classes))
        for member, answer in zip(self._members, answers, strict=True):
            member.add(sums, member.weights * member.label_logits(answer))
        return sums / self._weights


class _MeanOfProbabilities(Rule):
    """The log of the weighted mean of probabilities.

    Where each teacher has one weight and knows all classes, float32 does but for tiny means: a
    third of the time.
    """

    def __init__(self, members: list[_Outputs], num_classes: int):
        super().__init__(members, num_classes)
        self._are_alike = _are_alike(members, num_classes)

    def _combined(self, answers: list[np.ndarray]) -> np.ndarray:
        if not self._are_alike:
            return self._in_float64(answers)
        sums = np.zeros((len(answers[0]), self._num_classes), np.float32)
        own = np.empty_like(sums)
        for member, answer in zip(self._members, answers, strict=True):
            logits = member.of_classes(answer)
            np.subtract(logits, logits.max(axis=1, keepdims=True), out=own)
            np.exp(own, out=own)
            share = np.float32(member.weights[0] / self._weights[0, 0])
            own *= share / own.sum(axis=1, keepdims=True)
            member.add(sums, own)
        (tiny,) = np.nonzero(~(sums.min(axis=1) > _SMALL_FLOAT32_SUM))
        logs = np.log(sums, out=sums)
        if len(tiny):
            logs[tiny] = self._in_float64([answer[tiny] for answer in answers])
        return logs

    def _in_float64(self, answers: list[np.ndarray]) -> np.ndarray:
        logs, values = [], []
        for member, answer in zip(self._members, answers, strict=True):
            log, probabilities = member.probabilities(answer)
            logs.append(member.of_classes(log))
            values.append(member.of_classes(probabilities))
        return _bounded(self._log_sums(logs, values) - np.log(self._weights))


class _MeanOfLabelProbabilities(Rule):
    """The log odds of the weighted mean of each label's probability."""

    def _combined(self, answers: list[np.ndarray]) -> np.ndarray:
        pairs = zip(self._members, answers, strict=True)
        logits = [member.label_logits(answer) for member, answer in pairs]
        sums = []
        for signed in (logits, [-logit for logit in logits]):
            logs = [-np.logaddexp(0.0, -logit) for logit in signed]
            sums.append(self._log_sums(logs, [np.exp(log) for log in logs]))
        return sums[0] - sums[1]


class _SmallestDivergence(Rule):
    """The distribution with the smallest sum of divergences from what each teacher knows."""

    def __init__(self, members: list[_Outputs], num_classes: int):
        super().__init__(members, num_classes)
        known = np.zeros((len(members), num_classes), bool)
        for member, row in zip(members, known, strict=True):
            row[member.classes] = True
        with_dustbin = [member.dustbin is not None for member in members]
        self._cells = ClassCells(known, np.array(with_dustbin))
        self._rows_at_once = max(_ROWS_OF_SEARCH, self._rows_in_cache)

    def _combined(self, answers: list[np.ndarray]) -> np.ndarray:
        """Answers many rows at once: a search takes hardly longer for them than for a few.

        The evidence of the classes, which are many, is handled a few rows at a time.
        """
        rows = len(answers[0])
        combined = np.empty((rows, self._num_classes), np.float32)
        log_cells = np.empty((self._cells.count, rows))
        masses, dustbins = np.empty((2, len(answers), rows))
        for first in range(0, rows, self._rows_in_cache):
            part = slice(first, first + self._rows_in_cache)
            log_evidence, masses[:, part], dustbins[:, part] = self._evidence(
                [answer[part] for answer in answers]
            )
            log_cells[:, part] = self._cells.log_sums(log_evidence)
            combined[part] = log_evidence - log_cells[:, part].T[:, self._cells.of_class]
        log_q = self._cells.solve(log_cells, masses, dustbins).astype(np.float32)
        combined += log_q.T[:, self._cells.of_class]
        return _bounded(combined)

    def _evidence(self, answers: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns what `ClassCells` takes: log evidence, mass, and the dustbins' mass."""
        logs, values = [], []
        masses, dustbins = np.zeros((2, len(answers), len(answers[0])))
        for index, (member, answer) in enumerate(zip(self._members, answers, strict=True)):
            log, probabilities = member.probabilities(answer)
            if member.dustbin is not None:
                dustbins[index] = member.dustbin_weight * probabilities[:, member.dustbin]
            logs.append(member.of_classes(log))
            values.append(member.of_classes(probabilities))
            masses[index] = (values[-1] * member.weights).sum(axis=1)
        return self._log_sums(logs, values), masses, dustbins


def _are_alike(members: list[_Outputs], num_classes: int) -> bool:
    """Returns whether each teacher has one weight, and all its outputs are all classes."""
    return all(
        member.knows_all_alike(num_classes) and (member.weights == member.weights[0]).all()
        for member in members
    )


def _bounded(logs: np.ndarray) -> np.ndarray:
    """Returns logits of which none is further below the largest than a finite one may be."""
    return np.maximum(logs, logs.max(axis=1, keepdims=True) + LOWEST)
