"""Tables of predictions as people have them: which columns are classes, and which are not."""

import numpy as np
import pytest

from streamkd.errors import ClassNamesError, OptionError
from streamkd.teachers.import_logits import import_logits

CLASSES = ["ant", "bee", "cat"]


@pytest.fixture
def probabilities(images):
    """The class of an image is its likeliest one."""
    rows = np.full((len(images), 3), 0.125)
    rows[np.arange(len(images)), images.labels] = 0.75
    return rows


def table(path, images, header, cells):
    lines = [header, *([key.decode(), *cells(i)] for i, key in enumerate(images.keys))]
    path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    "words",
    ["{}", "prob_{}", "p({})", "{} probability", "class_{}"],  # 'a' of class 'ant' twice
)
def test_columns_in_another_order_with_words_around_the_class(
    images, probabilities, tmp_path, words
):
    order = [2, 0, 1]
    header = ["img", *(words.format(CLASSES[i]) for i in order)]
    path = table(tmp_path / "p.csv", images, header, lambda i: probabilities[i][order])
    store = import_logits(path, None, images, tmp_path / "s.h5", progress=False)
    assert store.class_names == ["cat", "ant", "bee"]
    assert store.summary["teacher_accuracy"] == 1.0


@pytest.mark.parametrize("classes", [None, CLASSES])
def test_words_and_counts_beside_the_classes_are_no_classes(
    images, probabilities, tmp_path, classes
):
    header = ["file_name", "label", *(f"prob_{name}" for name in CLASSES), "prediction", "rank"]
    path = table(
        tmp_path / "p.csv",
        images,
        header,
        lambda i: [99 - i, *probabilities[i], CLASSES[images.labels[i]], i],
    )
    store = import_logits(
        path, None, images, tmp_path / "s.h5", class_names=classes, progress=False
    )
    assert store.class_names == CLASSES and store.num_classes == 3
    assert store.summary["teacher_accuracy"] == 1.0


def test_whole_numbers_in_every_column_are_logits(images, tmp_path):
    header = ["file_name", *CLASSES, "other"]
    path = table(
        tmp_path / "p.csv",
        images,
        header,
        lambda i: [5 * (images.labels[i] == c) for c in range(4)],
    )
    store = import_logits(path, None, images, tmp_path / "s.h5", progress=False)
    assert store.class_names == [*CLASSES, "other"]


@pytest.mark.parametrize("words", ["{}", "logit_{}", "c{}"])
def test_numbered_columns_are_the_classes_in_their_order(images, probabilities, tmp_path, words):
    header = ["file_name", *map(words.format, range(3))]
    path = table(tmp_path / "p.csv", images, header, lambda i: probabilities[i])
    store = import_logits(path, None, images, tmp_path / "s.h5", progress=False)
    assert store.class_names == CLASSES


def test_columns_of_other_classes_are_refused_and_named_by_hand(images, probabilities, tmp_path):
    order = [2, 0, 1]
    header = ["file_name", "Katze", "Ameise", "Biene"]
    path = table(tmp_path / "p.csv", images, header, lambda i: probabilities[i][order])
    with pytest.raises(ClassNamesError) as refused:
        import_logits(path, None, images, tmp_path / "s.h5", progress=False)
    assert str(refused.value) == (
        "The columns of logits have other names than the classes of the images.\n"
        "  columns: 'Katze', 'Ameise', 'Biene'\n"
        "  classes: 'ant', 'bee', 'cat'\n"
        "Give the class of each column, in the order of the columns: `--class-names FILE`, one a "
        "line."
    )
    assert not (tmp_path / "s.h5").exists()
    names = [CLASSES[i] for i in order]
    store = import_logits(path, None, images, tmp_path / "s.h5", class_names=names, progress=False)
    assert store.summary["teacher_accuracy"] == 1.0


def test_a_cell_that_is_no_number_is_named_with_its_column(images, tmp_path):
    path = table(tmp_path / "p.csv", images, ["file_name", *CLASSES], lambda i: [0.5, "", 0.5])
    with pytest.raises(OptionError, match="line 2: its column 'bee' holds '', which is no number"):
        import_logits(path, None, images, tmp_path / "s.h5", progress=False)
    path = table(
        tmp_path / "p.csv",
        images,
        ["file_name", *CLASSES],
        lambda i: [0.5, "x" * (i > 1) or 0, 0.5],
    )
    with pytest.raises(OptionError, match="line 4: its column 'bee' holds 'x', which is no number"):
        import_logits(path, None, images, tmp_path / "s.h5", progress=False)
