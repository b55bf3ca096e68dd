"""The README's commands are real: they parse, and CI runs the one that it promises."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    text = "\n".join(code_blocks("bash")).replace("\\\n", " ")
    return [
        line.split("#")[0].strip() for line in text.splitlines() if line.startswith("streamkd ")
    ]


def test_ci_runs_exactly_the_readme_test_command():
    line = next(block.strip() for block in code_blocks("bash") if "pytest" in block)
    assert line in (ROOT / ".ci" / "run").read_text()
    assert line in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_parses(command):
    from streamkd.cli.main import build_parser

    build_parser().parse_args(shlex.split(command)[1:])


def test_the_python_of_the_readme_names_what_there_is():
    import streamkd

    (code,) = code_blocks("python")
    for name in re.findall(r"\bkd\.(\w+)", code):
        assert name in streamkd.__all__
    compile(code, "README.md", "exec")


def test_every_file_the_readme_points_to_is_there():
    for path in re.findall(r"(?:python |`)((?:tests|examples|streamkd)/[\w/.]+\.\w+)", README):
        assert (ROOT / path).exists(), path
