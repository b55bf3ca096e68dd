"""`import_logits`: a store of logits that are kept in an array file.

    import_logits("logits.npy", "keys.jsonl", scan("photos/train"), "teacher.h5")

Row i of the array belongs to the i-th key. Every file is read once, for its content digest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamkd.checks import check_choice, check_types
from streamkd.errors import OptionError, readable_key
from streamkd.manifest.manifest import Manifest, as_manifest
from streamkd.models import odd_answers, output_kind, rounding
from streamkd.public import public
from streamkd.store.reader import LogitStore
from streamkd.teachers.class_columns import class_columns
from streamkd.teachers.key_forms import fit_keys
from streamkd.teachers.keys_files import read_keys
from streamkd.teachers.last_checks import warn_of_lost_answers
from streamkd.teachers.logits_files import read_logits
from streamkd.teachers.write_store import ImageBatch, write_store

# Number of rows that tell whether an array holds logits or probabilities.
NUM_JUDGED_ROWS = 1024


@public
def import_logits(
    logits: str | os.PathLike[str] | np.ndarray,
    keys: str | os.PathLike[str] | Sequence[str | bytes] | np.ndarray | None,
    images: Manifest | str | os.PathLike,
    out: str | os.PathLike[str],
    *,
    output: str = "auto",
    teacher: str | None = None,
    logits_dataset: str | None = None,
    keys_dataset: str | None = None,
    class_names: list[str] | None = None,
    **options: Any,
) -> LogitStore:
    """Writes a store of logits that were computed before, or resumes an earlier call.

    Args:
      logits: float `[rows, num_classes]`: an array; a `.npy` file (read row by row); a `.npz` or
        HDF5 file with the array `logits`, or with a single array of that shape; a `.csv` file with
        one line for each image, and optionally a first line of names; or a `.parquet` file with a
        list column, or with one column of numbers for each class, named after it.
      keys: one key for each row: a list; a file of JSON lines, each a text or an object with `key`
        or `file_name` (`key_base64` for bytes that are not UTF-8), such as `scan --out` writes; a
        text file of one key a line; or a `.npy` file of texts. None for a file of logits that has
        the keys itself.
      images: the manifest that has the keys; images without logits are left out of the store.
      out: path of the store.
      output: one of `output_kind.KINDS`, or 'auto' to judge by the numbers; 'sigmoid' stands for
        probabilities of independent labels, 'sigmoid-logits' for their logits.
      teacher: the teacher's name; by default the name of the file.
      logits_dataset: name of the array of logits in a `.npz` or HDF5 file of several, or of the
        list column of a Parquet file.
      keys_dataset: name of the array, or of the column of a table, that has the keys.
      class_names: the classes in the order of the columns; by default as the file names its
        columns, if all classes of the images are among them, alone or with the same words around
        each (`prob_cat`). Columns that are numbered, or have no names, are the images' classes.
      **options: as in `write_store`.

    Raises:
      OptionError: keys and rows do not fit together, or a key is no image.
      ClassNamesError: the file names its columns after other classes.
      TeacherError: numbers that cannot be logits.
      MissingExtraError: the file is Parquet, and pyarrow is not installed.
      StreamkdError: anything else that does not fit; nothing that was written is lost.
    """
    check_types(import_logits, locals())
    images = as_manifest(images)
    check_choice("--teacher-output", output, output_kind.CHOICES)
    if keys is not None and keys_dataset is not None:
        raise OptionError(
            f"--keys-dataset is {keys_dataset}, and --keys is given, too.\n"
            "Leave out the one that has other keys."
        )
    table = read_logits(logits, logits_dataset, keys_dataset, with_keys=keys is None)
    row_keys = table.keys if keys is None else read_keys(keys)
    if row_keys is None:
        raise OptionError(
            "The rows of logits have no keys, which say to which image each row belongs.\n"
            "Give a file with one key for each row: `--keys KEYS.jsonl`."
        )
    table, class_names = class_columns(table, class_names, images.class_names)
    array = table.logits
    if len(row_keys) != len(array):
        raise OptionError(
            f"There are {len(array):,} rows of logits and {len(row_keys):,} keys.\n"
            "Give one key for each row, in the same order."
        )
    chosen, rows = select_listed(images, row_keys)
    judged = np.linspace(0, len(array) - 1, min(NUM_JUDGED_ROWS, len(array))).astype(np.int64)
    is_looked_at = output in ("auto", "probabilities", "sigmoid")
    sample = np.asarray(array[judged if is_looked_at else judged[:0]])
    name = teacher or (
        "array" if isinstance(logits, np.ndarray) else os.path.basename(os.fspath(logits))
    )
    if output == "auto":
        output = odd_answers.judged_kind(sample, name)
    identity: dict[str, Any] = {"name": name, "output": output}
    step = _step(sample, output, out)
    if step is not None and step < 1:
        identity["rounded"] = rounding.description(step, of_labels=output == "sigmoid")
    zeros = 0.0 if step is None else float(np.mean(sample <= 0))
    warn_of_lost_answers(name, output, step, zeros)

    def answer(batch: ImageBatch) -> np.ndarray:
        return output_kind.to_logits(array[rows[batch.indices]], output, step)

    return write_store(
        chosen,
        out,
        answer,
        teacher=identity,
        class_names=class_names,
        **options,
    )


def _step(sample: np.ndarray, output: str, out: str | os.PathLike[str]) -> float | None:
    """Returns the step to which probabilities are rounded, as a store that was begun has it."""
    if output not in ("probabilities", "sigmoid"):
        return None
    step = rounding.rounding_step(sample)
    is_begun = step is not None and step < 1 and os.path.exists(out)
    return rounding.step_of(LogitStore(out).header.teacher) if is_begun else step


def select_listed(images: Manifest, keys: list[bytes]) -> tuple[Manifest, np.ndarray]:
    """Returns the images with these keys, and for each of them its index in `keys`, int64.

    Keys that are not those of the images are read in other ways: see `key_forms`.

    Raises:
      OptionError: a key that is listed twice, or that the images do not have.
    """
    known = set(images.keys)
    if not known.issuperset(keys):
        keys = fit_keys(images, keys)
    row_of = {key: row for row, key in enumerate(keys)}
    if len(row_of) != len(keys):
        seen: set[bytes] = set()
        twice = next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise OptionError(
            f"The key '{readable_key(twice)}' is listed twice.\nList every image once.", key=twice
        )
    chosen, rows = [], []
    for index, key in enumerate(images.keys):
        if key in row_of:
            chosen.append(index)
            rows.append(row_of[key])
    return images.select(np.array(chosen, np.int64)), np.array(rows, np.int64)
