"""The pages of decisions are complete, and name files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "streamkd"
INDEX = PACKAGE / "DESIGN.md"
PAGES = sorted((PACKAGE / "design").glob("*.md"))


def test_the_index_links_every_page_and_no_other():
    linked = re.findall(r"\]\(design/(\w+\.md)\)", INDEX.read_text(encoding="utf-8"))
    assert sorted(linked) == [page.name for page in PAGES]


@pytest.mark.parametrize("page", [INDEX, *PAGES], ids=lambda page: page.name)
def test_a_page_names_files_that_are_there(page):
    roots = (PACKAGE, PACKAGE.parent, PACKAGE.parent / "tests" / "benchmarks", PACKAGE / "design")
    roots += tuple(PACKAGE.glob("*/"))
    for path in re.findall(r"`([\w/.]+(?:\.py|\.md|/))[`,]", page.read_text(encoding="utf-8")):
        assert any((root / path).exists() for root in roots), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_decisions_of_a_page_are_dated_the_newest_first(page):
    titles = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    dates = [re.search(r"\((\d{4}-\d\d-\d\d)\)$", title) for title in titles]
    assert all(dates), titles
    assert [date[1] for date in dates] == sorted((date[1] for date in dates), reverse=True)
