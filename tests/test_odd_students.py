"""Students that fail in training alone, that no gradient reaches, or that answer oddly."""

import pytest
import tensorflow as tf
from run_helpers import fit

from streamkd.errors import StudentError
from streamkd.manifest.manifest import scan
from streamkd.stream.join import join


@pytest.fixture(scope="module")
def stream(shared):
    return join(scan(shared[0]), shared[1], batch_size=15)


def student_of(family, end):
    """Returns a functional student whose last layer, of the user's own, calls `end`."""

    class End(family.layers.Layer):
        def call(self, logits, training=False):
            return end(logits, training)

    images = family.Input((8, 8, 3))
    flat = family.layers.Flatten()(family.layers.Rescaling(1 / 255)(images))
    return family.Model(images, End()(family.layers.Dense(3)(flat)), name="net")


def fail_in_training(logits, training):
    if training:
        raise KeyError("no such table")
    return logits


@pytest.mark.filterwarnings("ignore::streamkd.StreamkdWarning")
@pytest.mark.parametrize(
    ("end", "words"),
    [
        (fail_in_training, r"The student 'net' fails in training: .*KeyError.*no such table.*\.\n"),
        (lambda logits, _: tf.stop_gradient(logits), "No gradient reaches the weights of the st"),
        (lambda logits, _: tf.strings.as_string(logits), "'net' answers images with texts"),
        (lambda logits, _: tf.cast(logits, tf.complex64), "numbers of the type complex64"),
        (lambda logits, _: logits[:, None, None], r"\[1, 1, 3\]\n.*\n.*`keras.layers.Flatten\(\)`"),
    ],
    ids=["fails", "stopped", "texts", "complex", "of one pixel"],
)
def test_it_is_refused_before_the_first_step(family, stream, end, words, tmp_path):
    with pytest.raises(StudentError, match=words):
        fit(stream, student_of(family, end), tmp_path / "run", epochs=1)
