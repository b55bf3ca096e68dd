"""Classes that a teacher confuses, found from its stored logits: what specialists are trained on.

    clusters = cluster_classes("teacher.h5", 3)
    clusters.classes                      # [["cat", "dog"], ["automobile", "truck"], …]
    clusters.write("clusters.json"); read_clusters("clusters.json")

Classes are alike whose columns of the covariance matrix of the soft targets are alike: K-means on
these columns, as in Hinton, Vinyals and Dean, arXiv:1503.02531, section 5.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from streamkd import disk, json_text, small_files
from streamkd.checks import check_count, check_positive, check_seed, check_types
from streamkd.ensemble.k_means import k_means
from streamkd.errors import OptionError, StoreError
from streamkd.public import public
from streamkd.reports import Report
from streamkd.store.collection import StoreCollection, open_store
from streamkd.store.decisions import chosen
from streamkd.store.layout import DONE
from streamkd.store.row_store import RowStore
from streamkd.store.same_pass import check_finished, effective_images

# Probabilities in memory at once, whatever the number of classes.
_MAX_PROBABILITIES = 1 << 21
# Less is rounding: no class then takes probability from another.
_LEAST_DOUBT = 1e-12
# The covariance of so many classes takes 800 MB.
_MAX_CLASSES = 10_000


@public
class Clusters(Report):
    """Groups of classes that a teacher confuses, as `streamkd cluster` writes them.

    Attributes:
      store: path of the store.
      teacher: name of the teacher, or None.
      temperature: of the soft targets.
      seed: of K-means.
      num_images: images whose answers were counted.
      clusters: an object each, the one with the most images first: classes, their names in the
        store's order; size, how many; share, the fraction of images for which the teacher chooses
        one of them.
    """

    store: str
    teacher: str | None
    temperature: float
    seed: int
    num_images: int
    clusters: list[dict[str, Any]]

    @property
    def classes(self) -> list[list[str]]:
        """The class names of each cluster."""
        return [cluster["classes"] for cluster in self["clusters"]]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the clusters as JSON, whole or not at all.

        Raises:
          OutputError: the file cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False)
        disk.write_atomically(Path(path), text + "\n")


@public
def cluster_classes(
    store: str | os.PathLike[str] | RowStore,
    num_specialists: int,
    *,
    temperature: float = 1.0,
    seed: int = 0,
) -> Clusters:
    """Returns groups of classes that the teacher confuses, one for each specialist.

    Every class is in one group. The plain view of each image is read once, in blocks. The variance
    of a class says nothing of the others; in its place on the diagonal stands the class's largest
    covariance with another class.

    Args:
      store: the generalist's, with class names; finished.
      num_specialists: how many groups; at most half as many as there are classes, so that each can
        have two.
      temperature: softens the answers; a teacher that is nearly sure of every image confuses
        classes visibly only at a higher one.
      seed: of K-means. The same store and seed give the same groups.

    Raises:
      UnfinishedStoreError: rows are missing.
      StoreError: a teacher of independent labels, or one that confuses no classes; a store without
        class names or without answers.
      OptionError: an argument that does not fit.
    """
    check_types(cluster_classes, locals())
    check_count("num_specialists", num_specialists)
    check_positive("temperature", temperature)
    check_seed(seed)
    store = open_store(store)
    _check_store(store, num_specialists)
    covariance, chosen_counts, doubt = soft_target_covariance(store, temperature)
    if doubt < _LEAST_DOUBT or np.abs(covariance).max() < _LEAST_DOUBT:
        raise _confuses_nothing(store, doubt, temperature)
    group_of = k_means(without_variances(covariance), num_specialists, seed=seed)
    num_images = int(chosen_counts.sum())
    groups = [np.flatnonzero(group_of == group) for group in range(num_specialists)]
    groups.sort(key=lambda group: (-int(chosen_counts[group].sum()), int(group[0])))
    return Clusters(
        store=store.path,
        teacher=store.describe().teacher,
        temperature=float(temperature),
        seed=seed,
        num_images=num_images,
        clusters=[
            {
                "classes": [store.class_names[number] for number in group],
                "size": len(group),
                "share": int(chosen_counts[group].sum()) / num_images,
            }
            for group in groups
        ],
    )


@public
def read_clusters(path: str | os.PathLike[str]) -> list[list[str]]:
    """Returns the class names of each cluster of a file that `Clusters.write` wrote.

    Raises:
      OptionError: there is no such file, or it is another.
    """
    check_types(read_clusters, locals())
    try:
        content = json_text.load(small_files.text_of(small_files.read_input(path)))
        classes = _classes_of(content)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OptionError(
            f"{os.fsdecode(path)} is not a file of clusters: {reason}.\n"
            "Make one: `streamkd cluster S.h5 --specialists N --out FILE`."
        ) from error
    return classes


def _classes_of(content: Any) -> list[list[str]]:
    """Returns the class names of each cluster; ValueError for what holds no clusters."""
    clusters = content.get("clusters") if isinstance(content, dict) else None
    if not isinstance(clusters, list):
        raise ValueError("it has no list 'clusters'")
    classes = [one.get("classes") if isinstance(one, dict) else None for one in clusters]
    for names in classes:
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("a cluster has no list 'classes' of names")
    return [list(names) for names in classes if names is not None]


def soft_target_covariance(
    store: RowStore, temperature: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns what the teacher's answers for the plain views have in common, in one pass.

    Returns:
      float64 `[num_classes, num_classes]`, the covariance of the soft targets over the images;
      int64 `[num_classes]`, how often the teacher chooses each class; and the mean of
      1 - Σ p², 0 where it is sure of every image. Refused images do not count, nor images that a
      later store answered again.
    """
    num_classes = store.num_classes
    sums, products = np.zeros(num_classes), np.zeros((num_classes, num_classes))
    counts = np.zeros(num_classes, np.int64)
    at_once = max(1, _MAX_PROBABILITIES // num_classes)
    numbers, doubt = _image_numbers(store), 0.0
    for start in range(0, len(numbers), at_once):
        rows = numbers[start : start + at_once] * store.num_views
        logits = store.gather(rows[store.done_of(rows) == DONE])
        counts += np.bincount(chosen(logits), minlength=num_classes)
        targets = _softmax(logits, temperature)
        doubt += float((targets * (1 - targets)).sum())
        # Of uniform answers nothing is left, so that large and equal numbers do not cancel.
        targets -= 1 / num_classes
        sums += targets.sum(axis=0)
        products += targets.T @ targets
    num_images = counts.sum()
    if not num_images:
        raise StoreError(
            f"The store {store.path} has no answers: every image was refused.\n"
            "Give the store of a teacher that answered images."
        )
    means = sums / num_images
    return products / num_images - np.outer(means, means), counts, doubt / int(num_images)


def _image_numbers(store: RowStore) -> np.ndarray:
    """Returns the number of each image of a store, int64, ascending."""
    if isinstance(store, StoreCollection):
        return np.sort(effective_images(store.stores)[1])
    return np.arange(store.num_images)


def _confuses_nothing(store: RowStore, doubt: float, temperature: float) -> StoreError:
    """Returns the refusal of answers that set no class apart: groups of them would be chance."""
    if doubt < _LEAST_DOUBT:
        return StoreError(
            f"The teacher of {store.path} is sure of every image, so that it confuses no classes.\n"
            f"Give a higher temperature than {temperature:g}, such as `--temperature "
            f"{max(4.0, 4 * temperature):g}`, or the store of a teacher that answers with "
            "probabilities."
        )
    return StoreError(
        f"The teacher of {store.path} answers every image alike, so that it tells no classes "
        "apart.\nLook at the teacher, or give a lower temperature."
    )


def without_variances(covariance: np.ndarray) -> np.ndarray:
    """Returns the matrix with each class's largest covariance with another on the diagonal.

    Variances are far larger than what two classes have in common, and hide it from K-means.
    """
    changed = covariance.copy()
    np.fill_diagonal(changed, -np.inf)
    np.fill_diagonal(changed, changed.max(axis=0))
    return changed


def _softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    below = logits.astype(np.float64)
    below -= below.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        powers = np.exp(below / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def _check_store(store: RowStore, num_specialists: int) -> None:
    """Refuses a store from which so many clusters of named classes cannot be made."""
    check_finished(store)
    num_classes = store.num_classes
    if store.header.is_sigmoid:
        raise StoreError(
            f"The teacher of {store.path} answers with independent labels, each a sigmoid, so that "
            "no class takes probability from another.\nGive the store of a softmax teacher."
        )
    if len(store.class_names) != num_classes:
        raise StoreError(
            f"The store {store.path} has {num_classes:,} outputs and {len(store.class_names):,} "
            "class names, and a specialist's classes are named.\nTeach it with a name for each "
            "output: `streamkd teach … --class-names FILE`."
        )
    if num_classes > _MAX_CLASSES:
        raise StoreError(
            f"The store {store.path} has {num_classes:,} classes, and clusters are found among at "
            f"most {_MAX_CLASSES:,}.\nGive a store of fewer classes."
        )
    if 2 * num_specialists > num_classes:
        raise OptionError(
            f"{num_specialists:,} specialists need two classes each, and the store {store.path} "
            f"has {num_classes:,} classes.\nGive `--specialists {max(1, num_classes // 2)}` or "
            "fewer."
        )
