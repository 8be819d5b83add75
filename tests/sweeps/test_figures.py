"""Pictures show the numbers of the runs: cells, means over seeds, differences and fronts, told in words beside them."""

from __future__ import annotations

import io
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdse.sweeps.definition import read_sweep
from kdse.sweeps.figures import pictures
from kdse.sweeps.figures.heat_map import heat_map
from kdse.sweeps.figures.pareto import pareto
from kdse.sweeps.rows import Row
from kdse.sweeps.titles import metric_title, value_title, value_words
from tests.sweeps.sweeping import write_sweep

ROOT = Path(__file__).parents[2]
METRIC = "val/si_sdr_improvement"
SIZES = {4: 467_215, 16: 117_201, 30: 62_313, 63: 30_101}


def row(number: int, values: dict, improvement: float, state: str = "finished") -> Row:
    metrics = {METRIC: improvement, "val/si_sdr": improvement + 1} if state != "failed" else {}
    size = SIZES.get(values.get("model.compression", 4))
    return Row(number, values, state, None, 9, 1.0, metrics, size, None, None, 1)


@pytest.fixture
def sweep():
    return read_sweep(ROOT / "experiments" / "sweeps" / "compression_x_snr.yaml")


@pytest.fixture
def rows(sweep):
    """Scores that tell the point: compression / 10 less SNR / 100, and 0.5 more with distillation."""
    return [
        row(i, p, p["model.compression"] / 10 - p["data.snr_db"][0] / 100 + (p["schedule.distil_fraction"] > 0) / 2)
        for i, p in enumerate(sweep.grid(), 1)
    ]


def told(alt: str, title: str) -> dict[str, float]:
    """Cells of a panel by what its alternative text calls them."""
    part = alt.split(f"{title}: ")[1].split(";")[0]
    found = re.findall(r"(\S+×) at (\S+ to \S+) (\+\S+?)[,.]?(?= |$|,)", part)
    return {f"{ratio} {snr}": float(value.rstrip(",.")) for ratio, snr, value in found}


def test_every_cell_of_the_heat_map_has_its_run(sweep, rows):
    figure = heat_map(sweep, rows, METRIC)
    for title, fraction in (("without distillation", 0), ("two-step, 25 % of steps", 0.25)):
        cells = told(figure.alt, title)
        assert len(cells) == 12
        for r in rows:
            if r.values["schedule.distil_fraction"] == fraction:
                name = f"{r.values['model.compression']}× {value_words('data.snr_db', r.values['data.snr_db'])}"
                assert cells[name] == pytest.approx(r.metrics[METRIC], abs=0.0051), name
    assert "compare within one" in figure.alt


def test_the_difference_is_that_of_the_two_panels(sweep, rows):
    found = [r for r in rows if r.number != 5]  # one run without distillation is missing
    cells = told(heat_map(sweep, found, METRIC).alt, "difference (middle − left)")
    assert len(cells) == 11 and set(cells.values()) == {0.5}


def test_unfinished_cells_have_no_number(sweep, rows):
    changed = [row(r.number, r.values, 99.0, "stopped early") if r.number == 1 else r for r in rows]
    changed[2] = row(3, changed[2].values, 0.0, "failed")
    figure = heat_map(sweep, changed, METRIC)
    assert len(told(figure.alt, "without distillation")) == 10 and "99" not in figure.alt


def test_seeds_are_averaged(tmp_path):
    space = {"model.compression": {"values": [4, 63]}, "data.snr_db": {"values": [[-5, 0], [0, 5]]},
             "seed_everything": {"values": [0, 1, 2]}}  # fmt: skip
    sweep = read_sweep(write_sweep(tmp_path, space))
    scores = itertools.cycle([1.0, 2.0, 6.0])
    figure = heat_map(sweep, [row(i, p, next(scores)) for i, p in enumerate(sweep.grid())], METRIC)
    assert figure.alt.count("+3.00") == 4 and "means over 3 seeds" in figure.alt


def test_the_front_has_the_best_run_up_to_each_size(sweep, rows):
    # more compression scores more here: the smallest student is the only one that nothing beats
    figure = pareto(sweep, rows, METRIC)
    assert figure.alt.count("two-step, 25 % of steps at 30,101") == 3 and "467,215" not in figure.alt
    other = [row(r.number, r.values, -r.metrics[METRIC]) for r in rows]
    figure = pareto(sweep, other, METRIC)
    assert figure.alt.count("without distillation at") == 12  # all four sizes at all three SNRs


ALIKE = [
    ("config", ["a/base.yaml", "b/base.yaml"], ["a/base.yaml", "b/base.yaml"]),
    ("weight", [0.100001, 0.100002], ["weight 0.100001", "weight 0.100002"]),
]


@pytest.mark.parametrize(("name", "values", "titles"), ALIKE, ids=lambda v: v if isinstance(v, str) else "")
def test_values_whose_short_words_are_the_same_are_not_merged(tmp_path, name, values, titles):
    space = {
        "model.compression": {"values": [4, 63]},
        "data.snr_db": {"values": [[-5, 0], [0, 5]]},
        name: {"values": values},
    }
    sweep = read_sweep(write_sweep(tmp_path, space))
    found = [row(i, p, float(values.index(p[name]))) for i, p in enumerate(sweep.grid())]
    alt = heat_map(sweep, found, METRIC).alt
    for value, title in zip(values, titles, strict=True):
        cells = told(alt, title)
        assert len(cells) == 4 and set(cells.values()) == {float(values.index(value))}
    front = pareto(sweep, found, METRIC).alt
    assert f"{titles[1]} at 30,101 (+1.00)" in front and titles[0] not in front


def test_they_are_apart_as_rows_of_the_heat_map_too(tmp_path):
    space = {"config": {"values": ["a/x.yaml", "b/x.yaml", "c/y.yaml"]}, "model.compression": {"values": [4, 63]}}
    sweep = read_sweep(write_sweep(tmp_path, space))
    alt = heat_map(sweep, [row(i, p, float(i)) for i, p in enumerate(sweep.grid())], METRIC).alt
    assert "a/x.yaml at 4× +0.00, a/x.yaml at 63× +1.00, b/x.yaml at 4× +2.00" in alt and "y at 63× +5.00" in alt


def test_pictures_are_sharp_and_not_empty(sweep, rows):
    figures = pictures(sweep, rows)
    assert [figure.key for figure in figures] == ["heat_map", "pareto"]
    for figure in figures:
        with Image.open(io.BytesIO(figure.png)) as image:
            assert image.width == 1400
            assert np.asarray(image.convert("L")).std() > 10


def test_searched_parameters_are_drawn_with_the_best_one_named(tmp_path):
    space = {"objectives.gram.weight": {"distribution": "log_uniform_values", "min": 0.01, "max": 100.0}}
    sweep = read_sweep(write_sweep(tmp_path, space, method="random", run_cap=3))
    found = [row(i, {"objectives.gram.weight": w}, s) for i, (w, s) in enumerate([(0.1, 1.0), (2.5, 3.0), (50.0, 2.0)])]
    found.append(row(4, {"objectives.gram.weight": 9.0}, 8.0, "stopped early"))
    (figure,) = pictures(sweep, found)
    assert figure.key == "by_parameter"
    assert "Best 4.00 at objectives.gram.weight 2.5." in figure.alt and "1 of them stopped early" in figure.alt


def test_a_sweep_with_nothing_to_show_has_no_pictures(tmp_path):
    sweep = read_sweep(write_sweep(tmp_path, {"quality": {"values": [1, 2]}}))
    assert pictures(sweep, []) == []
    assert pictures(sweep, [Row(1, {"quality": 1}, "waiting", None, None, None, {}, None, None, None, 1)]) == []


def test_values_are_named_in_the_terms_of_the_field():
    assert value_title("schedule.distil_fraction", 0) == "without distillation"
    assert value_title("data.snr_db", [-5, 0]) == "SNR −5 to 0 dB"
    assert value_title("config", "experiments/methods/gram_bin.yaml") == "gram bin"
    assert value_words("model.compression", 16) == "16×"
    assert metric_title(METRIC) == "SI-SDR improvement (dB)" and metric_title("val/loss") == "val/loss"
