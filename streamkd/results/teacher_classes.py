"""The teacher's classes that an evaluated model is compared with.

compared = TeacherClasses(store, images, class_names, class_map, config)
classes = compared.of_model(num_outputs)            # the model's classes in order, or None
columns = compared.columns(classes, num_outputs)    # None for all columns of the store
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamkd.errors import OptionError, StudentError
from streamkd.manifest.manifest import Manifest
from streamkd.store.decisions import fits_names
from streamkd.store.row_store import RowStore
from streamkd.stream.teacher_columns import (
    ClassMap,
    TeacherColumns,
    choose_columns,
    classes_to_choose,
)


class TeacherClasses:
    """Which columns of a store are a model's classes; a map is checked before a model is asked.

    Args:
      store: the teacher's logits, or None.
      images: the images of the evaluation.
      class_names: the model's classes in the order of its outputs, or None.
      class_map: the model's class of each of the teacher's classes, or None.
      config: of the run that trained the model; empty for a bare model.

    Raises:
      OptionError, ClassNamesError: as those of `choose_columns`.
      StudentError: the configuration of the run is damaged.
    """

    def __init__(
        self,
        store: RowStore | None,
        images: Manifest,
        class_names: Sequence[str] | None,
        class_map: ClassMap,
        config: dict[str, Any],
    ) -> None:
        self._store = store
        self._images = images
        self._class_names = class_names
        if class_map is not None and store is None:
            raise OptionError(
                "A teacher class map says which of the store's classes are the model's, and there "
                "is no store.\nAdd `--store`, or leave `--teacher-class-map` out."
            )
        trained = _map_of_training(config)
        is_trained = bool(trained) and class_names == config.get("class_names")
        if class_map is None and store is not None and is_trained:
            # The store of another teacher may name its classes as the model does.
            class_map = trained if trained.keys() <= set(store.class_names) else None
        self._columns = None
        # Two classes that are one logit are chosen by `evaluate` itself.
        is_named = store is not None and len(store.class_names) == store.num_classes
        if store is not None and (class_map is not None or (class_names and is_named)):
            self._columns = choose_columns(
                store, images, classes=class_names or None, class_map=class_map
            )
            chosen = self._columns
            self._class_names = store.class_names if chosen is None else chosen.class_names
        elif (
            store is not None
            and class_names
            and not fits_names(store.num_classes, list(class_names))
        ):
            raise StudentError(
                f"The model has {len(class_names)} classes, and the store {store.path} has "
                f"{store.num_classes} columns without class names to choose from.\nGive a store "
                "that was taught with `--class-names FILE`, or leave `--store` out."
            )

    def of_model(self, num_outputs: int) -> list[str] | None:
        """Returns the model's classes in the order of its outputs; None if nothing names them."""
        if self._class_names:
            return list(self._class_names)
        if self._store is None:
            return None
        if len(self._store.class_names) != num_outputs and classes_to_choose(
            self._images, self._store, (num_outputs,)
        ):
            return self._images.class_names
        return self._store.class_names

    def columns(self, classes: list[str] | None, num_outputs: int) -> TeacherColumns | None:
        """Returns the columns of the model's classes; None for all columns as they are.

        Raises:
          StudentError: the model has other outputs than classes.
          ClassNamesError: a class of the model that the store does not have.
        """
        store, columns = self._store, self._columns
        assert store is not None
        if not self._class_names and classes and classes != store.class_names:
            # Classes are matched by name, not by number.
            columns = choose_columns(store, self._images, classes=classes)
        num_columns = store.num_classes if columns is None else len(columns.class_names)
        if num_columns != num_outputs:
            raise StudentError(
                "The model's output disagrees with the store.\n"
                f"  model: {num_outputs} outputs\n"
                f"  store: {num_columns} classes ({store.path})\n"
                "Give the store the model was distilled from, or leave `--store` out."
            )
        return columns


def _map_of_training(config: dict[str, Any]) -> dict[str, str | None]:
    """Returns the student's class of each of the teacher's classes that a run was trained on."""
    entry = config.get("teacher_classes")
    if entry is None:
        return {}
    try:
        pairs = [(own, names) for own, names in entry]
        own_class = {name: own for own, names in pairs for name in names}
        texts = [*own_class, *own_class.values()]
        if all(isinstance(text, str) for text in texts) and own_class:
            return dict(own_class)
    except (TypeError, ValueError):
        pass
    raise StudentError(
        "The configuration of the run is damaged: its entry 'teacher_classes' does not pair the "
        "student's classes with the teacher's.\nRestore config.json, or give the model itself: "
        "student.keras in the run."
    )
