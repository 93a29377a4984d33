"""The pages say what the committed records say."""

import pytest

pytest.importorskip("benchmarks", reason="needs the repository's root on the path")

from benchmarks import gallery, render, study
from benchmarks.markdown import fill
from benchmarks.study_tables import TABLES


def test_study_is_made_of_its_records():
    text = study.PAGE.read_text()
    assert fill(text, TABLES) == text


def test_readme_is_made_of_its_records():
    text = render.README.read_text()
    assert "<!-- measured -->" in text
    assert render.fill_readme(text) == text


def test_experiments_are_made_of_their_records():
    text = gallery.PAGE.read_text()
    assert "<!-- results: " in text
    assert fill(text, gallery.KINDS) == text


def test_marked_part_of_a_page_is_replaced_and_the_rest_kept():
    page = "a\n<!-- number: six -->\nold\n<!-- end -->\nb\n"
    filled = fill(page, {"number": lambda name: f"{name} is 6\n"})
    assert filled == "a\n<!-- number: six -->\nsix is 6\n<!-- end -->\nb\n"
