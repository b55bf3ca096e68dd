"""The flags of `streamkd sweep`: those of `train`, some of which take several values.

add_sweep(parser)
args = parser.parse_args(["photos", …, "--temperature", "1", "2", "--student", "a", "b"])
args.temperature, args.student           # [1.0, 2.0], ["a", "b"]
"""

from __future__ import annotations

from typing import Any

from streamkd.cli import arguments, train_flags

# Flags of `train` that make the grid, without their dashes.
GRID = ("student", "loss", "temperature", "label-weight", "learning-rate", "seed")
# Flags of `train` that make no sense for several students in one process.
OMITTED = ("distribute", "tensorboard", "jit", "extend")
# Help texts that differ from those of `train`.
HELP = {
    "out": "the directory of the sweep; each student has a run directory in it",
    "validation": "images that decide between the students (default: a part of IMAGES is held out)",
    "resume": "resume every run from its newest checkpoint (the default), or start over",
    "seed": "seed of the first weights and of the order, as of `train`; each seed has a stream of "
    "its own, and the first one is the seed of the split",
}


class _GridArguments:
    """Adds the arguments of `train` to a parser or a group of it, as those of a grid."""

    def __init__(self, to: Any) -> None:
        self._to = to

    def add_group(self, title: str) -> _GridArguments:
        return _GridArguments(self._to.add_group(title))

    def add_argument(self, *names: str, **settings: Any) -> Any:
        name = names[0].lstrip("-")
        if name in OMITTED:
            return None
        settings["help"] = HELP.get(name, settings.get("help"))
        if name in GRID:
            if "default" in settings:
                settings["default"] = [settings["default"]]
            settings |= {"action": arguments.Repeated, "nargs": "+"}
            settings["help"] = f"{settings['help']}; several values make a grid"
        return self._to.add_argument(*names, **settings)


def add_sweep(parser: arguments.Parser) -> None:
    """Adds all flags of `streamkd sweep` except those of every command."""
    grid: Any = _GridArguments(parser)
    train_flags.add_train(grid)
    group = parser.add_group("sweep")
    group.add_argument(
        "--jit",
        choices=("off", "on"),
        default="off",
        help="compile the steps with XLA (on), or not (off, the default); all students alike",
    )
    group.add_argument(
        "--at-once",
        type=arguments.count,
        metavar="N",
        help="train at most N students together; each group reads the images anew (default: as "
        "many as fit into half of the free memory)",
    )
    parser.epilog = (
        "JSON keys: criterion (val_accuracy, or kl_to_teacher for images without labels), "
        "num_images, num_validation_images, students (one object each, the best first: rank, run, "
        "student, loss, temperature, label_weight, learning_rate, seed, status (finished, diverged "
        "or failed), val_accuracy, val_loss, kl_to_teacher, agreement, epochs, seconds (of its own "
        "steps), message), best (its run directory), command (that trains it alone), run, table "
        "(CSV), picture (PNG), warnings."
    )
