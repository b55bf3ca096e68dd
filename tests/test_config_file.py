"""`--config FILE.toml`: the values that flags give, the same refusals, and which of them win."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from process_helpers import finished
from run_helpers import command

from streamkd.cli import config_file, teacher_flags
from streamkd.cli.main import build_parser, main
from streamkd.errors import OptionError

TYPED = {
    "scan": "scan photos --check --seed 7 --max-pixels 100",
    "teach": "teach photos --teacher t.keras --out s.h5 --views 8 --crop 0.35 1 --flip --color "
    "--mixup 0.5 --shard 2/8 --image-size 32x48 --drop-output 0 --crop-to-aspect-ratio",
    "train": "train photos --student m --out r --learning-rate 1e-05 --no-resume",
    "plan": "plan photos --teacher t.keras --codecs float16 packed:3",
    "verify": "verify s.h5 --sample 5",
    "merge": "merge a.h5 b.h5 --out c.h5 --index",
    "import": "import l.npy --images photos --out s.h5 --teacher-name them --pad-to-aspect-ratio",
    "evaluate": "evaluate run photos --store s.h5 --follow-links --validation-split 0.2 --trust",
    "export": "export run --out m.keras --image-size 8x8 --format keras",
    "inspect": "inspect s.h5 --json",
    "cluster": "cluster s.h5 --specialists 3 --out c.json --temperature 2",
    "demo": "demo --out d --seed 3",
    "distill": "distill photos --teacher t --student m --out r --no-flip --budget 1h --crop 0.5 1",
}
TOML = {
    "scan": 'images = "photos"\ncheck = true\nseed = 7\nmax-pixels = 100\nquiet = false\n',
    "teach": (
        'images = "photos"\nteacher = "t.keras"\nout = "s.h5"\nviews = 8\ncrop = [0.35, 1]\n'
        'flip = true\ncolor = true\nmixup = 0.5\nerase = false\nshard = "2/8"\n'
        'image_size = "32x48"\ndrop_output = 0\ncrop-to-aspect-ratio = true\n'
        "pad-to-aspect-ratio = false\n"
    ),
    "train": (
        'images = "photos"\nstudent = "m"\nout = "r"\nlearning-rate = 1e-05\nresume = false\n'
    ),
    "plan": 'images = "photos"\nteacher = "t.keras"\ncodecs = ["float16", "packed:3"]\n',
    "verify": 'store = "s.h5"\nsample = 5\n',
    "merge": 'stores = ["a.h5", "b.h5"]\nout = "c.h5"\nindex = true\n',
    "import": (
        'logits = "l.npy"\nimages = "photos"\nout = "s.h5"\nteacher-name = "them"\n'
        "pad-to-aspect-ratio = true\n"
    ),
    "evaluate": (
        'model = "run"\nimages = "photos"\nstore = "s.h5"\nfollow_links = true\n'
        "validation-split = 0.2\ntrust = true\n"
    ),
    "export": 'model = "run"\nout = "m.keras"\nimage-size = "8x8"\nformat = "keras"\n',
    "inspect": 'store = "s.h5"\njson = true\n',
    "cluster": 'store = "s.h5"\nspecialists = 3\nout = "c.json"\ntemperature = 2\n',
    "demo": 'out = "d"\nseed = 3\n',
    "distill": (
        'images = "photos"\nteacher = "t"\nstudent = "m"\nout = "r"\nflip = false\n'
        'budget = "1h"\ncrop = [0.5, 1]\n'
    ),
}


@pytest.fixture
def parsed(tmp_path, monkeypatch):
    """A function: text of c.toml and the words typed, to the arguments; c.toml lies right here."""
    monkeypatch.chdir(tmp_path)

    def parse(text, *words):
        Path("c.toml").write_text(text)
        args = argparse.Namespace(json=False)
        config_file.parse(build_parser(), [*words, "--config", "c.toml"], args)
        return vars(args)

    return parse


def test_every_command_is_parsed_below():
    assert set(TYPED) == set(TOML) == set(build_parser().commands)


@pytest.mark.parametrize("name", TYPED)
@pytest.mark.parametrize("table", ["[{}]\n", ""], ids=["own table", "above all tables"])
def test_a_file_says_what_flags_say(parsed, name, table):
    typed = vars(build_parser().parse_args(TYPED[name].split()))
    assert {**parsed(table.format(name) + TOML[name], name), "config": None} == typed


def test_the_command_line_wins_and_the_own_table_wins_over_the_top_level(parsed):
    text = 'images = "a"\nseed = 1\nviews = 2\n[teach]\nseed = 2\nteacher = "t"\nout = "s.h5"\n'
    text += "crop = [0.5, 1]\n[train]\nseed = 3\n"
    args = parsed(text, "teach", "--views", "3", "--crop", "0.1", "0.2")
    assert (args["images"], args["seed"], args["views"]) == ("a", 2, 3)
    assert args["crop"] == [0.1, 0.2] and args["batch_size"] == 64
    assert parsed(text, "teach", "--seed", "4", "b")["images"] == "b"
    assert parsed(text, "scan")["seed"] == 1
    train = '[train]\nresume = false\nimages = "a"\nstudent = "m"\nout = "r"\n'
    assert parsed(train, "train", "--resume")["resume"] is True
    assert parsed(train, "train")["resume"] is False


def test_what_a_file_says_of_the_teacher_is_not_said_of_the_model_that_is_evaluated(parsed):
    text = 'preprocess = "scale"\ndrop-output = 0\nmax_queries = 9\nteacher = "t"\nout = "s.h5"\n'
    assert parsed(text, "teach", "images")["preprocess"] == "scale"
    args = parsed(text, "evaluate", "run", "images")
    assert not teacher_flags.are_given(argparse.Namespace(**args))
    args = parsed(text + '[evaluate]\npreprocess = "scale"\n', "evaluate", "run", "images")
    assert (args["preprocess"], args["drop_output"]) == ("scale", None)
    evaluate = build_parser().commands["evaluate"]
    assert set(evaluate.arguments) >= teacher_flags.ANSWER_FLAGS


def test_positional_arguments_that_are_typed_fill_what_the_file_lacks(parsed):
    def evaluated(text, *words):
        args = parsed(text, "evaluate", *words)
        return args["model"], args["images"]

    assert evaluated('images = "a"', "run") == ("run", "a")
    assert evaluated('model = "m"', "--batch-size", "2", "b") == ("m", "b")
    assert evaluated('model = "m"\nimages = "a"', "run") == ("run", "a")
    assert evaluated('model = "m"\nimages = "a"', "run", "b") == ("run", "b")
    assert parsed('stores = ["a"]\nout = "o"', "merge", "b", "c")["stores"] == ["b", "c"]


def test_an_empty_list_is_refused_where_a_value_is_needed(parsed):
    for text, words, name in (
        ("codecs = []", ("plan", "photos", "--teacher", "t"), "--codecs"),
        ("stores = []", ("merge", "--out", "m.h5"), "S.h5"),
    ):
        with pytest.raises(OptionError) as refused:
            parsed(text, *words)
        assert str(refused.value).startswith(f"Argument {name}: expected at least one argument.")


def test_a_flag_that_may_be_repeated_is_a_number_or_a_list_and_typed_ones_win(parsed):
    words = ("teach", "photos", "--teacher", "t", "--out", "s.h5")
    for text, dropped in (("", None), ("drop_output = 3", [3]), ("drop-output = [0, 3]", [0, 3])):
        assert parsed(text, *words)["drop_output"] == dropped
        typed = parsed(text, *words, "--drop-output", "5", "--drop-output", "4")
        assert typed["drop_output"] == [5, 4]
    for text, message in (
        ("drop_output = []", "Argument --drop-output: expected at least one argument.\n"),
        ('drop_output = ["a"]', "--drop-output takes a whole number, or a list of several in [ ]."),
    ):
        with pytest.raises(OptionError) as refused:
            parsed(text, *words)
        assert message in str(refused.value)


def test_keys_of_other_commands_are_passed_over(parsed):
    text = 'temperature = 3.0\nviews = 4\n[train]\nlearning-rat = 1\n[scan]\nimages = "a"\n'
    assert parsed(text, "scan")["images"] == "a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[scan]\nsede = 1",
            "[scan] of c.toml has the key 'sede', and `streamkd scan` has no such flag.\n"
            "Did you mean 'seed'?",
        ),
        (
            "[scan]\nlearning_rate = 1.0",
            "[scan] of c.toml has the key 'learning_rate', and `streamkd scan` has no such flag.\n"
            "See `streamkd COMMAND --help`: keys are its flags",
        ),
        (
            "learning_rte = 1.0",
            "c.toml has the key 'learning_rte', and no command has such a flag.\n"
            "Did you mean 'learning-rate'?",
        ),
        ('config = "d.toml"', "c.toml has the key 'config', and no command"),
        ("[scna]", "c.toml has the table [scna], and there is no such command.\nDid you mean 'sca"),
        ("scan = 1", "c.toml has a whole number as scan: 1.\nscan is a command: write its flags"),
        (
            'image-size = "1x1"\nimage_size = "2x2"',
            "c.toml has both 'image-size' and 'image_size', which are the same flag.",
        ),
        ('seed = "7"', "c.toml has a string as seed: '7'.\n--seed takes a whole number."),
        ("seed = 7.5", "c.toml has a number as seed: 7.5.\n--seed takes a whole number."),
        ("seed = true", "c.toml has a boolean as seed: true.\n--seed takes a whole number."),
        ("seed = [7]", "c.toml has a list as seed: [7].\n--seed takes a whole number."),
        ("[scan.seed]\nx = 1", "[scan] of c.toml has a table as seed: {'x': 1}.\n"),
        ("seed = 1979-05-27", "c.toml has a date or a time as seed: datetime.date(1979, 5, 27).\n"),
        ('check = "yes"', "c.toml has a string as check: 'yes'.\n--check takes true or false."),
        ("images = 1", "c.toml has a whole number as images: 1.\nimages takes a string in quotes"),
        ("validation_split = '0.1'", "--validation-split takes a number."),
        ("[scan]\nseed = ?\n", "c.toml is not valid TOML: Invalid value (at line 2, column 8).\n"),
        (b"seed = 1\nout = '\xff'", "c.toml is not valid TOML: it is not UTF-8 (at line 2).\n"),
        (
            "[scan]\nsubset = 'test'",
            ").\n  in [scan] of c.toml: subset = 'test'\nSee `streamkd scan --help`.",
        ),
        ("subset = 'test'", "Argument --subset: invalid choice: 'test' (choose from "),
        ("seed = -1", "Argument --seed: '-1' is no seed; give a whole number from 0 to 4294967295"),
    ],
)
def test_impossible_files_are_refused(tmp_path, monkeypatch, capsys, text, message):
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    code, answer, errors = command(capsys, "scan", "--config", "c.toml")
    assert code == 2 and errors == "" and answer["error"]["code"] == "bad_option"
    assert message in answer["error"]["message"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "crop = 0.5",
            "c.toml has a number as crop: 0.5.\n--crop takes a list of 2 in [ ], each a number.",
        ),
        ("crop = [0.5]", "Argument --crop: expected 2 arguments.\n  in c.toml: crop = [0.5]\n"),
        (
            "on-bad = 'Skip'",
            "Argument --on-bad: invalid choice: 'Skip' (choose from 'raise', 'skip').\n"
            "  in c.toml: on-bad = 'Skip'\nSee `streamkd teach --help`.",
        ),
        ("flip = 1", "c.toml has a whole number as flip: 1.\n--flip takes true or false."),
        (
            "crop = ['a', 1]",
            "c.toml has a list as crop: ['a', 1].\n--crop takes a list of 2 in [ ]",
        ),
        ("color = 'much'", "c.toml has a string as color: 'much'.\n--color takes a number."),
        ("codec = 'packed:5'", "  in c.toml: codec = 'packed:5'\n"),
        ("image_size = 8", "--image-size takes a string in quotes."),
        (
            "image_size = '8'",
            "'8'; write it as HEIGHTxWIDTH, for example 160x160.\n  in c.toml: im",
        ),
        ("out = 's.h5'", "The following arguments are required: --teacher."),
    ],
)
def test_values_of_teach_that_cannot_be_are_refused(parsed, text, message):
    with pytest.raises(OptionError) as refused:
        parsed(text, "teach", "photos")
    assert message in str(refused.value)


def test_a_file_that_cannot_be_read_and_two_files_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words, message in (
        (["--config", "no.toml"], "--config no.toml cannot be read: No such file or directory.\n"),
        (["--config", "."], "--config . cannot be read: Is a directory.\n"),
        (["--config=a", "--config", "b"], "--config is given twice: a and b.\n"),
        (["--config"], "Argument --config: expected one argument.\nSee `streamkd scan --help`."),
    ):
        code, answer, _ = command(capsys, "scan", *words)
        assert code == 2 and message in answer["error"]["message"]


def test_typed_mistakes_are_refused_as_without_a_file(parsed):
    for words, message in (
        (["scan", "--fast"], "`streamkd scan` has no flag --fast."),
        (["scan", "a", "b"], "Unrecognized arguments: b"),
        (["scan", "--subset", "x"], "Argument --subset: invalid choice: 'x'"),
        (["fly"], "There is no command 'fly'."),
        (["scan", "--sead", "1"], "`streamkd scan` has no flag --sead.\nDid you mean --seed?"),
    ):
        with pytest.raises(OptionError) as refused:
            parsed('images = "photos"', *words)
        assert message in str(refused.value) and "c.toml" not in str(refused.value)


def test_json_in_the_file_holds_for_refusals_too(directory, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text(f'json = true\nimages = "{directory}"\n[scan]\nseed = "x"')
    assert main(["scan", "--config", "c.toml"]) == 2
    out, errors = capsys.readouterr()
    assert "--seed takes a whole number" in json.loads(out)["error"]["message"] and errors == ""
    Path("c.toml").write_text(f'json = true\nimages = "{directory}"')
    assert main(["scan", "--config", "c.toml"]) == 0
    assert json.loads(capsys.readouterr().out)["num_images"] == 30
    Path("c.toml").write_text("json = true\n[scan]\njson = false\nseed = 'x'")
    assert main(["scan", "--config", "c.toml"]) == 2
    assert capsys.readouterr().out == ""


def test_a_file_needs_no_tensorflow(directory, tmp_path):
    (tmp_path / "c.toml").write_text(f'images = "{directory}"\njson = true\n')
    code = (
        "import sys\nfrom streamkd.cli.main import main\n"
        "code = main(['scan', '--config', sys.argv[1]])\n"
        "print(code, *sorted({'tensorflow', 'tf_keras', 'keras'} & set(sys.modules)))"
    )
    out, errors = finished("-c", code, tmp_path / "c.toml")
    answer, end = out.splitlines()
    assert (json.loads(answer)["num_images"], end) == (30, "0"), errors
