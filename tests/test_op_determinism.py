"""TensorFlow's op determinism, which lasts for a process: teach, fit and evaluate work under it."""

from __future__ import annotations

import json

from helpers import draw_image
from process_helpers import finished

JOB = """
import json, sys
import tensorflow as tf, keras, tf_keras
import streamkd as kd
tf.config.experimental.enable_op_determinism()
images, results, store = kd.scan("photos"), [], None
for family in (keras, tf_keras):
    layers = family.layers
    def model(seed):
        family.utils.set_random_seed(seed)
        return family.Sequential([family.Input((8, 8, 3)), layers.Rescaling(1 / 255),
            layers.Conv2D(3, 3, activation="relu"), layers.GlobalAveragePooling2D(),
            layers.Dense(2)])
    store = store or kd.teach(images, model(1), "s.h5", progress=False)
    stream = kd.join(images, store, batch_size=4)
    runs = []
    for _ in range(2):
        distiller = kd.Distiller(model(2), jit="off")
        history = distiller.fit(stream, epochs=1, progress=family is keras)
        runs.append([weight.tolist() for weight in distiller.student.get_weights()])
    report = kd.evaluate(distiller.student, images, progress=False)
    results.append([runs[0] == runs[1], history.last["input_wait"], report.num_images])
print(json.dumps(results))
"""


def test_a_whole_job_under_op_determinism(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
    for number in range(8):
        draw_image(tmp_path / "photos" / "ab"[number % 2] / f"{number}.png", number, number % 2)
    monkeypatch.chdir(tmp_path)
    output, _ = finished("-W", "ignore", "-c", JOB)
    # The two runs of a family are equal, and nothing says how long they waited for input.
    assert json.loads(output.splitlines()[-1]) == [[True, None, 8]] * 2
