"""Writes a logit store from a process without TensorFlow, as a PyTorch user would.

    python examples/pytorch_style_store.py photos/train teacher.h5

Needs streamkd, Pillow, NumPy and `pip install pyfarmhash`. The teacher here is a matrix of random
numbers, so that the example runs anywhere. Replace it by

    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
    model, transform = torchvision.models.resnet50(weights=weights).eval(), weights.transforms()

    def answer(batch):
        opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in batch.contents]
        with torch.inference_mode():
            return model(torch.stack([transform(image) for image in opened])).numpy()

Kill it at any moment, and the same command continues the store. Afterwards

    streamkd verify teacher.h5 --images photos/train
    streamkd train photos/train --store teacher.h5 --student MobileNetV3Small --out runs/first
"""

from __future__ import annotations

import io
import sys

import numpy as np
from PIL import Image

import streamkd as kd

IMAGE_SIZE = (32, 32)


def main() -> None:
    images = kd.scan(sys.argv[1])
    model = np.random.default_rng(0).normal(size=(32 * 32 * 3, images.num_classes or 10))

    def answer(batch: kd.ImageBatch) -> np.ndarray:
        opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in batch.contents]
        pixels = np.stack([np.asarray(image.resize(IMAGE_SIZE)) for image in opened])
        return pixels.reshape(len(pixels), -1) / 255 @ model

    store = kd.write_store(
        images, sys.argv[2], answer, teacher="random matrix, seed 0", image_size=IMAGE_SIZE
    )
    print(f"{store.path}: {store.num_images:,} images, {store.num_classes} classes")
    assert sys.modules.get("tensorflow") is None


if __name__ == "__main__":
    main()
