"""The names of `streamkd`: imported late, known to editors, and the only ones that `dir` lists."""

import ast
from pathlib import Path

import streamkd


def test_editors_find_each_name_where_it_is_imported_from():
    tree = ast.parse(Path(streamkd.__file__).read_text())
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    typed = {alias.asname: node.module for node in block.body for alias in node.names}
    assert typed == streamkd._MODULES
    assert all(alias.name == alias.asname for node in block.body for alias in node.names)


def test_dir_lists_public_names_only():
    assert set(dir(streamkd)) == {"__version__", *streamkd.__all__}
    assert not {"Any", "importlib", "annotations", "Share"} & set(dir(streamkd))
