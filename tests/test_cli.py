"""The command line: one object on standard output, exit codes, and what is imported when."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
from pathlib import Path

import numpy as np
import pytest
from helpers import draw_directory, draw_image, truncate
from process_helpers import finished, process
from run_helpers import (
    EVALUATION_KEYS,
    command,
    dense_student,
    drifting_model,
    exact_teacher,
    refusal,
    snapshot,
)
from timeouts import TIMEOUT_SECS

from streamkd.cli import commands
from streamkd.cli.answer import Answer
from streamkd.cli.main import build_parser, main
from streamkd.keys import key_fields
from streamkd.manifest.manifest import scan
from streamkd.store.collection import open_store

STORE_KEYS = {
    "num_images",
    "num_views",
    "num_classes",
    "rows_done",
    "rows_total",
    "codec",
    "teacher",
    "teacher_accuracy",
    "num_bytes",
}
COMMANDS = (
    *("demo", "distill", "scan", "plan", "teach", "verify", "inspect", "import", "merge"),
    *("cluster", "train", "evaluate", "export"),
)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """images, teacher.keras, student.keras, s.h5 and run, made by the commands themselves."""
    root = tmp_path_factory.mktemp("work")
    draw_directory(root / "images", {"ant": 11, "bee": 9, "cat": 10})
    exact_teacher().save(root / "teacher.keras")
    dense_student().save(root / "student.keras")
    teach = ["teach", "images", "--teacher", "teacher.keras", "--out", "s.h5", "--quiet"]
    train = ["train", "images", "--store", "s.h5", "--student", "student.keras", "--out", "run"]
    train += ["--epochs", "2", "--batch-size", "8", "--optimizer", "sgd", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(teach) == 0 and main(train) == 0
    return root


def test_scan_answers_with_its_keys(here, capsys):
    code, answer, _ = command(capsys, "scan", "images")
    assert code == 0 and set(answer) == {
        "num_images",
        "num_classes",
        "class_names",
        "class_counts",
        "num_empty_classes",
        "empty_classes",
        "fingerprint",
        "notes",
    }
    assert answer["num_classes"] == 3
    assert answer["num_empty_classes"] == 0 and answer["empty_classes"] == []
    assert (answer["num_images"], answer["class_counts"]) == (30, [11, 9, 10])
    assert answer["class_names"] == ["ant", "bee", "cat"]


def test_scan_check_lists_bad_files_and_answers_no(here, capsys):
    code, answer, _ = command(capsys, "scan", "images", "--check")
    assert code == 0 and answer["bad"] == [] and answer["formats"] == {"png": 30}
    assert answer["num_bytes"] == sum(p.stat().st_size for p in here.glob("images/*/*"))
    truncate(here / "images" / "bee" / "00014.png", 30)
    code, answer, _ = command(capsys, "scan", "images", "--check")
    assert code == 1 and answer["num_bad"] == 1
    assert [set(entry) for entry in answer["bad"]] == [{"key", "reason"}]
    assert answer["bad"][0]["key"] == "bee/00014.png" and answer["bad"][0]["reason"]


def test_a_limit_of_pixels_without_check_is_refused(here, capsys):
    assert refusal(capsys, "scan", "images", "--max-pixels", 100) == (
        "--max-pixels limits the images that are decoded, and scan decodes nothing.\n"
        "Add `--check`, or leave --max-pixels out.\n"
    )


def test_a_color_mode_without_check_is_refused(here, capsys):
    assert refusal(capsys, "scan", "images", "--color-mode", "rgba") == (
        "--color-mode says to which channels images are decoded, and scan decodes nothing.\n"
        "Add `--check`, or leave --color-mode out.\n"
    )


def test_long_lists_are_cut_with_the_count_beside_them(here, capsys, monkeypatch):
    monkeypatch.setattr(commands, "MAX_LISTED", 2)
    for number in (12, 13, 14):
        (here / "images" / "bee" / f"{number:05d}.png").write_bytes(b"x")
    _, answer, _ = command(capsys, "scan", "images", "--check")
    assert (len(answer["bad"]), answer["num_bad"]) == (2, 3)
    _, answer, _ = command(capsys, "verify", "s.h5", "--images", "images")
    assert (len(answer["problems"]), answer["num_problems"]) == (2, 3)


def test_a_manifest_that_scan_wrote_stands_for_the_directory(here, capsys):
    _, direct, _ = command(capsys, "scan", "images")
    code, answer, _ = command(capsys, "scan", "images", "--out", "m.jsonl")
    assert code == 0 and answer == {**direct, "manifest": "m.jsonl"}
    assert command(capsys, "scan", "m.jsonl")[1] == direct
    teach = ("teach", "m.jsonl", "--teacher", "teacher.keras", "--out", "m.h5")
    assert command(capsys, *teach)[1]["fingerprint"] == direct["fingerprint"]
    assert (here / "m.h5").read_bytes() == (here / "s.h5").read_bytes()


def test_teach_and_inspect_answer_with_their_keys(here, capsys):
    teach = ("teach", "images", "--teacher", "teacher.keras", "--out", "new.h5")
    code, answer, errors = command(capsys, *teach)
    assert code == 0 and set(answer) >= STORE_KEYS
    assert (answer["num_images"], answer["rows_done"], answer["rows_total"]) == (30, 30, 30)
    assert (answer["num_views"], answer["num_classes"]) == (1, 3)
    assert (answer["codec"], answer["teacher"]) == ("float16", "teacher.keras")
    assert answer["num_bytes"] == (here / "new.h5").stat().st_size
    assert "teaching" in errors
    assert (answer["num_refused"], answer["refused"]) == (0, [])
    inspected = command(capsys, "inspect", "new.h5")[1]
    own = {"num_refused": 0, "refused": [], "cache": None, "notes": [], "warnings": []}
    assert {**inspected, **own, "outcome": "new"} == answer
    before = snapshot(here)
    assert command(capsys, *teach)[:2] == (0, {**answer, "outcome": "already_finished"})
    assert snapshot(here) == before


def test_verify_answers_with_its_keys(here, capsys):
    code, answer, _ = command(capsys, "verify", "s.h5")
    assert code == 0 and set(answer) >= {"sound", "rows_checked", "num_problems", "problems"}
    assert answer["sound"] is True and answer["rows_checked"] == 30 and answer["problems"] == []
    assert command(capsys, "verify", "s.h5", "--images", "images")[:2] == (0, answer)
    code, answer, _ = command(capsys, "verify", "s.h5", "--sample", "5")
    assert code == 0 and 5 <= answer["rows_checked"] <= 30


def test_verify_names_a_changed_and_a_vanished_image(here, capsys):
    (here / "images" / "ant" / "00003.png").unlink()
    draw_image(here / "images" / "bee" / "00014.png", 77)
    code, answer, _ = command(capsys, "verify", "s.h5", "--images", "images")
    assert code == 1 and answer["sound"] is False and answer["num_problems"] == 2
    assert answer["problems"] == [
        {"key": "ant/00003.png", "view": None, "reason": "the image has vanished"},
        {
            "key": "bee/00014.png",
            "view": None,
            "reason": "the image was changed since the teacher saw it",
        },
    ]


def test_verify_says_no_to_a_damaged_store(here, capsys):
    data = bytearray((here / "s.h5").read_bytes())
    data[len(data) // 2] ^= 1
    (here / "s.h5").write_bytes(data)
    truncate(here / "s.h5", len(data) - 1)
    code, answer, _ = command(capsys, "verify", "s.h5")
    assert code == 1 and answer["num_problems"] == 1
    assert answer["problems"][0]["key"] is None and "damaged" in answer["problems"][0]["reason"]


def test_train_answers_with_its_keys(here, capsys):
    words = ("train", "images", "--store", "s.h5", "--student", "student.keras", "--out", "new")
    options = ("--epochs", 2, "--batch-size", 8, "--validation", "images", "--optimizer", "sgd")
    code, answer, errors = command(capsys, *words, *options)
    assert code == 0 and set(answer) == {
        "epochs",
        "steps",
        "loss",
        "accuracy",
        "val_accuracy",
        "agreement",
        "images_per_second",
        "num_skipped",
        "run",
        "outcome",
        "began_at_step",
        "warnings",
    }
    assert (answer["epochs"], answer["steps"], answer["run"]) == (2, 8, "new")
    assert all(0 <= answer[name] <= 1 for name in ("accuracy", "val_accuracy", "agreement"))
    assert "epoch 1: loss " in errors and "epoch 2: loss " in errors
    again = command(capsys, *words, *options)
    assert answer["outcome"] == "new" and answer["began_at_step"] == 0
    assert again[:2] == (0, {**answer, "outcome": "already_finished", "began_at_step": 8})


def test_train_without_validation_or_store_leaves_that_null(here, capsys):
    words = ("train", "images", "--student", "student.keras", "--out", "alone", "--epochs", 1)
    options = ("--label-weight", 1, "--image-size", "8x8", "--batch-size", 8, "--quiet")
    code, answer, errors = command(capsys, *words, *options, "--optimizer", "sgd")
    assert code == 0 and answer["val_accuracy"] is None and answer["agreement"] is None
    assert "epoch" not in errors


def test_train_splits_validation_off(here, capsys):
    words = ("train", "images", "--store", "s.h5", "--student", "student.keras", "--out", "split")
    options = ("--epochs", 1, "--batch-size", 8, "--validation-split", 0.2, "--seed", 5)
    code, answer, _ = command(capsys, *words, *options, "--optimizer", "sgd")
    assert code == 0 and answer["steps"] == 3 and answer["val_accuracy"] is not None


def test_evaluate_answers_with_its_keys(here, capsys):
    code, answer, _ = command(capsys, "evaluate", "run", "images", "--store", "s.h5")
    assert code == 0 and set(answer) == {*EVALUATION_KEYS, "warnings"}
    assert answer["warnings"] == []
    assert answer["num_images"] == 30 and answer["top5_accuracy"] is None
    file = command(capsys, "evaluate", "run/student.keras", "images", "--store", "s.h5")[1]
    assert {**file, "latency_ms": 0} == {**answer, "latency_ms": 0}


def test_export_answers_with_its_keys(here, capsys):
    code, answer, _ = command(capsys, "export", "run", "--out", "out.keras", "--images", "images")
    assert code == 0 and set(answer) >= {"path", "num_bytes", "max_abs_difference", "agreement"}
    assert answer["path"] == "out.keras" and answer["max_abs_difference"] == 0
    assert answer["num_bytes"] == (here / "out.keras").stat().st_size


def test_an_export_that_answers_otherwise_fails(here, capsys):
    drifting_model("tf_keras").save("drifting.keras")
    code, answer, _ = command(capsys, "export", "drifting.keras", "--out", "out.keras")
    assert code == 1 and answer["max_abs_difference"] > 1e-3 and answer["parity"] is False


def test_without_json_a_person_gets_lines(here, capsys):
    assert main(["scan", "images"]) == 0
    out, _ = capsys.readouterr()
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["num_images"] == "30" and lines["class_names"] == "ant, bee, cat"
    assert main(["inspect", "s.h5"]) == 0
    assert "rows_done" in capsys.readouterr().out
    (here / "images" / "bee" / "00014.png").write_bytes(b"")
    assert main(["verify", "s.h5", "--images", "images", "--quiet"]) == 1
    out, errors = capsys.readouterr()
    assert "key: bee/00014.png" in out and errors == ""


def test_a_refusal_is_one_object(here, capsys):
    code, answer, errors = command(capsys, "scan", "nowhere")
    assert code == 2 and errors == ""
    assert set(answer) == {"error"} and set(answer["error"]) == {"code", "message", "key"}
    assert answer["error"]["code"] == "images_not_found" and answer["error"]["key"] is None
    assert answer["error"]["message"].startswith("There is no directory ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"The following arguments are required: COMMAND.\nSee `streamkd --help`."),
        (["fly"], "There is no command 'fly'.\nSee `streamkd --help`."),
        (["scan"], "The following arguments are required: IMAGES.\nSee `streamkd scan --help`."),
        (
            ["scan", "images", "--fast"],
            "`streamkd scan` has no flag --fast.\nSee `streamkd scan --help`.",
        ),
        (["scan", "images", "-f"], "Unrecognized arguments: -f"),
        (["teach", "images", "--out", "n.h5"], "arguments are required: --teacher"),
        (["evaluate", "run", "images", "--image-size", "12"], "write it as HEIGHTxWIDTH, for ex"),
        (["scan", "images", "--seed", "-1"], "'-1' is no seed; give a whole number from 0 to 429"),
        (["scan", "images", "--seed", "4294967296"], "'4294967296' is no seed"),
        (["train", "images", "--jit", "true"], "invalid choice: 'true'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_flags_that_cannot_be_are_refused_as_one_object(here, capsys, words, message):
    code, answer, errors = command(capsys, *words)
    assert code == 2 and errors == ""
    assert answer["error"]["code"] == "bad_option" and answer["error"]["key"] is None
    assert message.replace(r"\n", "\n") in answer["error"]["message"]


def test_a_key_that_is_not_utf8_comes_with_its_bytes(here, capsys):
    name = os.fsencode(here / "images" / "bee") + b"/\xff.png"
    with open(name, "wb") as file:
        file.write(b"no image")
    words = ("teach", "images", "--teacher", "teacher.keras", "--out", "new.h5")
    code, answer, _ = command(capsys, *words)
    error = answer["error"]
    assert code == 2 and error["code"] == "bad_image" and error["key"] == "bee/\\xff.png"
    assert base64.b64decode(error["key_base64"]) == b"bee/\xff.png"
    assert "xff.png' cannot be decoded" in error["message"]
    bad = command(capsys, "scan", "images", "--check")[1]["bad"]
    assert [base64.b64decode(entry["key_base64"]) for entry in bad] == [b"bee/\xff.png"]


def test_a_changed_image_in_verify_comes_with_its_bytes(here, capsys):
    with open(os.fsencode(here / "images" / "bee") + b"/\xff.png", "wb") as file:
        file.write((here / "images" / "bee" / "00014.png").read_bytes())
    command(capsys, "teach", "images", "--teacher", "teacher.keras", "--out", "new.h5")
    os.unlink(os.fsencode(here / "images" / "bee") + b"/\xff.png")
    code, answer, _ = command(capsys, "verify", "new.h5", "--images", "images")
    assert code == 1 and answer["problems"] == [
        {
            "key": "bee/\\xff.png",
            "key_base64": base64.b64encode(b"bee/\xff.png").decode(),
            "view": None,
            "reason": "the image has vanished",
        }
    ]


def test_our_own_fault_is_exit_code_3_with_a_traceback(here, capsys, monkeypatch):
    def crash(path):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr("streamkd.open_store", crash)
    code, answer, errors = command(capsys, "inspect", "s.h5")
    assert code == 3 and "Traceback (most recent call last)" in errors
    assert "RuntimeError: a bug of ours" in errors
    assert answer == {
        "error": {"code": "internal", "message": "RuntimeError: a bug of ours", "key": None}
    }


def test_an_interrupt_is_exit_code_130(here, capsys, monkeypatch):
    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("streamkd.open_store", interrupt)
    code, answer, errors = command(capsys, "inspect", "s.h5")
    assert code == 130 and "Traceback" not in errors
    assert answer["error"]["code"] == "interrupted"
    assert main(["inspect", "s.h5"]) == 130
    assert capsys.readouterr().err == (
        "streamkd: Interrupted. Saved work is safe; the same command resumes from there.\n"
    )


def ask_the_test(pixels):
    """A layer of a teacher: tells `asked` of each batch, and waits for a byte from `answers`."""
    import tensorflow as tf

    def ask():
        with open("asked", "wb", buffering=0) as asked, open("answers", "rb", buffering=0) as told:
            asked.write(b"?")
            told.read(1)

    with tf.control_dependencies([tf.py_function(ask, [], [])]):
        return tf.identity(pixels)


@pytest.mark.filterwarnings("ignore:.*would be refused without --trust")
def test_a_terminated_teacher_pass_is_143_and_the_same_command_resumes(
    tmp_path, monkeypatch, capsys
):
    import tf_keras

    monkeypatch.chdir(tmp_path)
    draw_directory(tmp_path / "images", {"ant": 7, "bee": 7, "cat": 7})
    asking = [tf_keras.Input((8, 8, 3)), tf_keras.layers.Lambda(ask_the_test), exact_teacher()]
    tf_keras.Sequential(asking).save("teacher.keras")
    os.mkfifo("asked")
    os.mkfifo("answers")
    words = ["teach", "images", "--teacher", "teacher.keras", "--trust", "--out", "s.h5"]
    words += ["--batch-size", "1", "--teacher-output", "probabilities"]
    teaching = process("-m", "streamkd", *words, "--json")
    # Open for both, so that neither end waits for the other to be opened.
    asked, answers = (os.open(name, os.O_RDWR) for name in ("asked", "answers"))
    try:
        # The first image is asked about twice, its way to the weights is looked at, and its logits
        # are compared with the answer of the whole model.
        os.write(answers, b"!!!!!!!")
        for _ in range(8):
            ready = select.select([asked, teaching.stdout], [], [], TIMEOUT_SECS)[0]
            assert ready == [asked], "it ended, or hangs"
            os.read(asked, 1)
        # It waits for the fourth answer, and is told of the signal as soon as it has that.
        teaching.send_signal(signal.SIGTERM)
        os.write(answers, b"!")
        out, errors = teaching.communicate(timeout=TIMEOUT_SECS)
    finally:
        teaching.kill()
    assert teaching.returncode == 143, errors
    error = json.loads(out)["error"]
    assert error["code"] == "interrupted"
    assert error["message"] == (
        "Terminated. Saved work is safe; the same command resumes from there."
    )
    assert "Traceback" not in errors
    begun = open_store("s.h5")
    assert begun.rows_done == 3 and not begun.finished
    assert not list(tmp_path.glob(".*"))
    code, answer, _ = command(capsys, "verify", "s.h5")
    assert code == 1 and "the store is unfinished" in answer["problems"][0]["reason"]
    os.write(answers, b"!" * 40)
    code, answer, _ = command(capsys, *words)
    assert code == 0 and answer["rows_done"] == 21
    os.close(asked)
    os.close(answers)


def test_every_command_is_there_and_has_the_common_flags():
    for name in COMMANDS:
        with pytest.raises(SystemExit) as info:
            build_parser().parse_args([name, "--help"])
        assert info.value.code == 0
    parsers = build_parser().commands
    assert set(parsers) == set(COMMANDS)
    for parser in parsers.values():
        assert {"json", "quiet", "config"} <= set(parser.arguments)


def test_every_argument_has_a_help_text_and_says_its_default():
    for name, parser in build_parser().commands.items():
        for key, argument in parser.arguments.items():
            assert argument.help, f"{name} {key}"
            number = type(argument.default) in (int, float) and argument.nargs != "?"
            if number or (argument.choices and isinstance(argument.default, str)):
                assert "default" in argument.help, f"{name} {key}"


def test_class_names_says_whose_classes_are_meant():
    helps = {
        name: parser.arguments["class-names"].help
        for name, parser in build_parser().commands.items()
        if "class-names" in parser.arguments
    }
    assert set(helps) == {"scan", "plan", "teach", "import", "evaluate", "distill", "export"}
    assert "class folders to list" in helps["scan"] and "for a table" in helps["scan"]
    assert "in the order of the teacher's outputs" in helps["teach"]
    assert helps["teach"] == helps["plan"] == helps["distill"]
    assert "in the order of the columns of LOGITS" in helps["import"]
    assert "in the order of the model's outputs" in helps["evaluate"]
    assert "in the order of the outputs" in helps["export"]


LIGHT = """
import json, sys
from streamkd.cli.main import main
for words in json.loads(sys.argv[1]):
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    heavy = sorted({"tensorflow", "tf_keras", "keras"} & set(sys.modules))
    print("CODE", code, heavy)
"""


def test_help_and_refusals_that_need_no_tensorflow_do_not_import_it(here):
    (here / "flat").mkdir()
    (here / "text.h5").write_text("no store")
    teach = ["teach", "images", "--teacher", "teacher.keras", "--out", "n.h5"]
    train = ["train", "images", "--store", "s.h5", "--student", "student.keras", "--out", "n"]
    answered = [["--help"], ["--version"], ["scan", "images"], ["verify", "s.h5"]]
    answered += [["inspect", "s.h5"], *([name, "--help"] for name in COMMANDS)]
    refused = [
        ["scan", "nowhere"],
        ["scan", "flat"],
        ["scan", "images", "--out", "none/m.jsonl"],
        ["verify", "nowhere.h5"],
        ["verify", "text.h5"],
        ["inspect", "text.h5"],
        ["inspect", "images"],
        ["import", "none.npy", "--keys", "none", "--images", "images", "--out", "n.h5"],
        ["merge", "s.h5", "text.h5", "--out", "n.h5"],
        [*teach, "--shard", "1"],
        [*teach, "--codec", "packed:5"],
        ["teach", "nowhere", *teach[2:]],
        ["teach", "flat", *teach[2:]],
        [*teach[:3], "none.keras", *teach[4:]],
        [*teach[:-1], "none/n.h5"],
        [*teach[:-1], "text.h5/n.h5"],
        [*teach, "--image-size", "eight"],
        [*teach, "--class-names", "none.txt"],
        ["train", "nowhere", *train[2:]],
        ["train", "flat", *train[2:]],
        [*train[:3], "none.h5", *train[4:]],
        [*train[:3], "text.h5", *train[4:]],
        [*train[:-1], "text.h5"],
        [*train, "--validation", "nowhere"],
        [*train, "--seed", "-1"],
        ["evaluate", "nothing", "images"],
        ["evaluate", "run", "nowhere"],
        ["export", "nothing", "--out", "n.keras"],
        ["export", "run", "--out", "none/n.keras"],
        ["export", "run", "--out", "n.keras", "--images", "nowhere"],
    ]
    before = snapshot(here)
    out, errors = finished("-c", LIGHT, json.dumps(answered + refused))
    lines = [line for line in out.splitlines() if line.startswith("CODE")]
    expected = ["CODE 0 []"] * len(answered) + ["CODE 2 []"] * len(refused)
    pairs = list(zip(answered + refused, lines, expected, strict=True))
    assert not [pair for pair in pairs if pair[1] != pair[2]], errors
    assert errors.count("streamkd: ") == len(refused) and "Traceback" not in errors
    assert snapshot(here) == before


CONSOLE_SCRIPT = "from streamkd.cli.main import run; run()"


@pytest.mark.parametrize("start", [("-m", "streamkd"), ("-c", CONSOLE_SCRIPT)], ids=["-m", "run"])
def test_the_module_and_the_console_script_run_commands(here, start):
    out, errors = finished(*start, "scan", "images", "--json", code=0)
    assert json.loads(out)["num_images"] == 30 and errors == ""
    out, errors = finished(*start, "scan", "nowhere", "--json", code=2)
    assert json.loads(out)["error"]["code"] == "images_not_found" and errors == ""


def test_a_warning_is_one_line_beside_the_one_object_of_json(here, monkeypatch):
    # As a user's shell has it; TensorFlow's greetings are kept off all the same.
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    (here / "images" / "bee" / "00014.png").write_bytes(b"no image")
    teach = ["teach", "images", "--teacher", "teacher.keras", "--out", "new.h5", "--on-bad", "skip"]
    out, errors = finished("-c", CONSOLE_SCRIPT, *teach, "--json", "--quiet", code=0)
    answer = json.loads(out)
    assert len(out.splitlines()) == 1 and answer["num_refused"] == 1
    assert errors == f"streamkd: warning: {answer['warnings'][0]['message']}\n"
    assert answer["warnings"][0]["code"] == "images_refused"
    assert errors.startswith("streamkd: warning: 1 of 30 images cannot be decoded"), errors
    assert len(errors.splitlines()) == 1


def test_a_name_that_is_not_utf8_can_be_printed(here):
    folder = os.fsencode(here / "images") + b"/\xff"
    os.mkdir(folder)
    for words, code in ((["scan", "images"], 0), (["scan", folder + b"x"], 2)):
        out, errors = finished("-m", "streamkd", *words, code=code)
        assert "Traceback" not in errors and "\\udcff" in out + errors


def test_numbers_that_json_has_no_word_for_are_null(monkeypatch, capsys, directory):
    fields = {"loss": float("nan"), "nested": [{"kl": float("inf")}, 1.5]}

    def scan(args):
        return Answer(fields)

    monkeypatch.setattr(commands, "scan", scan)
    assert main(["scan", str(directory), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"loss": None, "nested": [{"kl": None}, 1.5]}


def test_the_handler_of_sigterm_is_put_back(capsys, directory):
    before = signal.getsignal(signal.SIGTERM)
    main(["scan", str(directory)])
    assert signal.getsignal(signal.SIGTERM) is before


class TestImportAndMerge:
    @pytest.mark.filterwarnings("ignore:The teacher .* is right on")
    def test_import_answers_with_its_keys(self, here, capsys):
        images = scan("images")
        np.save("l.npy", -np.ones((len(images) - 1, 3), np.float32))
        lines = [json.dumps(key_fields(key, "file_name")) for key in images.keys.take(range(1, 30))]
        Path("k.jsonl").write_text("\n".join(lines))
        words = ["import", "l.npy", "--keys", "k.jsonl", "--images", "images", "--out", "i.h5"]
        code, answer, _ = command(capsys, *words)
        assert code == 0 and answer["num_images"] == 29
        assert answer["num_images_without_logits"] == 1
        assert (answer["codec"], answer["teacher"]) == ("float16", "l.npy")
        assert (answer["notes"], answer["warnings"]) == ([], [])

    def test_shards_and_merge_answer_with_their_keys(self, here, capsys):
        teach = ["teach", "images", "--teacher", "teacher.keras", "--batch-size", "8"]
        for number in "12":
            code, answer, _ = command(capsys, *teach, "--shard", f"{number}/2", "--out", number)
            assert code == 0
        code, answer, _ = command(capsys, "merge", "1", "2", "--out", "m.h5")
        assert code == 0 and answer["num_images"] == 30
        assert (answer["num_superseded"], answer["num_dropped"]) == (0, 0)
        assert answer["fingerprint"] == scan("images").fingerprint
        code, answer, _ = command(capsys, "merge", "1", "2", "--out", "all.index", "--index")
        assert code == 0 and (answer["num_images"], answer["num_stores"]) == (30, 2)
        assert command(capsys, "verify", "all.index", "--images", "images")[1]["rows_checked"] == 30

    def test_flags_that_do_not_fit_together_are_refused(self, here, capsys):
        for words, message in (
            (
                "merge s.h5 --out m.h5 --index --images images",
                "--index lists whole stores.\nLeave out --images, or --index.",
            ),
            ("merge s.h5 none.h5 --out m.h5", "There is no logit store none.h5"),
            ("import l.txt --keys k --images images --out i.h5", "l.txt ends in '.txt'"),
            ("teach images --teacher teacher.keras --out i.h5 --shard 1", "write it as I/N"),
        ):
            code, answer, _ = command(capsys, *words.split())
            assert code == 2 and message in answer["error"]["message"]
