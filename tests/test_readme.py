"""README and docs are real: commands parse, code compiles, and its calls fit the signatures."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import shlex
import tomllib
from pathlib import Path

import pytest

import streamkd as kd

ROOT = Path(__file__).parents[1]
FILES = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
PAGES = {path.name: path.read_text(encoding="utf-8") for path in FILES}
# Variables of the examples, and what they are.
VARIABLES = {
    "distiller": "Distiller",
    "images": "Manifest",
    "store": "LogitStore",
    "stream": "Stream",
    "teacher": "Teacher",
}


def code_blocks(*languages: str) -> list[str]:
    pattern = rf"```(?:{'|'.join(languages)})\n(.*?)```"
    return [block for text in PAGES.values() for block in re.findall(pattern, text, re.DOTALL)]


def commands() -> list[str]:
    text = "\n".join(code_blocks("bash")).replace("\\\n", " ")
    return [
        line.split("#")[0].strip() for line in text.splitlines() if line.startswith("streamkd ")
    ]


def first_line(block: str) -> str:
    """The id of a block."""
    return block.strip().splitlines()[0][:40]


def test_ci_runs_exactly_the_readme_test_command():
    line = next(block.strip() for block in code_blocks("bash") if "pytest" in block)
    assert line in (ROOT / ".ci" / "run").read_text()
    assert line in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize("command", commands())
def test_a_command_parses(command):
    from streamkd.cli.main import build_parser

    build_parser().parse_args(shlex.split(command)[1:])


@pytest.mark.parametrize("block", code_blocks("toml"), ids=first_line)
def test_a_file_of_flags_is_read_by_the_commands_that_it_names(block, tmp_path):
    from streamkd.cli import config_file
    from streamkd.cli.main import build_parser

    path = tmp_path / "flags.toml"
    path.write_text(block)
    names = [name for name, value in tomllib.loads(block).items() if isinstance(value, dict)]
    assert names
    for name in names:
        into = argparse.Namespace(json=False)
        config_file.parse(build_parser(), [name, "--config", str(path)], into)


def called(function: ast.expr) -> object:
    """Returns the object of streamkd that an expression names; None for any other expression."""
    if not isinstance(function, ast.Attribute) or not isinstance(function.value, ast.Name):
        return None
    owner, name = function.value.id, function.attr
    if owner == "kd":
        return getattr(kd, name)
    if owner in VARIABLES:
        return getattr(getattr(kd, VARIABLES[owner]), name)
    return None


@pytest.mark.parametrize("block", code_blocks("python", "py"), ids=first_line)
def test_code_compiles_and_its_calls_fit_the_signatures(block):
    compile(block, "README.md", "exec")
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != "kd" or node.attr in kd.__all__
        if isinstance(node, ast.Call) and (function := called(node.func)) is not None:
            is_method = inspect.isfunction(function) and "." in function.__qualname__
            given = [None] * (len(node.args) + is_method)
            named = {keyword.arg: None for keyword in node.keywords if keyword.arg}
            inspect.signature(function).bind(*given, **named)


def test_a_keyword_that_does_not_exist_would_be_noticed():
    with pytest.raises(TypeError, match="epoch"):
        test_code_compiles_and_its_calls_fit_the_signatures("distiller.fit(stream, epoch=3)")
    with pytest.raises(TypeError, match="size"):
        test_code_compiles_and_its_calls_fit_the_signatures("kd.join(images, store, size=3)")
    with pytest.raises(SyntaxError):
        test_code_compiles_and_its_calls_fit_the_signatures("kd.join(")


def test_every_file_that_is_pointed_to_exists():
    for text in PAGES.values():
        for path in re.findall(r"(?:python |`)((?:tests|examples|streamkd)/[\w/.]+\.\w+)", text):
            assert (ROOT / path).exists(), path
