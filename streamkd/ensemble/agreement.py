"""Agreement: how far several teachers say the same of the same images, counted batch by batch.

    pair = PairTally(first_columns, second_columns, num_classes, is_sigmoid=False)
    for each batch: pair.add(first_answers, second_answers, labels, images)
    pair.agreement, pair.divergence, pair.most_frequent(10)

`columns` is int64 `[outputs]`: the combined class that each output of a teacher answers for, -1 for
an output that is no class of its own. NumPy, float64; memory does not grow with the images, except
for one entry for each pair of classes that contradict each other.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from streamkd.store.codecs import fidelity
from streamkd.store.decisions import as_two, chosen, decided

# Images that are kept as examples of each contradiction.
MAX_EXAMPLES = 3


@dataclasses.dataclass(frozen=True)
class Contradiction:
    """One teacher says a class and the other another, on `count` images.

    Attributes:
      first, second: numbers of the combined classes; -1 for a label that the teacher denies, of
        independent labels.
      count: number of images.
      images: numbers of the first images, at most `MAX_EXAMPLES`.
    """

    first: int
    second: int
    count: int
    images: list[int]


class CodeTally:
    """How often each code occurred, and the first images of each. Codes are whole numbers from 0.

    Attributes:
      codes: int64 `[codes]`, sorted.
      counts: int64 `[codes]`.
      examples: int64 `[codes, MAX_EXAMPLES]`, the first images of each code; -1 where it has fewer.
    """

    def __init__(self) -> None:
        self.codes = np.zeros(0, np.int64)
        self.counts = np.zeros(0, np.int64)
        self.examples = np.zeros((0, MAX_EXAMPLES), np.int64)

    def add(self, codes: np.ndarray, images: np.ndarray) -> None:
        """Counts codes, int64 `[N]`, each with its image, int64 `[N]`."""
        order = np.argsort(codes, kind="stable")
        codes, images = codes[order], images[order]
        codes, starts, counts = np.unique(codes, return_index=True, return_counts=True)
        examples = np.full((len(codes), MAX_EXAMPLES), -1, np.int64)
        for number in range(MAX_EXAMPLES):
            has = counts > number
            examples[has, number] = images[starts[has] + number]
        places = np.searchsorted(self.codes, codes)
        known = np.zeros(len(codes), bool)
        inside = places < len(self.codes)
        known[inside] = self.codes[places[inside]] == codes[inside]
        self._add_to_known(places[known], counts[known], examples[known])
        new = places[~known]
        self.codes = np.insert(self.codes, new, codes[~known])
        self.counts = np.insert(self.counts, new, counts[~known])
        self.examples = np.insert(self.examples, new, examples[~known], axis=0)

    def most_frequent(self, count: int) -> np.ndarray:
        """Returns the places of the most frequent codes, the smaller code first among equals."""
        return np.argsort(-self.counts, kind="stable")[:count]

    def _add_to_known(self, places: np.ndarray, counts: np.ndarray, examples: np.ndarray) -> None:
        self.counts[places] += counts
        num_held = (self.examples[places] >= 0).sum(axis=1)
        for number in range(MAX_EXAMPLES):
            slots = num_held + number
            fits = (slots < MAX_EXAMPLES) & (examples[:, number] >= 0)
            self.examples[places[fits], slots[fits]] = examples[fits, number]


class PairTally:
    """What two teachers say of the classes that both know.

    An image whose label is a class that one of them does not know is left out. Each teacher chooses
    among the shared classes alone.

    Args:
      first_columns, second_columns: int64 `[outputs]`, the combined class of each output; -1 for
        none.
      num_classes: number of combined classes.
      is_sigmoid: whether each logit is of a label of its own: each label is then compared by
        itself, as two outcomes.

    Attributes:
      shared: int64, the combined classes that both know, sorted.
      num_images: images that were compared.
    """

    def __init__(
        self,
        first_columns: np.ndarray,
        second_columns: np.ndarray,
        num_classes: int,
        *,
        is_sigmoid: bool,
    ) -> None:
        self.is_sigmoid = is_sigmoid
        first_outputs = output_of_class(first_columns, num_classes)
        second_outputs = output_of_class(second_columns, num_classes)
        self.shared = np.flatnonzero((first_outputs >= 0) & (second_outputs >= 0))
        self._first_outputs = first_outputs[self.shared]
        self._second_outputs = second_outputs[self.shared]
        # A single logit decides between two labels.
        self._is_shared = np.full(max(num_classes, 2), num_classes == 1)
        self._is_shared[self.shared] = True
        self.num_images = 0
        self._num_same = 0
        self._divergence = 0.0
        self._contradictions = CodeTally()

    @property
    def agreement(self) -> float | None:
        """Fraction of the images on which both choose the same class; None without any.

        Of independent labels: the fraction of all images and shared labels decided alike.
        """
        num_decisions = self.num_images * (len(self.shared) if self.is_sigmoid else 1)
        return self._num_same / num_decisions if num_decisions else None

    @property
    def divergence(self) -> float | None:
        """Mean Jensen-Shannon divergence of the shared classes' probabilities, in nats, or None.

        From 0, the same answers, to log 2. Of independent labels: the mean over images and labels.
        """
        return self._divergence / self.num_images if self.num_images else None

    @property
    def num_class_pairs(self) -> int:
        """Number of different pairs of classes that contradict each other."""
        return len(self._contradictions.codes)

    def add(
        self, first: np.ndarray, second: np.ndarray, labels: np.ndarray, images: np.ndarray
    ) -> None:
        """Compares the answers to a batch of images.

        Args:
          first, second: float `[batch, outputs]`, logits of the two teachers.
          labels: int64 `[batch]`, combined classes; negative for an image without a label.
          images: int64 `[batch]`, numbers of the images.
        """
        if len(self.shared) < (1 if self.is_sigmoid else 2):
            return  # a choice among one class says nothing
        taken = (labels < 0) | self._is_shared[np.maximum(labels, 0)]
        first = first[np.ix_(taken, self._first_outputs)]
        second = second[np.ix_(taken, self._second_outputs)]
        self.num_images += len(first)
        if self.is_sigmoid:
            self._add_labels(first, second, images[taken])
        else:
            self._add_choices(first, second, images[taken])

    def most_frequent(self, count: int) -> list[Contradiction]:
        """Returns the pairs of classes that contradict each other most often, the worst first."""
        tally = self._contradictions
        return [
            Contradiction(
                *self._classes_of(int(tally.codes[place])),
                int(tally.counts[place]),
                [image for image in tally.examples[place].tolist() if image >= 0],
            )
            for place in tally.most_frequent(count).tolist()
        ]

    def _add_choices(self, first: np.ndarray, second: np.ndarray, images: np.ndarray) -> None:
        choice, other = first.argmax(axis=1), second.argmax(axis=1)
        differ = choice != other
        self._num_same += int((~differ).sum())
        self._divergence += float(jensen_shannon(first, second).sum())
        self._contradictions.add((choice * len(self.shared) + other)[differ], images[differ])

    def _add_labels(self, first: np.ndarray, second: np.ndarray, images: np.ndarray) -> None:
        has, other_has = decided(first), decided(second)
        rows, labels = np.nonzero(has != other_has)
        self._num_same += int((has == other_has).sum())
        self._divergence += float(label_jensen_shannon(first, second).mean(axis=1).sum())
        self._contradictions.add(2 * labels + other_has[rows, labels], images[rows])

    def _classes_of(self, code: int) -> tuple[int, int]:
        if self.is_sigmoid:
            label = int(self.shared[code // 2])
            return (-1, label) if code % 2 else (label, -1)
        first, second = divmod(code, len(self.shared))
        return int(self.shared[first]), int(self.shared[second])


class AccuracyTally:
    """How often answers are right, on the labelled images whose class they can say.

    Args:
      columns: int64 `[outputs]`, the combined class of each output; -1 for an output that is none.
      num_classes: number of combined classes; one for a single logit.
      num_names: number of names of the classes: two where a single logit decides between two.

    Attributes:
      classes: int64, the classes that the outputs answer for, in their order.
      num_labelled: images with such a label.
      num_right: those of them whose class has the largest logit.
    """

    def __init__(self, columns: np.ndarray, num_classes: int, num_names: int) -> None:
        self._outputs = np.flatnonzero(columns >= 0)
        self.classes = columns[self._outputs]
        self._is_single, self._num_names = num_classes == 1, num_names
        self._knows = np.full(max(num_classes, 2), self._is_single)
        self._knows[self.classes] = True
        self.num_labelled = 0
        self.num_right = 0

    @property
    def accuracy(self) -> float | None:
        """Fraction that is right; None without labelled images."""
        return self.num_right / self.num_labelled if self.num_labelled else None

    def add(self, answers: np.ndarray, labels: np.ndarray) -> None:
        """Counts the answers, `[batch, outputs]`, to images with `labels`, int64 `[batch]`."""
        self.add_chosen(self.chosen(answers), labels)

    def add_chosen(self, choices: np.ndarray, labels: np.ndarray) -> None:
        """Counts combined classes that were chosen for images with `labels`, int64 `[batch]`."""
        counted = (labels >= 0) & self._knows[np.maximum(labels, 0)]
        self.num_labelled += int(counted.sum())
        self.num_right += int((choices == labels)[counted].sum())

    def chosen(self, answers: np.ndarray) -> np.ndarray:
        """Returns the combined class that each row chooses, int64 `[batch]`."""
        if self._is_single:
            # With one name, what is denied is no class at all.
            return chosen(answers) - (1 if self._num_names == 1 else 0)
        return self.classes[answers[:, self._outputs].argmax(axis=1)]


def output_of_class(columns: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns int64 `[num_classes]`: the output that answers for each class, -1 where none does."""
    outputs = np.full(num_classes, -1, np.int64)
    known = np.flatnonzero(columns >= 0)
    outputs[columns[known]] = known
    return outputs


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the Jensen-Shannon divergence of each row's softmax, float64 `[rows]`, in nats.

    Args:
      first, second: `[rows, classes]`, finite, before softmax.

    Source:
      Lin, Divergence measures based on the Shannon entropy, 1991, with equal weights.
    """
    log_first, log_second = fidelity.log_softmax(first), fidelity.log_softmax(second)
    log_mean = np.logaddexp(log_first, log_second) - np.log(2)
    halves = np.exp(log_first) * (log_first - log_mean)
    halves += np.exp(log_second) * (log_second - log_mean)
    return np.maximum(halves.sum(axis=1) / 2, 0)


def label_jensen_shannon(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the divergence of each label as two outcomes, float64 `[rows, labels]`, in nats."""
    pairs = [as_two(np.reshape(part, (-1, 1))) for part in (first, second)]
    return jensen_shannon(*pairs).reshape(np.shape(first))
