"""The header of a combination: what is known of it before the first row, as of a single store.

    header = combined_header(members, "logits", weights, classes, images, labels)
    header.teacher["teachers"]["members"]["1"]["weight"]

The header names no path: a combination is the same wherever its stores lie.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamkd.ensemble.checks import CHOSEN_BY_STUDENT
from streamkd.ensemble.common_images import CommonImages
from streamkd.ensemble.member import Member
from streamkd.ensemble.union_of_classes import UnionOfClasses
from streamkd.manifest.fingerprint import fingerprint
from streamkd.store.layout import StoreHeader

# Classes whose weights are listed one by one; more are named by a digest.
_MAX_LISTED_WEIGHTS = 32
# Longest name of a combination, in characters.
_MAX_NAME = 200


def combined_header(
    members: Sequence[Member],
    rule: str,
    weights: Sequence[np.ndarray],
    classes: UnionOfClasses,
    images: CommonImages,
    labels: np.ndarray,
) -> StoreHeader:
    """Returns the header: the first store's, with images, classes and teacher of the combination.

    Options of images in which the stores differ, and which are the student's to choose, are left
    out.
    """
    headers = [member.opened.header for member in members]
    first = headers[0]
    image_options = {
        name: value
        for name, value in first.images.items()
        if name not in CHOSEN_BY_STUDENT or all(h.images.get(name) == value for h in headers)
    }
    names = [str(header.teacher.get("name")) for header in headers]
    teacher = {
        "name": " + ".join(names)[:_MAX_NAME],
        "output": "sigmoid-logits" if first.is_sigmoid else "log-probabilities",
        "teachers": {
            "rule": rule,
            "members": {
                str(number): _described(member, own, columns)
                for number, (member, own, columns) in enumerate(
                    zip(members, weights, classes.columns, strict=True), 1
                )
            },
        },
    }
    return dataclasses.replace(
        first,
        num_images=len(images.keys),
        num_classes=classes.num_classes,
        codec="float32",
        fingerprint=fingerprint(images.keys, labels, classes.names or None),
        images=image_options,
        teacher=teacher,
    )


def _described(member: Member, weights: np.ndarray, columns: np.ndarray) -> dict[str, Any]:
    """Returns what the header says of one teacher."""
    header = member.opened.header
    described: dict[str, Any] = {
        "teacher": header.teacher,
        "codec": header.codec,
        "rows": member.opened.digest_of_rows(),
        "num_classes": member.opened.num_classes,
        "weight": _shown_weights(weights),
    }
    if member.dustbin is not None:
        described |= {"dustbin": member.dustbin, "oversampling": float(member.oversampling)}
    return described


def _shown_weights(weights: np.ndarray) -> Any:
    """Returns one weight if all classes have it; else a list, or the digest of a long one."""
    if (weights == weights[0]).all():
        return float(weights[0])
    if len(weights) <= _MAX_LISTED_WEIGHTS:
        return weights.tolist()
    return hashlib.blake2b(weights.astype("<f8").tobytes(), digest_size=16).hexdigest()
