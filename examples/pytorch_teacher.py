"""A PyTorch teacher from end to end: trained, asked once, distilled into a Keras student.

    python examples/pytorch_teacher.py cifar10/train cifar10/test runs/pytorch

PyTorch and TensorFlow do not always live in one process, so each has its own here. This script
imports PyTorch alone and writes the logit store; then it calls `streamkd train` and `streamkd
evaluate`. The same student learns from labels alone beside it, with the same budget.

Needs `pip install streamkd[farmhash] torch`, and images of one size in one folder a class. Kill it
at any moment: the same command goes on, since OUT keeps teacher.pt, teacher.h5 and both runs.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import streamkd as kd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", help="images to learn from, one folder a class")
    parser.add_argument("validation", help="images to evaluate on")
    parser.add_argument("out", type=Path, help="directory of the teacher, its store and the runs")
    parser.add_argument("--image-size", type=int, default=32, help="height and width of an image")
    parser.add_argument("--teacher-epochs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=8, help="of the student")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out = args.out.resolve()  # the commands are called from another directory
    args.out.mkdir(parents=True, exist_ok=True)
    images = kd.scan(args.images)
    teacher = trained_teacher(images, args)
    store = args.out / "teacher.h5"
    size = (args.image_size, args.image_size)
    kd.write_store(
        images, store, lambda batch: answers(teacher, batch), teacher="torch", image_size=size
    )
    for name, label_weight in (("distilled", "0.1"), ("labels-alone", "1")):
        run = str(args.out / name)
        streamkd("train", args.images, "--store", str(store), "--label-weight", label_weight,
                 "--student", "pytorch_teacher:small_student", "--out", run, "--batch-size", "128",
                 "--epochs", str(args.epochs), "--temperature", "2", "--learning-rate", "0.003",
                 "--seed", str(args.seed), "--cache", "memory")  # fmt: skip
        print(f"\n{name}:", flush=True)
        streamkd("evaluate", run, args.validation)
    assert "tensorflow" not in sys.modules


def trained_teacher(images: kd.Manifest, args: argparse.Namespace) -> Any:
    """Returns a PyTorch model that takes pixels 0 to 255, trained here or read from teacher.pt."""
    import torch

    torch.manual_seed(args.seed)
    teacher = torch.nn.Sequential(
        *block(3, 64), *block(64, 128), *block(128, 256), *block(256, 256),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Dropout(0.3),
        torch.nn.Linear(256, images.num_classes),
    )  # fmt: skip
    path = args.out / "teacher.pt"
    if path.exists():
        teacher.load_state_dict(torch.load(path, weights_only=True))
        return teacher.eval()
    pixels = torch.stack([pixels_of(path.read_bytes()) for path in map(Path, paths_of(images))])
    labels = torch.from_numpy(np.asarray(images.labels, np.int64))
    optimizer = torch.optim.AdamW(teacher.parameters(), weight_decay=0.05)
    steps = args.teacher_epochs * -(-len(labels) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for epoch in range(args.teacher_epochs):
        for indices in torch.randperm(len(labels)).split(128):
            batch = pixels[indices]
            if torch.rand(()) < 0.5:
                batch = batch.flip(3)
            loss = torch.nn.functional.cross_entropy(teacher(batch), labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"teacher, epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
    torch.save(teacher.state_dict(), path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)
    return teacher.eval()


def block(num_inputs: int, num_outputs: int) -> list[Any]:
    """Returns two convolutions and a pooling."""
    import torch

    layers: list[Any] = []
    for channels in (num_inputs, num_outputs):
        convolution = torch.nn.Conv2d(channels, num_outputs, 3, padding=1, bias=False)
        layers += [convolution, torch.nn.BatchNorm2d(num_outputs), torch.nn.ReLU()]
    return [*layers, torch.nn.MaxPool2d(2)]


def answers(teacher: Any, batch: kd.ImageBatch) -> np.ndarray:
    """Returns the teacher's logits, float32 `[images, num_classes]`."""
    import torch

    with torch.inference_mode():
        return teacher(torch.stack([pixels_of(data) for data in batch.contents])).numpy()


def pixels_of(data: bytes) -> Any:
    """Returns the pixels of a file, float32 `[3, height, width]`, about -2 to 2."""
    import torch

    image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32)
    return torch.from_numpy((image - 127.5) / 63.75).permute(2, 0, 1).contiguous()


def paths_of(images: kd.Manifest) -> list[str]:
    """Returns the paths of all images."""
    return [os.fsdecode(path) for path in images.paths(np.arange(len(images)))]


def streamkd(*arguments: str) -> None:
    """Calls a command of streamkd, which finds the student in this file."""
    here = Path(__file__).resolve().parent
    absolute = [str(Path(text).resolve()) if Path(text).exists() else text for text in arguments]
    subprocess.run([sys.executable, "-m", "streamkd", *absolute], check=True, cwd=here)


def small_student(num_classes: int, image_shape: tuple[int, int, int]) -> Any:
    """Returns a small Keras model of pixels 0 to 255; called by `streamkd train`."""
    import tf_keras
    from tf_keras import layers

    return tf_keras.Sequential([
        tf_keras.Input(image_shape), layers.Rescaling(1 / 63.75, -2.0),
        layers.Conv2D(16, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
        layers.Conv2D(32, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
        layers.Conv2D(64, 3, padding="same", activation="relu"), layers.GlobalAveragePooling2D(),
        layers.Dense(num_classes),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
