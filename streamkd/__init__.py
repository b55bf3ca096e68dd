"""streamkd: knowledge distillation of image classifiers from directories of images.

    import streamkd as kd

    images  = kd.scan("photos/train")
    teacher = kd.load_teacher("teacher.keras")
    store   = kd.teach(images, teacher, "teacher.h5")
    stream  = kd.join(images, store, image_size=(160, 160), batch_size=128, seed=1)
    distiller = kd.Distiller(student, optimizer="adamw", temperature=4.0, label_weight=0.1)
    history = distiller.fit(stream, epochs=30, validation=kd.scan("photos/val"), run="runs/first")
    report  = kd.evaluate(distiller.student, kd.scan("photos/val"), store=None)
    kd.export(distiller.student, "student-final.keras")

Names are imported when they are first used, so that `import streamkd` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Distiller": "streamkd.training.distiller",
    "ImageBatch": "streamkd.teachers.write_store",
    "ImageOptions": "streamkd.image_options",
    "Keys": "streamkd.keys",
    "LogitStore": "streamkd.store.reader",
    "Manifest": "streamkd.manifest.manifest",
    "StoreCollection": "streamkd.store.collection",
    "Stream": "streamkd.stream.stream",
    "StreamkdError": "streamkd.errors",
    "Teacher": "streamkd.teachers.teacher",
    "ViewOperation": "streamkd.views.operation",
    "Views": "streamkd.views.views",
    "WorkerSlice": "streamkd.stream.order.worker_slice",
    "distillation_loss": "streamkd.losses.distillation",
    "evaluate": "streamkd.results.evaluate",
    "export": "streamkd.results.export",
    "import_logits": "streamkd.teachers.import_logits",
    "join": "streamkd.stream.join",
    "label_loss": "streamkd.losses.distillation",
    "load_teacher": "streamkd.teachers.load_teacher",
    "merge": "streamkd.store.merge",
    "open_store": "streamkd.store.collection",
    "pack_targets": "streamkd.losses.keras_fit",
    "packed_accuracy": "streamkd.losses.keras_fit",
    "packed_loss": "streamkd.losses.keras_fit",
    "plan": "streamkd.teachers.plan",
    "scan": "streamkd.manifest.manifest",
    "teach": "streamkd.teachers.teach",
    "verify": "streamkd.store.verify",
    "write_store": "streamkd.teachers.write_store",
}

# Names of earlier releases, which scripts may still use.
_FORMER = {"Share": "WorkerSlice"}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    current = _FORMER.get(name, name)
    if current not in _HOME:
        raise AttributeError(f"module 'streamkd' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[current]), current)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
