"""Models that load and fail when they are asked: refused by name, as a teacher and as a student."""

import numpy as np
import pytest

from streamkd.errors import StudentError, TeacherError
from streamkd.models.inference import compiled_answer


def failing_models(family):
    """Yields models that fail on images of 9 x 9 x 3: while traced, while run, and in a layer."""
    layers = family.layers

    class OfAUser(layers.Layer):
        def call(self, inputs):
            raise KeyError("no such table")

    anything = family.Input((None, None, 3))
    yield family.Model(anything, layers.Dense(3)(layers.Reshape((192,))(anything)), name="net")
    yield family.Sequential([OfAUser(), layers.Flatten()], name="net")
    yield family.Sequential(
        [family.Input((8, 8, 3)), layers.Flatten(), layers.Dense(3)], name="net"
    )


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("refusal", [TeacherError, StudentError])
def test_a_model_that_fails_on_the_images_is_refused_by_name(family, number, refusal):
    answer = compiled_answer(list(failing_models(family))[number], refusal=refusal)
    with pytest.raises(refusal) as caught:
        answer(np.zeros((2, 9, 9, 3), np.float32))
    first, second = str(caught.value).split("\n")
    assert first.startswith("The model 'net' fails when it is asked about images of 9 x 9 x 3: ")
    assert len(first) > 80 and len(first) < 400
    assert second == (
        "Ask it in Python, `model(images)`, for the whole error; or give another model."
    )
