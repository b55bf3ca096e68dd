import numpy as np
from helpers import encoded_numbers, pixel_numbers
from streamkd.stream.join import join


def test_pairs(images, store):
    s = join(images, store, batch_size=4, seed=1, progress=False)
    for px, targets, w in s.batches(0, 20):
        assert (pixel_numbers(px) == encoded_numbers(targets["teacher_logits"])).all()
        print(pixel_numbers(px))
