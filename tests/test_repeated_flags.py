"""A flag that takes one value is given once; a second value would win without a word."""

from __future__ import annotations

import pytest

from streamkd.cli.arguments import Repeated
from streamkd.cli.main import main
from streamkd.cli.parser import build_parser

TRAIN = ["train", "photos", "--student", "s.keras", "--out", "run"]
TEACH = ["teach", "photos", "--teacher", "t.keras", "--out", "s.h5"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*TRAIN, "--loss", "kl", "--loss", "auto"], "--loss is given twice: kl and auto."),
        ([*TRAIN, "--loss=kl", "--loss", "kl"], "--loss is given twice: kl and kl."),
        ([*TRAIN, "--resume", "--no-resume"], "--resume is given twice: --resume and --no-resume."),
        ([*TRAIN, "--jit", "on", "--jit=off"], "--jit is given twice: on and off."),
        (
            [*TEACH, "--crop", "0.1", "1", "--crop", "0.3", "1"],
            "--crop is given twice: 0.1 1 and 0.3 1.",
        ),
        (
            ["plan", "photos", "--codecs", "float16", "float32", "--codecs", "packed:4"],
            "--codecs is given twice: float16 float32 and packed:4.",
        ),
        (
            ["evaluate", "run", "val", "--seed", "1", "--json", "--seed", "2"],
            "--seed is given twice: 1 and 2.",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_flag_with_one_value_is_refused_the_second_time(words, message, capsys):
    assert main([word for word in words if word != "--json"]) == 2
    assert capsys.readouterr().err == f"streamkd: {message}\nGive it once.\n"


@pytest.mark.parametrize("command", sorted(build_parser().commands))
def test_every_command_refuses_a_second_value(command, capsys):
    assert main([command, "--config", "a.toml", "--config", "b.toml"]) == 2
    flags = build_parser().commands[command].arguments
    one = next(name for name, argument in flags.items() if _takes_one_value(argument))
    assert main([command, f"--{one}", "x", f"--{one}", "y"]) == 2
    assert capsys.readouterr().err.endswith(f"--{one} is given twice: x and y.\nGive it once.\n")


def _takes_one_value(argument):
    repeatable = isinstance(argument, Repeated) or argument.dest == "config"
    return argument.option_strings and argument.nargs is None and not repeatable


def test_a_switch_may_be_repeated_and_words_after_two_dashes_are_no_flags():
    train = build_parser().commands["train"]
    args = train.parse_args(["--resume", "--resume", "--balance", "--balance", *TRAIN[2:], "p"])
    assert args.resume and args.balance
    parsed = train.parse_known_args([*TRAIN[2:], "--seed", "1", "--", "p", "--seed"])
    assert parsed[0].seed == 1


def test_a_flag_on_the_command_line_wins_over_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.toml").write_text('[train]\nstore = "file.h5"\nepochs = 2\n')
    assert main([*TRAIN, "--config", "f.toml", "--store", "typed.h5"]) == 2
    assert "twice" not in capsys.readouterr().err
    assert main([*TRAIN, "--config", "f.toml", "--epochs", "1", "--epochs", "2"]) == 2
    assert "--epochs is given twice: 1 and 2." in capsys.readouterr().err
