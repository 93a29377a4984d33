"""Whatever happens to a file of a run folder, commands do right or tell it in one sentence."""

import io
import re
import shutil

import pytest
from PIL import Image
from tiny import TINY, outcome

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.cli import main
from drmad_jax.experiments.report import page
from drmad_jax.experiments.runs import draw as drawing
from drmad_jax.experiments.tasks.l2 import L2Task

pytestmark = pytest.mark.usefixtures("compiled_once", "plain_pictures")
CONFIG = configs.parse(
    TINY | {"outer": TINY["outer"] | {"num_steps": 2}, "judge": {"num_seeds": 2}}
)
FILES = (
    "config.toml", "metrics.jsonl", "judge.jsonl", "hparams.npz", "summary.json",
    "checkpoints/1/state.npz", "checkpoints/2/state.npz", "figures/curves.png", "figures/.drawn",
)  # fmt: skip


def change(edit):
    return lambda path: path.write_bytes(edit(path.read_bytes()))


def make_folder(path):
    path.unlink()
    path.mkdir()


def flip(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = {
    "cut": change(lambda data: data[: len(data) // 2]),
    "short": change(lambda data: data[:-1]),
    "empty": change(lambda data: b""),
    "zero": change(lambda data: bytes(len(data))),
    "garbage": change(lambda data: bytes(range(256)) * (1 + len(data) // 256)),
    "flipped": change(flip),
    "doubled": change(lambda data: data + data),
    "null": change(lambda data: b"null\n"),
    "table": change(lambda data: b"{}\n"),
    "first line": change(lambda data: data.partition(b"\n")[0] + b"\n"),
    "other lines": change(lambda data: data.partition(b"\n")[2]),
    "gone": lambda path: path.unlink(),
    "renamed": lambda path: path.rename(path.with_name("renamed")),
    "folder": make_folder,
}
_OFTEN = ("cut", "gone")
FOLDERS = {
    "renamed checkpoint": lambda root: (root / "checkpoints/2").rename(root / "checkpoints/7"),
    "swapped checkpoints": lambda root: [
        (root / "checkpoints" / a).rename(root / "checkpoints" / b) for a, b in ("13", "21", "32")
    ],
    "empty checkpoint": lambda root: (root / "checkpoints/2/state.npz").unlink(),
    "no checkpoint": lambda root: shutil.rmtree(root / "checkpoints/2"),
    "no checkpoints": lambda root: shutil.rmtree(root / "checkpoints"),
    "no figures": lambda root: shutil.rmtree(root / "figures"),
    "left behind": lambda root: [
        (root / name).write_text("half") for name in (".lock", ".summary.json.tmp")
    ],
}


@pytest.fixture(scope="module")
def plain_pictures():
    """Of figures only that they are there is looked at."""
    picture = io.BytesIO()
    Image.new("RGB", (9, 9)).save(picture, "PNG")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "curves", lambda metrics, headline: None)
        patch.setattr(L2Task, "figures", lambda self, hparams, data: {"penalties": None})
        patch.setattr(drawing, "png", lambda figure: picture.getvalue())
        patch.setattr(page.figures, "courses", lambda runs: None)
        patch.setattr(page.figures, "judged", lambda runs: None)
        yield


@pytest.fixture(scope="module")
def whole(compiled_once, plain_pictures, tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    (root / "tiny.toml").write_text(configs.to_toml(CONFIG))
    assert main(["run", str(root / "tiny.toml"), "--out", str(root / "run")]) == 0
    assert main(["report", str(root / "run"), "--out", str(root / "page.html")]) == 0
    return root


def told(capsys, words):
    """The exit code; what was told is one sentence, or nothing was wrong."""
    code = main([str(word) for word in words])
    errors = re.findall(r"^error: .*", capsys.readouterr().err, re.M)
    assert len(errors) == (code != 0), errors
    return code, "".join(errors)


def tables(path):
    return re.findall(r"<table.*?</table>", path.read_text(), re.S)


def outcome_but_for_the_spare(folder):
    """Without the checkpoint before the last, which nobody needs any more."""
    shutil.rmtree(folder / "checkpoints/1", ignore_errors=True)
    return outcome(folder)


def check(whole, tmp_path, capsys, damage, *, may_look_unfinished=False):
    """Every command on a damaged folder of its own."""
    copies = [shutil.copytree(whole / "run", tmp_path / name / "run") for name in "abc"]
    for folder in copies:
        damage(folder)
    reported, plotted, resumed = copies
    out = tmp_path / "page.html"
    code, _ = told(capsys, ["report", reported, "--out", out])
    if code == 0 and not may_look_unfinished:
        assert tables(out) == tables(whole / "page.html")
    code, _ = told(capsys, ["plot", plotted])
    if code == 0:
        names = {path.name for path in (plotted / "figures").glob("*.png")}
        assert names >= {"curves.png", "penalties.png"}
    code, error = told(capsys, ["run", whole / "tiny.toml", "--out", resumed, "--resume"])
    if code == 0:
        (resumed / "renamed").unlink(missing_ok=True)
        (resumed / "figures/renamed").unlink(missing_ok=True)
        expected = shutil.copytree(whole / "run", tmp_path / "expected")
        assert outcome_but_for_the_spare(resumed) == outcome_but_for_the_spare(expected)
    return code, error


@pytest.mark.parametrize(
    "damage",
    [d if d in _OFTEN else pytest.param(d, marks=pytest.mark.slow) for d in DAMAGES],
)
@pytest.mark.parametrize("file", FILES)
def test_damaged_file(whole, tmp_path, capsys, file, damage):
    may_look_unfinished = file == "summary.json" and damage in ("gone", "renamed")
    code, error = check(
        whole, tmp_path, capsys, lambda root: DAMAGES[damage](root / file),
        may_look_unfinished=may_look_unfinished,
    )  # fmt: skip
    # What a run has made it makes again; folders are not its own.
    if file != "config.toml" and damage != "folder":
        assert code == 0, error


@pytest.mark.parametrize("damage", FOLDERS)
def test_damaged_folder(whole, tmp_path, capsys, damage):
    code, error = check(whole, tmp_path, capsys, FOLDERS[damage])
    assert code == 0, error
