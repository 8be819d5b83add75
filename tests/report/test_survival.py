"""A report survives what it is made from: a damaged or foreign file costs its own part, and is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from kdse.cli import main
from kdse.commands.report import write_report
from kdse.errors import UserError
from kdse.evaluation.scoring import per_file_csv
from kdse.metrics.registry import METRICS
from kdse.metrics.table import Row
from kdse.metrics.uncertainty import Interval
from kdse.pretrained import find
from kdse.report.build import Options, build_report
from kdse.report.collect import find_runs, read_scores
from kdse.report.contents import Report
from kdse.report.figures.by_snr import improvement_by_snr
from kdse.report.figures.pareto import Point, pareto
from tests.report.test_plots import scored

NAMES = ["$x_{$", "_hidden", r"a\b$", "two_step"]


def make_scores(folder: Path) -> Path:
    """Scores of the noisy input and the system "run", as `kdse evaluate` writes them."""
    folder.mkdir(parents=True)
    rows = [Row(system, "a", {"si_sdr": value}) for system, value in (("noisy", 1.0), ("run", 2.0))]
    record = {
        "settings": {"sample_rate_hz": 16000},
        "metrics": {"si_sdr": {"unit": METRICS["si_sdr"].unit, "variant": METRICS["si_sdr"].variant}},
        "systems": {"noisy": {"kind": "unprocessed input"}, "run": {"kind": "checkpoint", "parameters": 30000}},
    }
    (folder / "per_file.csv").write_text(per_file_csv(rows, ["si_sdr"]))
    (folder / "summary.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder with all files that a report reads."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(find("cruse-30k"), folder / "checkpoints" / "last.ckpt")
    config = {"seed_everything": 1, "model": {"class_path": "kdse.Enhancer"}, "trainer": {"max_steps": 9}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [json.dumps({"step": step, "metrics": {"val/si_sdr": step}}) for step in (1, 2, 3)]
    (folder / "validations.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "timing.csv").write_text("start,block,timed,mean_seconds,median_seconds,elapsed_seconds\na,0,9,1,1,9\n")
    make_scores(tmp_path / "scores")
    return folder


def report_of(run: Path, *sets: tuple[str, Path]) -> Report:
    scores = read_scores(sets or [("", run.parent / "scores")])
    return build_report(find_runs([str(run)]), scores, Options(listen=0, similarity_items=0))


SUMMARIES = ["{", "[]", "3", '{"a": 1}', "[" * 10**5, '{"settings": [], "metrics": {}, "systems": {}}',
             '{"settings": {"sample_rate_hz": "x"}, "metrics": {"si_sdr": {}}, "systems": {"run": 3}}']  # fmt: skip
DAMAGE = [
    *(("config.yaml", text) for text in ("a: [", "- 1", "\0", "model: 3", "trainer: [1]", "model: {init_args: 3}")),
    *(("../scores/summary.json", text) for text in SUMMARIES),
    ("validations.jsonl", '{"step": 1, "metrics": {}}\n{"step": \n[]\n{"step": 2, "metrics": 3}\n'),
    ("timing.csv", "start,block,timed,mean_seconds,median_seconds,elapsed_seconds\na,x,y,z,1,9\n"),
    ("checkpoints/last.ckpt", "no checkpoint"),
]


def test_a_whole_run_gives_a_report_without_warnings(run):
    report = report_of(run)
    assert not report.warnings and len(report.figures) == 1 and {t.key for t in report.tables} == {"scores", "cost"}


@pytest.mark.parametrize(("name", "text"), DAMAGE, ids=[f"{name} {text[:20]!r}" for name, text in DAMAGE])
def test_a_damaged_file_costs_its_own_part_of_the_report_and_is_named(name, text, run):
    (run / name).write_text(text)
    report = report_of(run)
    assert any(Path(name).name in warning for warning in report.warnings), report.warnings
    (row,) = [cells for cells in report.tables[0].rows if any(cell.text == "run" for cell in cells)]
    assert any("2.00" in cell.text for cell in row)


@pytest.mark.parametrize("name", ["csv/version_0/metrics.csv", "result.json", "report/report.json"])
def test_files_that_a_report_can_do_without_may_hold_anything(name, run):
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_bytes(b'\xff\0,"\nstep\n')
    (run / "validations.jsonl").unlink()
    assert report_of(run).tables


def test_a_set_whose_scores_are_damaged_is_left_out_and_named(run, tmp_path):
    other = make_scores(tmp_path / "other")
    (other / "per_file.csv").write_text("a,b\n1,2\n")
    report = report_of(run, ("", tmp_path / "scores"), ("", other))
    assert any("other" in warning and "left out" in warning for warning in report.warnings) and report.tables
    with pytest.raises(UserError, match="other: holds no finished evaluation"):
        read_scores([("", other)])


def test_any_label_can_be_drawn():
    rows = scored(("a", "b", "c", "d"))
    names = dict(zip("abcd", NAMES, strict=True))
    renamed = [Row(names.get(r.system, r.system), r.name, r.values, r.failures, r.snr_db, r.group) for r in rows]
    assert improvement_by_snr(renamed, ("si_sdr",), NAMES)
    points = [Point(n, Interval(i, i - 0.5, i + 0.5, 3), {"parameters": 10**i}) for i, n in enumerate(NAMES, 2)]
    assert pareto(points, "si_sdr", "parameters", NAMES)


def test_a_report_removes_and_writes_nothing_outside_its_folder(tmp_path):
    out, outside = tmp_path / "out", tmp_path / "outside"
    (out / "tables").mkdir(parents=True)
    (outside / "tables").mkdir(parents=True)
    (out / "elsewhere").symlink_to(outside)
    kept = [outside / "x.md", outside / "tables" / "x.md", out / "mine.md", out / "tables" / "mine.txt"]
    for path in [*kept, out / "tables" / "old.md"]:
        path.touch()
    names = [
        "../outside/x.md",
        str(outside / "x.md"),
        "tables/../../outside/x.md",
        "elsewhere/x.md",
        "mine.md",
        "tables",
    ]
    names += ["tables/mine.txt", "tables/./../mine.md", f"tables//{outside / 'x.md'}", "tables/old.md", "tables/\0"]
    (out / "report.json").write_text(json.dumps(names))
    report = Report("r", [], [], [], [], [], 16000, ("si_sdr",))
    write_report(report, out)
    assert all(path.exists() for path in kept) and not (out / "tables" / "old.md").exists()
    shutil.rmtree(out / "tables")
    (out / "tables").symlink_to(outside / "tables")
    with pytest.raises(UserError, match="tables is a link to another folder; remove the link"):
        write_report(report, out)


def test_a_report_is_not_written_among_checkpoints(tmp_path, capsys) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "checkpoints")]) == 2
    assert "checkpoints" in capsys.readouterr().err and not list((tmp_path / "checkpoints").iterdir())
