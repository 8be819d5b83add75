"""Figures: what they say is what the numbers are, names do not cover each other, and one system looks one way."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from kdse.metrics.registry import METRICS
from kdse.metrics.table import Row
from kdse.metrics.uncertainty import mean_interval
from kdse.report.contents import Figure
from kdse.report.figures.by_snr import improvement_by_snr
from kdse.report.figures.curves import training_curves
from kdse.report.figures.drawing import looks
from kdse.report.figures.labels import Box, place_names
from kdse.report.figures.pareto import Point, pareto, pareto_front
from kdse.report.figures.similarity import similarity
from kdse.report.similarity import Similarity
from kdse.run.switches import switch_steps

REPOSITORY = Path(__file__).parents[2]
LOWER = next(name for name, metric in METRICS.items() if not metric.higher_is_better)


def colours(systems: list[str]) -> dict[str, str]:
    return {system: look.colour for system, look in looks(systems).items()}


def check(figure: Figure) -> np.ndarray:
    """The pixels of a figure that fits a page."""
    assert figure.title and figure.alt and len(figure.png) < 80_000
    with Image.open(io.BytesIO(figure.png)) as image:
        assert image.format == "PNG" and 1000 <= image.width <= 1400
        return np.asarray(image.convert("RGB"))


def shows(pixels: np.ndarray, colour: str) -> bool:
    """Whether a colour fills some pixels, up to what packing changes."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(pixels.astype(int) - wanted).max(axis=-1) <= 8).sum()) > 20


# --- one look for one system ---


def test_every_system_has_a_look_of_its_own_and_noisy_is_grey():
    systems = ["noisy", *(f"system{i}" for i in range(60))]
    found = looks(systems)
    assert len(set(found.values())) == len(systems)
    r, g, b = (int(colours(systems)["noisy"][i : i + 2], 16) for i in (1, 3, 5))
    assert r == g == b
    few = colours(["a", "noisy", "b", "c"])
    assert [few[s] for s in "abc"] == list(colours(["a", "b", "c"]).values())  # noisy takes nobody's colour


def test_neighbouring_colours_differ_in_lightness_or_hue_for_every_kind_of_vision():
    """Simulated by the matrices of Machado et al. 2009 (severity 1), in linear light; the first eight systems."""
    matrices = [
        np.eye(3),
        np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
        np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    ]
    codes = [c.lstrip("#") for c in colours([f"s{i}" for i in range(7)]).values()]
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (0, 2, 4)] for c in codes])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for matrix in matrices:
        seen = np.clip(linear @ matrix.T, 0, 1) ** (1 / 2.4)
        distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)[np.triu_indices(7, 1)]
        assert distances.min() > 0.12


# --- improvement by SNR ---


def scored(systems=("a", "b"), snrs=(-5.0, 0.0, 5.0), items=6, group="", metrics=("si_sdr", "estoi")) -> list[Row]:
    rng = np.random.default_rng(len(group))
    rows = []
    for snr in snrs:
        for item in range(items):
            for place, system in enumerate(("noisy", *systems)):
                values = {m: float(snr / 10 + place + rng.normal()) for m in metrics}
                rows.append(Row(system, f"{snr}-{item}", values, {}, snr, group))
    return rows


def gain(rows: list[Row], system: str, snr: float, metric: str) -> float:
    noisy = {r.name: r.values[metric] for r in rows if r.system == "noisy"}
    return float(np.mean([r.values[metric] - noisy[r.name] for r in rows if (r.system, r.snr_db) == (system, snr)]))


def test_improvement_is_the_mean_of_paired_differences_in_the_units_of_tables():
    rows = scored()
    (figure,) = improvement_by_snr(rows, ("si_sdr", "estoi"))
    pixels = check(figure)
    for system, colour in colours(["noisy", "a", "b"]).items():
        if system != "noisy":
            assert f"{system} {gain(rows, system, -5.0, 'si_sdr'):+.2f} at -5 dB" in figure.alt
            assert f"and {100 * gain(rows, system, 5.0, 'estoi'):+.2f} at 5 dB" in figure.alt
        assert shows(pixels, colour)
    assert "6 files at each SNR" in figure.alt


def test_failed_items_and_repeats_do_not_count():
    rows = scored()
    broken = Row("a", rows[0].name, {"si_sdr": math.nan, "estoi": 0.5}, {"si_sdr": "silent"}, -5.0)
    changed = [broken if (row.system, row.name) == ("a", rows[0].name) else row for row in rows]
    (figure,) = improvement_by_snr([*changed, *changed[:5]], ("si_sdr",))
    expected = gain([row for row in rows if row.name != rows[0].name], "a", -5.0, "si_sdr")
    assert f"a {expected:+.2f} at -5 dB" in figure.alt and "5 to 6 files" in figure.alt


def test_sets_are_never_averaged_and_one_snr_draws_nothing():
    rows = [*scored(group="mix"), *scored(group="rooms"), *scored(group="flat", snrs=(0.0,))]
    figures = improvement_by_snr(rows, ("si_sdr",))
    assert [figure.key for figure in figures] == ["improvement_by_snr_mix", "improvement_by_snr_rooms"]
    assert f"{gain(scored(group='rooms'), 'a', -5.0, 'si_sdr'):+.2f}" in figures[1].alt
    unknown = [Row(r.system, r.name, r.values, {}, math.nan) for r in scored()]
    assert improvement_by_snr(unknown, ("si_sdr",)) == [] == improvement_by_snr(scored(), ("pesq_wb",))


def test_colours_follow_the_list_of_the_whole_report():
    (alone,) = improvement_by_snr(scored(systems=("b",)), ("si_sdr",), systems=["a", "b", "c"])
    assert shows(check(alone), colours(["a", "b", "c"])["b"]) and not shows(check(alone), colours(["b"])["b"])


def test_many_systems_lower_is_better_and_a_single_item_can_be_drawn():
    many = [f"system_{i:02d}" for i in range(25)]
    (figure,) = improvement_by_snr(scored(many, items=1, metrics=("si_sdr", LOWER)), ("si_sdr", LOWER))
    check(figure)
    assert "without intervals (25 systems" in figure.alt


# --- Pareto ---


@pytest.mark.parametrize("higher", [True, False])
def test_the_front_is_what_nothing_beats(higher):
    rng = np.random.default_rng(3)
    for size in (0, 1, 2, 5, 12):
        for _ in range(40):
            costs = [float(v) for v in rng.integers(1, 6, size)]
            qualities = [float("nan") if rng.random() < 0.1 else float(v) for v in rng.integers(0, 6, size)]
            sign = 1 if higher else -1

            def beaten(i: int, c: list[float] = costs, q: list[float] = qualities, sign: int = sign) -> bool:
                return any(
                    c[j] <= c[i] and sign * q[j] >= sign * q[i] and (c[j] < c[i] or q[j] != q[i])
                    for j in range(len(c))
                    if not math.isnan(q[j])
                )

            expected = {i for i in range(size) if not math.isnan(qualities[i]) and not beaten(i)}
            front = pareto_front(costs, qualities, higher)
            assert set(front) == expected and len(front) == len(expected)
            assert [costs[i] for i in front] == sorted(costs[i] for i in front)


def points(*entries: tuple[str, float, float | None]) -> list[Point]:
    rng = np.random.default_rng(0)
    return [
        Point(system, mean_interval(list(quality + 0.1 * rng.normal(size=20))), {"parameters": size})
        for system, quality, size in entries
    ]


def test_quality_against_size_names_the_front_and_what_is_missing():
    given = points(
        ("noisy", 3, None), ("big", 10, 2e6), ("small", 8, 3e4), ("waste", 7, 1e5), ("onnx", 9, None)
    )  # fmt: skip
    figure = pareto(given, "si_sdr", "parameters")
    assert figure is not None and "Best at their size: small, big." in figure.alt
    assert "Size or quality unknown: onnx." in figure.alt and f"big {given[1].quality.mean:.2f}" in figure.alt
    assert "at 2,000,000" in figure.alt
    pixels = check(figure)
    assert all(shows(pixels, colours([p.system for p in given])[s]) for s in ("big", "small", "waste", "noisy"))


def test_quality_against_size_needs_two_sizes():
    assert pareto(points(("a", 1, 1e5), ("b", 2, 1e5)), "si_sdr", "parameters") is None
    assert pareto(points(("a", 1, 1e5), ("b", 2, 2e5)), "si_sdr", "macs_per_second") is None


@pytest.mark.parametrize("seed", range(5))
def test_names_cover_neither_points_nor_each_other_nor_leave_the_frame(seed):
    rng = np.random.default_rng(seed)
    frame, size = Box(0, 0, 1400, 800), (150.0, 22.0)
    places = [(float(x), float(y)) for x, y in rng.uniform((50, 50), (1350, 750), (14, 2))]
    places += [(200.0 + 20 * i, 400.0 + 3 * i) for i in range(6)]  # a crowd
    markers = [Box(x - 8, y - 8, x + 8, y + 8) for x, y in places]
    boxes = place_names(places, [size] * 20, markers, frame, gap=4)
    for i, box in enumerate(boxes):
        assert box.outside(frame) == 0 and (box.right - box.left, box.top - box.bottom) == pytest.approx(size)
        assert not any(box.overlap(other) for other in [*markers, *boxes[i + 1 :]])
        assert math.dist(box.nearest(*places[i]), places[i]) < 200


def test_a_name_without_room_is_still_written():
    (box,) = place_names([(5.0, 5.0)], [(40.0, 10.0)], [Box(0, 0, 10, 10)], Box(0, 0, 10, 10))
    assert box.right - box.left == 40.0


# --- training curves ---


def run_folder(path: Path, curve: dict[int, float] | None, config: dict | None = None, starts=None, done=40) -> Path:
    (path / "checkpoints").mkdir(parents=True)
    if curve is not None:
        (path / "csv" / "version_0").mkdir(parents=True)
        lines = ["step,val/si_sdr,val/loss", *(f"{step - 1},{value},{-value}" for step, value in curve.items())]
        (path / "csv" / "version_0" / "metrics.csv").write_text("\n".join(lines) + "\n")
    if config is not None:
        (path / "config.yaml").write_text(yaml.safe_dump(config))
    if starts is not None:
        content = {"state_dict": {}, "global_step": done, "callbacks": {"kdse.Schedule": {"starts": starts}}}
        torch.save(content, path / "checkpoints" / "last.ckpt")
    return path


def two_step(**arguments) -> dict:
    return {"schedule": {"class_path": "kdse.schedule.TwoStep", "init_args": arguments}}


TRAINER = {"trainer": {"max_steps": 40, "max_epochs": None, "accumulate_grad_batches": 2}}


def test_curves_say_where_runs_ended_and_switched_and_who_has_no_log(tmp_path):
    runs = {
        "plain": run_folder(tmp_path / "plain", {10: 3.0, 20: 6.5, 40: 6.25}),
        "two": run_folder(tmp_path / "two", {10: 1.0, 20: 5.0, 40: 7.0}, two_step(), starts=[0, 13]),
        "short": run_folder(tmp_path / "short", None),
    }
    figure = training_curves(runs)
    assert figure is not None and "plain ends at 6.25 after 40 steps (best 6.50 at 20)" in figure.alt
    assert "two ends at 7.00 after 40 steps (best 7.00 at 40, phase changed at step 13)" in figure.alt
    assert "No log to draw: short." in figure.alt and "plain" in figure.alt
    pixels = check(figure)
    assert shows(pixels, colours(list(runs))["two"]) and not shows(pixels, colours(list(runs))["short"])
    single = run_folder(tmp_path / "single", {40: 3.0})
    assert training_curves({"short": runs["short"], "single": single}) is None
    loss = training_curves(runs, "loss")
    assert loss is not None and "plain ends at -6.250 after 40 steps (best -6.500 at 20)" in loss.alt


def test_the_switches_of_a_run_are_those_that_it_stored(tmp_path):
    config = {**two_step(distil_fraction=0.25), **TRAINER}
    assert switch_steps(run_folder(tmp_path / "a", {40: 1.0}, config, starts=[0, 12])) == [12]
    assert switch_steps(run_folder(tmp_path / "b", {40: 1.0}, config, starts=[0, 6, 6, 39, 40], done=40)) == [6, 39]
    assert switch_steps(run_folder(tmp_path / "c", None, config, starts=[0, 12], done=12)) == []
    (tmp_path / "a" / "result.json").write_text(json.dumps({"state": "finished", "switches": [14]}))
    assert switch_steps(tmp_path / "a") == [14]
    (tmp_path / "b" / "result.json").write_text(json.dumps({"state": "finished"}))  # as runs of 0.1 wrote it
    assert switch_steps(tmp_path / "b") == [6, 39]


def test_a_run_that_stored_no_switch_has_none_whatever_its_config_says(tmp_path):
    config = {**two_step(distil_fraction=0.25), **TRAINER}
    broken = run_folder(tmp_path / "d", {40: 1.0}, config)
    assert switch_steps(broken) == []
    (broken / "checkpoints" / "last.ckpt").write_bytes(b"cut short")
    assert switch_steps(broken) == [] and switch_steps(tmp_path / "nowhere") == []


# --- similarity ---


def alike(diagonal: float, blocks: int = 3) -> Similarity:
    matrix = np.full((blocks, blocks), 0.25)
    np.fill_diagonal(matrix, diagonal)
    names = tuple(f"encoder{i}" for i in range(blocks))
    return Similarity(matrix, names, names, tuple(np.diag(matrix)), 100)


def test_similarity_shows_the_means_of_every_moment():
    figure = similarity({"before": alike(0.5), "at the switch": alike(0.75), "after": alike(1.0)}, "two_step")
    assert figure is not None and figure.key == "similarity_two_step" and "two_step" in figure.title
    for moment, diagonal, everything in (("before", 0.5, 1 / 3), ("after", 1.0, 0.5)):
        assert f"{moment}: mean of same blocks {diagonal:.2f}, of all pairs {everything:.2f}" in figure.alt
    pixels = check(figure)
    assert shows(pixels, "#fde725") and similarity({}) is None  # viridis at 1


def test_similarity_without_counterparts_or_numbers_is_drawn_as_such():
    matrix = np.array([[0.1, math.nan]])
    figure = similarity({"after": Similarity(matrix, ("x",), ("a", "b"), (math.nan,), 10)})
    assert figure is not None and "of all pairs 0.10 (x n/a)" in figure.alt
    assert shows(check(figure), "#dddddd")


# --- drawing ---


def test_figures_are_the_same_bytes_from_any_thread():
    def draw(_: int) -> bytes:
        (figure,) = improvement_by_snr(scored(), ("si_sdr",))
        return figure.png

    with ThreadPoolExecutor(4) as threads:
        assert len({draw(0), *threads.map(draw, range(4))}) == 1


WITHOUT_PYPLOT = """
import sys
sys.modules["matplotlib.pyplot"] = None  # importing it fails
from kdse.metrics.table import Row
from kdse.metrics.uncertainty import Interval
from kdse.report.figures.by_snr import improvement_by_snr
from kdse.report.figures.pareto import Point, pareto
rows = [Row(s, str(i), {"si_sdr": v}, {}, float(i)) for i in (0, 5) for s, v in (("noisy", 1.0), ("a", 2.0))]
points = [Point(s, Interval(v, v - 1, v + 1, 9), {"parameters": 10 * v}) for s, v in (("a", 1.0), ("b", 2.0))]
print(len(improvement_by_snr(rows, ("si_sdr",))), pareto(points, "si_sdr", "parameters").key, "torch" in sys.modules)
"""


def test_no_figure_needs_pyplot_or_a_display():
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MPLBACKEND")}
    command = [sys.executable, "-c", WITHOUT_PYPLOT]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, check=True)
    assert done.stdout.split() == ["1", "si_sdr_by_parameters", "False"]
