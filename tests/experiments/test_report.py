import copy
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image
from tiny import TINY

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.cli import main
from drmad_jax.experiments.errors import RunFolderError
from drmad_jax.experiments.report import write_report
from drmad_jax.experiments.report.runs import find
from drmad_jax.experiments.runs.judge import summarise

# Words that would be markup in each of the languages that a report is written in.
HOSTILE = "<b>&\"'|_%$#{}\\~^*`"
VOID = {"meta", "img", "wbr"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and keeps what a test may ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.tables, self.pres, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")
        if tag == "pre":
            self.pres.append("")
        if tag == "b":
            self.tables[-1][-1][-1] += "**"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open[-1:] == ["pre"]:
            self.pres[-1] += data
        elif {"th", "td"} & set(self.open):
            self.tables[-1][-1][-1] += data


def line(step, loss, **more):
    metrics = {"outer_loss": loss, "test_error": loss / 2 if loss else None, "test_loss": loss}
    return {"step": step, **metrics, "finite": loss is not None, "seconds": 0.5, **more}


def make(root, variant="", *, losses=(0.9, 0.5, 0.4, 0.3), after=0.3, status="complete", **changes):
    """A run folder as a run leaves it, with an end if it has a status."""
    folder = root / (variant or "base")
    (folder / "figures").mkdir(parents=True)
    table = copy.deepcopy(TINY) | {"variant": variant, "judge": {"num_seeds": 3}} | changes
    (folder / "config.toml").write_text(configs.to_toml(configs.parse(table)))
    steps = [line(step, loss, hypergradient_norm=1.0) for step, loss in enumerate(losses)]
    if status == "complete":
        del steps[-1]["hypergradient_norm"]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    Image.new("RGB", (400, 300)).save(folder / "figures" / "curves.png")
    if status is not None:
        judged = [
            {"before": line(0, 0.9 + s), "after": line(0, after + 1.1 * s), "seconds": 1.0}
            for s in (0.0, 0.1, 0.2)
        ]
        for each in judged:
            for when in ("before", "after"):
                each[when] = {k: v for k, v in each[when].items() if "_" in k}
        summary = {
            "status": status,
            "date": f"2026-01-0{1 + len(list(root.iterdir()))}T00:00:00+00:00",
            "versions": {"python": "3.11", "jax": "0.7"},
            "device": {"platform": "cpu", "kind": "cpu", "count": 1, "cores": 2},
            "compile_seconds": 3.0,
            "median_seconds_per_step": 0.5,
            "num_hparams": 1234,
            "judge": summarise(judged),
        }
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "runs"
    make(root)
    make(root, "late", after=0.2, method={"name": "truncated", "num_reverse_steps": 4})
    make(
        root, "bad", losses=(0.9, 0.7, None),
        status=f"the outer loss is nan at outer step 2 {HOSTILE}; nothing was updated. Try\n  - x",
    )  # fmt: skip
    make(root, "going", losses=(0.9, 0.7), status=None)
    return root


def read(folders, out=None):
    return Page(write_report(folders, out).read_text())


def column(table, name):
    return [row[table[0].index(name)] for row in table[1:]]


def test_page_is_whole_and_needs_nothing_else(root):
    path = write_report([root])
    assert path == root / "report.html"
    text = path.read_text()
    page = Page(text)
    assert text.startswith("<!doctype html>")
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2 + 4
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    assert images[-1]["width"] == "192"  # 400 pixels at 200 dpi
    for _, attributes in page.tags:
        assert not {"srcset", "onclick", "onload"} & set(attributes)
        assert attributes.get("href", "#").startswith("#")
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|@import|url\(", text)


def test_tables(root):
    fresh, less, other, runs, environment = read([root]).tables
    names = ["base", "late", "bad (stopped at step 2)", "going (unfinished, 2 of 3)"]
    assert column(fresh, "variant") == names
    assert column(fresh, "method")[:2] == ["drmad()", "truncated(num_reverse_steps=4)"]
    assert fresh[2][2:5] == ["1.00 ± 0.25", "**0.31 ± 0.27", "**−0.690 ± 0.025"]
    assert fresh[3][3] == "0.41 ± 0.27" and fresh[4][2:] == ["–"] * 6
    assert less[0] == ["variant", "outer loss", "test error (%)"]
    assert less[1] == ["late", "−0.1000 ± 0.0000", "−5.0000 ± 0.0000"]
    assert column(less, "variant") == ["late", "bad"]
    assert other[0] == ["metric", "variant", "before", "after", "difference"]
    assert [row[:2] for row in other[1:]] == [
        ["test loss", "base"], ["test loss", "late"], ["test loss", "bad"]
    ]  # fmt: skip
    assert column(runs, "status") == [
        "complete", "complete", "stopped at step 2", "unfinished, 2 of 3"
    ]  # fmt: skip
    assert column(runs, "hyperparameters") == ["1,234", "1,234", "1,234", "–"]
    assert column(runs, "outer steps") == ["3", "3", "2", "2"]
    assert column(runs, "outer loss") == [
        "0.9000 → 0.3000", "0.9000 → 0.3000", "0.9000 → nan", "0.9000 → 0.7000"
    ]  # fmt: skip
    assert column(environment, "device") == ["1 × cpu, 2 CPU cores"]
    assert column(environment, "runs") == ["tiny, tiny/late, tiny/bad"]


def test_reason_of_a_stop_and_differences_are_told(root):
    page = read([root])
    words = "".join(page.words)
    assert f"bad stopped: the outer loss is nan at outer step 2 {HOSTILE}." in words
    assert "- x" not in words
    assert "late: method.name: 'drmad' -> 'truncated', method.num_reverse_steps:" in words
    assert "going: nothing" in words
    (config,) = (pre for pre in page.pres if "[inner]" in pre)
    assert configs.to_toml(configs.load(root / "base" / "config.toml")) == config


def test_tables_for_pasting(root):
    pres = read([root]).pres
    markdown, latex = pres[0].splitlines(), pres[1].splitlines()
    assert markdown[0].startswith("| variant | method | outer loss, before | after |")
    assert markdown[1] == "| --- | --- |" + " ---: |" * 6
    assert r"| late | truncated(num\_reverse\_steps=4) | 1.00 ± 0.25 | **0.31 ± 0.27** |" in pres[0]
    assert len({row.count("|") - row.count(r"\|") for row in markdown}) == 1
    assert latex[:2] == [r"\begin{tabular}{llrrrrrr}", r"\toprule"]
    assert latex[3] == r"\midrule" and latex[-2:] == [r"\bottomrule", r"\end{tabular}"]
    rows = [row for row in latex if row.endswith(r"\\")]
    assert all(len(re.findall(r"(?<!\\)&", row)) == 7 for row in rows)
    assert r"late & truncated(num\_reverse\_steps=4) & 1.00 $\pm$ 0.25 & \textbf{0.31" in pres[1]
    assert r"test error (\%), before" in pres[1] and "$-$0.690" in pres[1]


def test_everything_from_files_is_escaped(tmp_path):
    name = HOSTILE.replace("\\", "")
    root = tmp_path / "runs"
    make(root, name=name)
    make(root, name, name=name)
    page = read([root])
    assert sum(tag == "b" for tag, _ in page.tags) == 0
    assert f"Report: {name}" in page.words and name in page.words
    assert column(page.tables[0], "variant") == ["base", name]
    assert r"\textless{}b\textgreater{}\&" in page.pres[1] and r"\<b\>&" in page.pres[0]


@pytest.mark.parametrize("damage", ["<svg onload=alert(1)>", None])
def test_damaged_pictures_are_named(root, damage):
    path = root / "base" / "figures" / "curves.png"
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage.encode())
    with pytest.raises(RunFolderError, match=r"curves\.png is no whole picture"):
        write_report([root])


def test_runs_without_judgement_or_first_line(tmp_path):
    root = tmp_path / "runs"
    make(root, losses=(), status=None, outer=TINY["outer"] | {"num_steps": 0})
    page = read([root])
    assert len(page.tables) == 1 and page.tables[0][0][:2] == ["variant", "status"]
    assert column(page.tables[0], "status") == ["unfinished, 0 of 0"]


def test_runs_are_found_once_and_told_apart(root, tmp_path):
    make(tmp_path / "more", seed=8)
    (root / "comparison").mkdir()
    (root / "comparison" / "config.toml").write_text("")
    (root / "comparison" / "compare.json").write_text("")
    found = find([root / "late", root, tmp_path / "more"])["tiny"]
    labels = ["base (runs/base)", "base (more/base)", "late", "bad", "going"]
    assert sorted(run.label for run in found) == sorted(labels)
    *_, last = found
    assert last.label == "going" and found[0].config.variant == ""


def test_command(root, tmp_path, capsys):
    out = tmp_path / "new" / "page.html"
    assert main(["report", str(root), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert Page(out.read_text()).tables
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "nowhere holds no run folder (one has a config.toml)" in capsys.readouterr().err


def test_what_cannot_be_read_or_written_is_named(root):
    with pytest.raises(RunFolderError, match="cannot write .*: .*; choose a file with --out"):
        write_report([root], root)
    (root / "base" / "summary.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"base cannot be read: .*--resume makes it again"):
        write_report([root])
    (root / "base" / "config.toml").write_text("seed = 1")
    with pytest.raises(RunFolderError, match=r"base cannot be read: name: missing"):
        write_report([root])
