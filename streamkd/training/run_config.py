"""The entries of config.json, with which a resumed run is compared.

    config = {
        **describe_stream(stream),
        **describe_training(recipe, student, "cosine", epochs=30),
        **describe_optimizer(recipe, family),
        **describe_for_the_reader(student, arguments),
    }

A resumed run must repeat an entry if another value would train another student. The others are for
the reader (`config_difference.INFORMATIVE`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from typing import Any

import numpy as np

import streamkd
from streamkd.errors import OptionError
from streamkd.manifest.manifest import Manifest
from streamkd.models import user_code
from streamkd.models.families import family_name
from streamkd.models.family_base import Family
from streamkd.models.layer_digests import describe_layers, settings_text
from streamkd.models.precision import precision_of
from streamkd.models.run_code import describe_code
from streamkd.runs.extension import PLANNED
from streamkd.stream.stream import Stream
from streamkd.training.keras_metrics import UserMetrics
from streamkd.training.optimizers import check_family
from streamkd.training.recipe import Recipe

# Packages with recorded versions.
LIBRARIES = ("tensorflow", "tf-keras", "keras", "numpy", "h5py", "pillow")


def describe_stream(stream: Stream) -> dict[str, Any]:
    """Returns the entries about the stream: images, store, order, pixels."""
    described: dict[str, Any] = {
        "images": stream.images.fingerprint,
        "store": None,
        "image_options": stream.options.to_dict(),
        "batch_size": stream.batch_size,
        "seed": stream.seed,
        "shuffle": stream.shuffle,
        "image_weights": digest_of([stream.images.weights]),
        "independent_views": stream.independent and stream.independent.to_dict(),
        "balance": stream.balance or None,
        "views_per_decode": stream.views_per_decode if stream.views_per_decode > 1 else None,
        "rounded_pixels": stream.rounds_pixels or None,
        "class_names": stream.class_names,
    }
    if stream.store is not None:
        header = stream.store.header
        described["store"] = {
            "fingerprint": header.fingerprint,
            "teacher": header.teacher,
            "codec": header.codec,
            "images": header.images,
            "rows": stream.store.digest_of_rows(),
        }
    if stream.teacher_columns is not None:
        described["teacher_classes"] = stream.teacher_columns.described()
    return described


def describe_optimizer(recipe: Recipe, family: Family) -> dict[str, Any]:
    """Returns the settings of the user's own optimizer; the recipe describes one by name.

    Raises:
      OptionError: the optimizer is of another family, or has no settings to compare.
    """
    if isinstance(recipe.optimizer, str):
        return {}
    check_family(recipe.optimizer, family)
    try:
        settings = family.keras.optimizers.serialize(recipe.optimizer)
    except NotImplementedError as error:  # as Keras' own base classes have it
        raise OptionError(
            f"The optimizer {type(recipe.optimizer).__name__} has no get_config, so a resumed run "
            "could not be checked against this one: "
            f"{' '.join(str(error).split()) or 'get_config is missing'}\n"
            "Add `get_config` to its class, or to the class of its learning rate schedule."
        ) from error
    return {"optimizer": _without_names(json.loads(settings_text(settings)))}


def _without_names(settings: Any) -> Any:
    """Returns settings without names: Keras 3 calls the second SGD of a session sgd_1."""
    if not isinstance(settings, dict):
        return settings
    return {name: _without_names(value) for name, value in settings.items() if name != "name"}


def describe_training(recipe: Recipe, student: Any, schedule: str, epochs: int) -> dict[str, Any]:
    """Returns the entries about recipe and student; `schedule` is of an optimizer given by name."""
    described = recipe.described()
    described["student"] = {
        "family": family_name(student),
        "weights": [list(w.shape) for w in student.weights],
        "layers": describe_layers(student),
    }
    precision = precision_of(student)
    if precision != "float32":
        described["student"]["precision"] = precision
    has_rate = isinstance(recipe.optimizer, str)
    if has_rate and schedule != "cosine":
        described["schedule"] = schedule
    # A cosine is built for a number of epochs; another number is another run.
    if (has_rate and schedule == "cosine") or recipe.changes_over_run:
        described[PLANNED] = epochs
    return described


def describe_fit(
    student_preprocess: str,
    weights: np.ndarray | None,
    metrics: UserMetrics,
    validation: Manifest | None,
) -> dict[str, Any]:
    """Returns the entries about preprocessing, class weights, metrics and validation images."""
    return {
        "student_preprocess": student_preprocess,
        "class_weights": digest_of([weights]),
        "metrics": [metric.name for metric in metrics.metrics] or None,
        "validation": None if validation is None else validation.fingerprint,
    }


def describe_output(output: str | None) -> dict[str, Any]:
    """Returns the entry about the output that is trained; none for a student with one."""
    return {} if output is None else {"model_output": output}


def describe_loss(kind: str, stream: Stream) -> dict[str, Any]:
    """Returns the entries about the loss of independent labels; none of that of one softmax."""
    if kind == "kl":
        return {}
    several = {} if stream.multi_hot is None else {"multi_hot": digest_of([stream.multi_hot])}
    return {"loss": kind, **several}


def describe_for_the_reader(student: Any, arguments: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the entries that are not compared: versions, first weights, arguments."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    versions |= {"streamkd": streamkd.__version__, "python": platform.python_version()}
    return {
        "versions": versions,
        "platform": platform.platform(),
        "initial_weights": digest_of(np.asarray(weight) for weight in student.weights),
        "arguments": arguments,
        **describe_code(_modules_of(arguments or {})),
    }


def _modules_of(arguments: dict[str, Any]) -> list[str]:
    """Returns the modules of the user's own that a command named."""
    student = arguments.get("student")
    named = list(arguments.get("imports") or [])
    if isinstance(student, str) and user_code.is_function(student):
        named.append(user_code.module_of(student))
    return list(dict.fromkeys(named))


def digest_of(arrays: Iterable[np.ndarray | None]) -> str | None:
    """Returns a digest of the arrays that are not None; None without any."""
    present = [array for array in arrays if array is not None]
    if not present:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for array in present:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
