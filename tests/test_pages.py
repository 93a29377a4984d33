"""The pages say what the committed records say, and the records how they were made."""

import json
import re

import pytest

import drmad_jax as dj

pytest.importorskip("benchmarks", reason="needs the repository's root on the path")

from benchmarks import laws, records, render, scale
from benchmarks.pages import fill

PATHS = sorted(records.RECORDS.glob("*.json"))
# Made by hand, or by tests of their own.
OTHER_PARTS = {"tests", "methods", "end"}
DRAWN = {render.PAGE: "draws figures"}


@pytest.mark.parametrize("page", [page for page in render.PAGES if page not in DRAWN])
def test_page_is_made_of_its_records(page):
    text = page.read_text()
    assert fill(text, render.PAGES[page]()) == text


@pytest.mark.parametrize("page", render.PAGES)
def test_every_marked_part_of_a_page_is_known(page):
    kinds = set(re.findall(r"<!-- (\w+)(?:: \w+)? -->", page.read_text()))
    assert kinds - OTHER_PARTS == set(render.PAGES[page]())


def test_marked_part_of_a_page_is_replaced_and_the_rest_kept():
    page = "a\n<!-- number: six -->\nold\n<!-- end -->\nb\n<!-- other -->\nkept\n<!-- end -->\n"
    filled = fill(page, {"number": lambda name: f"{name} is 6\n"})
    assert filled == page.replace("old", "six is 6")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_record_is_complete_or_listed_as_incomplete(path):
    record = json.loads(path.read_text())
    assert path.stem == f"{record['name']}-{record['hardware']['backend']}"
    lacks = records.missing(record)
    listed = record["name"] in records.INCOMPLETE
    assert bool(lacks) == listed, f"lacks {lacks}" if lacks else "complete: strike its name"


def test_list_of_incomplete_records_only_shrinks():
    names = records.INCOMPLETE
    assert len(set(names)) == len(names) <= 3
    assert all(name.startswith(("agreement_", "tuning_")) for name in names)
    assert {f"{name}-cpu" for name in names} <= {path.stem for path in PATHS}


@pytest.mark.parametrize("field", [*records.FIELDS, *records.HARDWARE, "dirty"])
def test_record_without_a_field_is_incomplete(field):
    record = records.load("curvature_product")
    assert not records.missing(record)
    place = record["hardware"] if field in records.HARDWARE else record
    del place[field]
    assert field in records.missing(record)


def test_record_that_is_written_is_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RECORDS", tmp_path)
    monkeypatch.setattr(records, "_COMMIT", {"commit": "0" * 40, "dirty": False})
    record = json.loads(records.write_record("made", {"x": 1}).read_text())
    assert records.missing(record) == []
    assert record["results"] == {"x": 1}


def test_checkout_is_known():
    found = records._commit()
    assert set(found) == {"commit", "dirty"}
    assert found["commit"] is None or len(found["commit"]) == 40


CELLS = records.results("scale")["cells"]


@pytest.mark.parametrize("cell", CELLS)
def test_laws_of_memory_hold(cell):
    """Formulas of docs/scale.md beside compiled bytes."""
    off = {name: scale.off(name, cell, {"cells": CELLS}) for name in CELLS[cell]["methods"]}
    assert off.keys() <= laws.LAWS.keys()
    assert {name: part for name, part in off.items() if abs(part) > 0.15} == {}


@pytest.mark.parametrize("num_steps", [900, 2000, 8000, 100_000])
def test_laws_know_how_long_the_exact_end_is(num_steps):
    assert laws.exact_end(num_steps) == dj.drmad().length_of_end(num_steps)
