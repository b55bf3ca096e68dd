"""Closed, full and broken standard streams: the answer arrives, or exit code 2 says why not."""

import json
import os
import shlex
import subprocess
import sys

import pytest
from helpers import draw_directory

COMMAND = (
    f"{shlex.quote(sys.executable)} -c "
    "'import sys; sys.argv[0] = \"streamkd\"; from streamkd.cli.main import run; run()'"
)


@pytest.fixture
def shell(tmp_path):
    """Runs a line of bash in which `streamkd` is the command; returns code, output, errors."""
    draw_directory(tmp_path / "images", {"ant": 2, "bee": 2})

    def run(line):
        line = line.replace("streamkd", COMMAND, 1)
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


def test_with_standard_error_closed_commands_answer_as_usual(shell):
    code, out, _ = shell("streamkd scan images --json 2>&-")
    assert code == 0 and json.loads(out)["num_images"] == 4
    code, out, _ = shell("streamkd scan nowhere --json 2>&-")
    assert code == 2 and json.loads(out)["error"]["code"] == "images_not_found"


def test_with_standard_input_closed_commands_answer_as_usual(shell):
    code, out, _ = shell("streamkd scan images --json <&-")
    assert code == 0 and json.loads(out)["num_images"] == 4


@pytest.mark.parametrize("words", ["scan images --json", "scan images", "train --help"])
def test_a_reader_that_is_gone_ends_the_command_quietly(shell, words):
    code, _, errors = shell(f"streamkd {words} | true; exit ${{PIPESTATUS[0]}}")
    assert (code, errors) == (0, "")


def test_help_that_nobody_reads_any_more_ends_the_command_quietly():
    """The pipe's other end is closed before a word of help is written."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    line = ["bash", "-c", f"{COMMAND} train --help"]
    done = subprocess.run(line, stdout=write_end, stderr=subprocess.PIPE, timeout=120)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("target", "reason"), [(">/dev/full", "No space left"), (">&-", "standard output is closed")]
)
@pytest.mark.parametrize("words", ["scan images --json", "scan images", "train --help"])
def test_an_answer_that_cannot_be_written_is_exit_code_2(shell, words, target, reason):
    code, _, errors = shell(f"streamkd {words} {target}")
    assert code == 2
    assert errors.startswith(f"streamkd: The answer cannot be written: {reason}")
    assert errors.endswith("such as `> FILE`.\n")


@pytest.mark.parametrize("target", [">/dev/full", ">&-", "| true; exit ${PIPESTATUS[0]}"])
def test_a_refusal_that_cannot_be_written_keeps_its_exit_code(shell, target):
    assert shell(f"streamkd scan nowhere --json {target}")[0] == 2


def test_a_file_never_gets_the_number_of_a_closed_stream(shell, tmp_path):
    code, _, _ = shell("streamkd scan images --out m.jsonl --json >&- 2>&-")
    assert code == 2
    lines = (tmp_path / "m.jsonl").read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == 5


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"streamkd scan images --out {'a' * 300}", "File name too long"),
        ("mkdir g; cd g; rmdir ../g; streamkd scan images", "The system refuses: No such file"),
        ("printf 'out = \"a\\\\u0000b\"' > f.toml; streamkd scan images --config f.toml", "NUL"),
    ],
)
def test_names_that_the_system_refuses_are_exit_code_2(shell, line, words):
    code, _, errors = shell(line)
    assert code == 2 and words in errors
