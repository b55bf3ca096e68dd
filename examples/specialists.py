"""A generalist and three specialists become one student, on CIFAR-10.

    python examples/specialists.py --data cifar10 --out runs/specialists --seeds 1 2 3

`cifar10` holds train/<class>/* and test/<class>/*; `tests/benchmarks/make_data.py` makes it.

- The generalist is trained on a few images of all ten classes.
- `kd.cluster_classes` finds three groups of classes that the generalist confuses.
- A specialist of each group starts from the generalist's weights. It is trained on more images of
  its group, and on some of all others as one class, the dustbin.
- All four answer a transfer set once: other images, of which no label is used. `kd.Member` names
  the dustbin and says how scarce its images were, and `kd.join` combines the four stores.

The table has the test accuracy of the generalist, of the generalist with its specialists, which
takes four networks an image, and of one student distilled from either. Hinton, Vinyals and Dean
(arXiv:1503.02531, section 5) left the last student undone. Both students see the same views in the
same order. The same command resumes a run that was stopped.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tf_keras

import streamkd as kd

SIZE = (32, 32)


def build_network(num_classes: int, *, flips: bool = False) -> tf_keras.Model:
    """Returns a small convolutional network; with `flips` it mirrors images while training."""
    layers = tf_keras.layers
    blocks = [layers.RandomFlip("horizontal")] if flips else []
    for filters in (32, 64, 128):
        blocks += [
            layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    return tf_keras.Sequential(
        [
            layers.Input((*SIZE, 3)),
            layers.Rescaling(1 / 64, offset=-2),
            *blocks,
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(num_classes),
        ]
    )


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    """Returns the settings; by default those with which the table was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory with train and test")
    parser.add_argument("--out", type=Path, default=Path("runs/specialists"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--specialists", type=int, default=3)
    parser.add_argument("--generalist-images", type=int, default=600, help="of each class")
    parser.add_argument("--specialist-images", type=int, default=1500, help="of each of its own")
    parser.add_argument("--others", type=float, default=0.5, help="for each of a specialist's own")
    parser.add_argument("--transfer-images", type=int, default=400, help="of each class")
    parser.add_argument("--test-images", type=int, default=1000, help="of each class")
    parser.add_argument("--generalist-epochs", type=int, default=10)
    parser.add_argument("--specialist-epochs", type=int, default=4)
    parser.add_argument("--student-epochs", type=int, default=12)
    parser.add_argument("--views", type=int, default=8, help="of each transfer image")
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    return parser.parse_args(words)


def images_of_each_class(images: kd.Manifest, start: int, stop: int) -> kd.Manifest:
    """Returns the images number `start` to `stop - 1` of each class."""
    of_class = [np.flatnonzero(images.labels == label) for label in range(images.num_classes)]
    return images.select(np.concatenate([numbers[start:stop] for numbers in of_class]))


def without_labels(images: kd.Manifest) -> kd.Manifest:
    """Returns the images as a team finds them that knows other classes, or none."""
    return kd.Manifest(images.root, images.keys, np.full(len(images), -1), None)


class Seed:
    """One seed: its images, its teachers and its students.

    Attributes:
      accuracy: of each row of the table, as far as it is known.
    """

    def __init__(self, seed: int, args: argparse.Namespace):
        self.args, self.seed = args, seed
        self.out = args.out / f"seed-{seed}"
        self.out.mkdir(parents=True, exist_ok=True)
        every_image = kd.scan(args.data / "train")
        pool = args.specialist_images
        self.few = images_of_each_class(every_image, 0, args.generalist_images)
        self.many = images_of_each_class(every_image, 0, pool)
        self.transfer = images_of_each_class(every_image, pool, pool + args.transfer_images)
        self.test = images_of_each_class(kd.scan(args.data / "test"), 0, args.test_images)
        self.class_names = every_image.class_names
        self.views = kd.Views(
            args.views, crop=(0.5, 1.0), flip=True, canonical_size=SIZE, seed=seed
        )
        self.accuracy: dict[str, float] = {}

    def run(self) -> None:
        """Trains everything, and fills in the accuracies."""
        generalist = self.train_teacher("generalist", self.few, self.args.generalist_epochs)
        members = [kd.Member(self.ask(generalist, "generalist", self.class_names, self.transfer))]
        tested = [kd.Member(self.ask(generalist, "generalist", self.class_names, self.test))]
        clusters = kd.cluster_classes(members[0].store, self.args.specialists, seed=self.seed)
        clusters.write(self.out / "clusters.json")
        for number, classes in enumerate(clusters.classes):
            print(f"seed {self.seed}, specialist {number}: {', '.join(classes)}", flush=True)
            training = kd.specialist_images(
                self.many, classes, others=self.args.others, seed=self.seed
            )
            name = f"specialist {number}"
            specialist = self.train_teacher(
                name, training.images, self.args.specialist_epochs, start=generalist
            )
            names = training.images.class_names
            for images, known in ((self.transfer, members), (self.test, tested)):
                store = self.ask(specialist, name, names, images)
                member = kd.Member(
                    store, dustbin=training.dustbin, oversampling=training.oversampling
                )
                known.append(member)
        self.compare(members, tested)

    def train_teacher(
        self,
        name: str,
        images: kd.Manifest,
        epochs: int,
        start: tf_keras.Model | None = None,
    ) -> tf_keras.Model:
        """Returns a network trained on labels, perhaps from another's weights but the last."""
        stream = kd.join(
            *(images, None),
            image_size=SIZE,
            batch_size=self.args.batch_size,
            seed=self.seed,
            cache="memory",
        )
        tf_keras.utils.set_random_seed(self.seed)
        model = build_network(images.num_classes, flips=True)
        if start is not None:
            for layer, known in zip(model.layers[:-1], start.layers[:-1], strict=True):
                layer.set_weights(known.get_weights())
        return self.train(model, stream, name, epochs, label_weight=1.0)

    def train(
        self, model: tf_keras.Model, stream: kd.Stream, name: str, epochs: int, **settings
    ) -> tf_keras.Model:
        """Returns the trained model; resumes its run if it was stopped."""
        distiller = kd.Distiller(
            model, optimizer="adam", learning_rate=self.args.learning_rate, jit=False, **settings
        )
        distiller.fit(stream, epochs=epochs, run=self.out / name, progress=False)
        return distiller.student

    def ask(
        self, model: tf_keras.Model, name: str, class_names: list[str], images: kd.Manifest
    ) -> kd.LogitStore:
        """Returns a teacher's answers, for the transfer set with its views."""
        part = "test" if images is self.test else "transfer"
        views = None if images is self.test else self.views
        return kd.teach(
            without_labels(images),
            model,
            self.out / f"{name} on {part}.h5",
            class_names=class_names,
            views=views,
            progress=False,
        )

    def compare(self, members: list[kd.Member], tested: list[kd.Member]) -> None:
        """Measures teachers and students: the generalist's, and those of all four."""
        together = kd.combine_stores(tested)
        self.accuracy["generalist"] = self.right(tested[0].store)
        self.accuracy["generalist with specialists"] = self.right(together)
        for name, stores in (("generalist", members[:1]), ("generalist with specialists", members)):
            stream = kd.join(
                *(self.transfer, stores),
                batch_size=self.args.batch_size,
                seed=self.seed,
                cache="memory",
            )
            tf_keras.utils.set_random_seed(self.seed)
            student = self.train(
                build_network(len(self.class_names)),
                stream,
                f"student of {name}",
                self.args.student_epochs,
                temperature=self.args.temperature,
                label_weight=0.0,
            )
            report = kd.evaluate(student, self.test, class_names=stream.class_names, progress=False)
            self.accuracy[f"student of {name}"] = report.accuracy

    def right(self, store: kd.LogitStore | kd.EnsembleStore) -> float:
        """Returns the accuracy of stored answers for the test images."""
        rows = store.images_of_keys(self.test.keys) * store.num_views
        chosen = np.array(store.class_names)[store.gather(rows).argmax(axis=1)]
        return float(np.mean(chosen == np.array(self.class_names)[self.test.labels]))


def main() -> None:
    args = parse_args()
    started = time.perf_counter()
    table: dict[str, list[float]] = defaultdict(list)
    for number in args.seeds:
        seed = Seed(number, args)
        seed.run()
        for name, accuracy in seed.accuracy.items():
            table[name].append(accuracy)
            print(f"seed {number}, {name}: {100 * accuracy:.2f}", flush=True)
    print(f"{'test accuracy, %':<40}{'mean':>6}   by seed {args.seeds}")
    for name, values in table.items():
        by_seed = "  ".join(f"{100 * value:.2f}" for value in values)
        print(f"{name:<40}{100 * np.mean(values):>6.2f}   {by_seed}")
    print(f"{(time.perf_counter() - started) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
