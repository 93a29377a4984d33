import matplotlib
import numpy as np
import pytest
from PIL import Image
from tiny import TINY

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.errors import RunFolderError
from drmad_jax.experiments.figures.values import distributions
from drmad_jax.experiments.runs.draw import curves, draw
from drmad_jax.experiments.runs.loop import run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(configs.parse(TINY), folder, progress=False)
    return folder


def test_figures_are_pictures_with_something_on_them(finished):
    before = dict(matplotlib.rcParams)
    paths = draw(finished)
    assert {path.name for path in paths} == {
        "curves.png",
        "input_penalties.png",
        "penalties_by_layer.png",
    }
    for path in paths:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert min(pixels.shape) > 300
        assert pixels.std() > 5
    assert dict(matplotlib.rcParams) == before


def test_run_without_a_finished_step_cannot_be_drawn(tmp_path):
    (tmp_path / "config.toml").write_text(configs.to_toml(configs.parse(TINY)))
    with pytest.raises(RunFolderError, match="has no finished outer step to draw"):
        draw(tmp_path)


def test_curves_survive_a_value_that_is_not_finite():
    metrics = [
        {"step": 0, "outer_loss": 1.0, "test_error": 0.5},
        {"step": 1, "outer_loss": None, "test_error": 0.9},
    ]
    assert len(curves(metrics, "test_error").axes) == 2


def test_single_values_are_drawn_as_points():
    figure = distributions({"all": np.float32(-3.0)}, -4.4, label="log L2 penalty")
    assert figure.axes[0].lines


def test_many_arrays_fit_on_a_page():
    values = {f"layer_{i}": np.arange(100.0) + i for i in range(40)}
    figure = distributions(values, 0.0, label="log L2 penalty")
    assert figure.get_size_inches()[1] < 9
    (axes,) = figure.axes
    assert axes.get_yticklabels()[39].get_text() == "layer_39 (100)"
    np.testing.assert_allclose(axes.lines[0].get_xdata(), 49.5 + np.arange(40))
