"""Repairs the classes that a transfer set lacks, by a bias of their logits.

    report = fit_class_bias(student, images, transfer=scan("photos/train"), store="teacher.h5")
    report.bias                                  # {'okapi': 1.3}
    repaired = fold_class_bias(student, report)  # an ordinary model

A student learns what a class looks like from the soft targets of other classes, but it learns that
the class hardly ever occurs (Hinton, Vinyals and Dean, 2015, section 3). How often it does occur,
the images of the transfer set cannot tell: on them, the student agrees with the teacher already.
Unlabelled images of all classes can. With the bias, the student expects each missing class among
them as often as the teacher does, or as often as is known.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamkd.checks import check_count, check_types
from streamkd.errors import OptionError, StudentError, readable_names
from streamkd.image_options import ImageOptions
from streamkd.manifest.listing import check_each_once
from streamkd.manifest.manifest import Manifest, as_manifest
from streamkd.models.head_bias import num_logits_of, with_bias
from streamkd.models.logits_head import logits_model
from streamkd.public import public
from streamkd.reports import Report
from streamkd.results.bias_checks import check_images, check_number, given_frequencies
from streamkd.results.bias_estimators import match_frequencies, softmax
from streamkd.results.evaluate import answer_all
from streamkd.results.evaluated_model import KerasModel, open_model
from streamkd.results.missing_classes import missing_classes
from streamkd.results.teacher_logits import teacher_logits
from streamkd.runs.run_directory import config_of_model
from streamkd.store.collection import open_store
from streamkd.store.row_store import RowStore
from streamkd.stream.join import image_options as image_options_of

# Options of a run's training that are taken over.
READ_AS = (
    *("interpolation", "crop_to_aspect_ratio", "pad_to_aspect_ratio"),
    *("decode", "exif", "background"),
)


class ClassBiasReport(Report):
    """The biases that were fitted, and what they change.

    Of the four mappings from class to number, each has the missing classes only.

    Attributes:
      classes: names of the classes that the transfer set lacks.
      bias: what is added to the logit of each of them.
      frequencies: how often each is to occur, as a part of all images.
      mean_before, mean_after: mean probability of each without and with the bias.
      chosen_before, chosen_after: fraction of the images whose first choice it is.
      num_changed: images that get another first choice.
      num_images: images that were looked at.
      method: whose `frequencies` they are: 'teacher', 'given' or 'equal'.
      logit_bias: what is added to every logit, in the order of the model's outputs; 0 for the
        classes that are not missing.
    """

    classes: list[str]
    bias: dict[str, float]
    frequencies: dict[str, float]
    mean_before: dict[str, float]
    mean_after: dict[str, float]
    chosen_before: dict[str, float]
    chosen_after: dict[str, float]
    num_changed: int
    num_images: int
    method: str
    logit_bias: list[float]


@public
def fit_class_bias(
    model: Any,
    images: Manifest | str | os.PathLike,
    *,
    transfer: Manifest | str | os.PathLike | None = None,
    store: RowStore | str | os.PathLike | None = None,
    classes: Sequence[str] | None = None,
    frequencies: Mapping[str, float] | str | None = None,
    class_names: list[str] | None = None,
    image_options: ImageOptions | None = None,
    batch_size: int = 64,
    trust: bool = False,
    progress: bool = True,
) -> ClassBiasReport:
    """Returns the biases of the classes that the transfer set lacks; the model stays as it is.

    No label is used. With the bias, the model's mean probability of each missing class over
    `images` is the teacher's, or the frequency that is given. The teacher's is the better one: it
    is that of these images, and not of many.

    Args:
      model: the student: a Keras model of one softmax, a `.keras` file or a run directory.
      images: of all classes, other ones than those of the transfer set. Their labels are only used
        to refuse images that lack a missing class, too.
      transfer: the transfer set. If all its images are labelled, the classes without an image are
        the missing ones. Otherwise these are the classes that the teacher chooses for less than a
        twentieth of the images that each class would have, if all had equally many.
      store: the teacher's logits of `images`, and of a transfer set without labels.
      classes: names of the missing classes, where they are known.
      frequencies: how often each missing class occurs among `images`, as a part of all; other
        classes may be named, too. 'equal' for classes that are all equally frequent. By default
        the teacher's mean probability of each class.
      class_names: the model's classes in the order of its outputs; by default those of the run
        directory, of the store, of the transfer set, or of the images.
      image_options: how files become pixels; by default as in the store, without a store as in the
        run's training, otherwise as in Keras' loader, at the size that the model takes.
      batch_size: images a batch.
      trust: allow a model file that runs code on loading.
      progress: show progress on standard error.

    Raises:
      OptionError: nothing says which classes are missing, or none is; frequencies that cannot be,
        or none and no store; images that lack a missing class, too, or are too few.
      ClassNamesError: a class that the model, or the teacher, does not have.
      MissingLogitsError: an image has no logits in the store.
      ChangedImageError: a file has other bytes than those for which the teacher answered.
      StudentError: the model is not one of a softmax, or has no last layer that takes a bias.
    """
    check_types(fit_class_bias, locals())
    images = as_manifest(images)
    check_count("batch_size", batch_size)
    config = config_of_model(model) if isinstance(model, str | os.PathLike) else {}
    if isinstance(model, str | os.PathLike):
        model = open_model(model, trust=trust)
    _check_softmax(model, config)
    if transfer is not None:
        transfer = as_manifest(transfer, "transfer")
    if store is not None:
        store = open_store(store)
    names = _class_names(model, class_names, config, store, transfer, images)
    missing = missing_classes(
        names, given=classes, transfer=transfer, store=store, progress=progress
    )
    check_images(images, transfer, names, missing)
    digests = None
    if frequencies is not None:
        wanted = given_frequencies(frequencies, names, missing)
    elif store is not None:
        answers, digests = teacher_logits(names, images, store, progress)
        wanted = softmax(answers)[:, missing].mean(axis=0)
    else:
        raise OptionError(
            "Nothing says how often the missing classes occur among the images.\n"
            "Give the teacher's logits of the images, `store=`; or numbers: "
            f"`frequencies={{{names[missing[0]]!r}: {1 / len(names):.3g}}}`; or "
            "`frequencies='equal'`, if all classes are equally frequent."
        )
    check_number(len(images), names, missing, wanted, is_given=frequencies is not None)
    answer, options = _answering(model, store, config, image_options)
    logits = answer_all(answer, images, options, batch_size, progress, digests)
    if not np.isfinite(logits).all():
        raise StudentError(
            f"The model {model.name!r} answers with numbers that are not finite.\n"
            "Look at its weights, or train it again at a lower learning rate."
        )
    bias = np.zeros(len(names))
    bias[missing] = match_frequencies(logits, missing, wanted)
    method = "given" if isinstance(frequencies, Mapping) else frequencies or "teacher"
    return _report(logits, bias, names, missing, wanted, method)


@public
def fold_class_bias(
    model: Any, bias: ClassBiasReport | Mapping[str, Any] | Sequence[float], *, trust: bool = False
) -> Any:
    """Returns a copy of a model with a bias added in its last layer.

    The copy is an ordinary model of the same family. A last softmax stays, and a last layer without
    a bias gets one. The model that was given is not changed.

    Args:
      model: a Keras model, a `.keras` file or a run directory.
      bias: what `fit_class_bias` returned, or one number for each class of the model.
      trust: allow a model file that runs code on loading.

    Raises:
      StudentError: the layers do not show where a bias is added to each logit, or the model has
        another number of classes, or it cannot be copied.
    """
    if isinstance(model, str | os.PathLike):
        model = open_model(model, trust=trust)
    numbers = bias.get("logit_bias") if isinstance(bias, Mapping) else bias
    try:
        values = np.asarray(numbers, np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.array(np.nan)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise OptionError(
            f"bias is {bias!r:.80}; it must be the report of `fit_class_bias`, or one finite "
            "number for each class of the model."
        )
    return with_bias(model, values)


def _check_softmax(model: Any, config: dict[str, Any]) -> None:
    """Refuses a model in which classes do not exclude each other, or that takes no bias."""
    num_logits = num_logits_of(model)
    removed = logits_model(model).removed
    if removed == "sigmoid" or config.get("loss") == "bce" or num_logits == 1:
        raise StudentError(
            f"The model {model.name!r} has {num_logits} independent output"
            f"{'s' * (num_logits > 1)}, and a bias of classes is for one softmax over them.\n"
            "Give a model whose classes exclude each other."
        )


def _class_names(
    model: Any,
    given: list[str] | None,
    config: dict[str, Any],
    store: RowStore | None,
    transfer: Manifest | None,
    images: Manifest,
) -> list[str]:
    """Returns the model's classes in the order of its outputs."""
    num_logits = num_logits_of(model)
    sources = {
        "class_names": given,
        "the run": config.get("class_names"),
        "the store": None if store is None else store.class_names,
        "the transfer set": None if transfer is None else transfer.class_names,
        "the images": images.class_names,
    }
    known = {name: list(names) for name, names in sources.items() if names}
    if given is not None:
        check_each_once(given)
        known = {"class_names": given}
    fitting = [names for names in known.values() if len(names) == num_logits]
    if not fitting:
        shown = "".join(f"  {name}: {readable_names(names)}\n" for name, names in known.items())
        raise StudentError(
            f"The model {model.name!r} has {num_logits} outputs, and nothing names as many "
            f"classes.\n{shown}Name them in the order of the outputs: `class_names=[…]`."
        )
    return fitting[0]


def _answering(
    model: Any, store: RowStore | None, config: dict[str, Any], given: ImageOptions | None
) -> tuple[Any, ImageOptions]:
    """Returns a function from images to logits, and how files become its images."""
    own = KerasModel(model, None)
    trained = config.get("image_options", {})
    if given is None:
        size = own.image_size or trained.get("image_size")
        if size is None and store is None:
            raise own.no_size()
        mode = own.color_mode(size) or trained.get("color_mode")
        asked = {} if store is not None else {k: v for k, v in trained.items() if k in READ_AS}
        given = image_options_of(store, size, mode, asked)
    own.settle(given)
    return own.logits_function(), given


def _report(
    logits: np.ndarray,
    bias: np.ndarray,
    names: list[str],
    missing: np.ndarray,
    wanted: np.ndarray,
    method: str,
) -> ClassBiasReport:
    biased = logits + bias

    def by_class(numbers: np.ndarray) -> dict[str, float]:
        return {names[c]: float(n) for c, n in zip(missing, numbers, strict=True)}

    def chosen_of(answers: np.ndarray) -> np.ndarray:
        return np.mean(answers.argmax(axis=1)[:, None] == missing, axis=0)

    return ClassBiasReport(
        classes=[names[number] for number in missing],
        bias=by_class(bias[missing]),
        frequencies=by_class(wanted),
        mean_before=by_class(softmax(logits)[:, missing].mean(axis=0)),
        mean_after=by_class(softmax(biased)[:, missing].mean(axis=0)),
        chosen_before=by_class(chosen_of(logits)),
        chosen_after=by_class(chosen_of(biased)),
        num_changed=int(np.sum(logits.argmax(axis=1) != biased.argmax(axis=1))),
        num_images=len(logits),
        method=method,
        logit_bias=[float(number) for number in bias],
    )
