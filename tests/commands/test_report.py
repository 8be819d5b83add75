"""`kdse report` puts finished runs side by side, and what it shows and plays is what was scored."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from kdse.cli import main
from kdse.metrics.table import Row
from kdse.models.checkpoint import load_model
from kdse.report.build import Options, build_report
from kdse.report.collect import find_runs, read_scores
from kdse.report.listening import choose
from tests.tiny_run import write_config

pytestmark = pytest.mark.integration

RATE = 16000
SUPERVISED = {
    "model": {
        "class_path": "kdse.Enhancer",
        "init_args": {"model": {"class_path": "kdse.models.Cruse", "init_args": {"channels": [2, 4, 6, 8]}},
                      "metrics": ["si_sdr"]},
    },
    "objectives": {},
    "schedule": None,
}  # fmt: skip
FEW = ["--metrics", "si_sdr", "lsd", "--workers", "0", "--listen", "2", "--similarity-items", "2"]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Two runs of a two-step student (seeds 5 and 6), a supervised one, and pairs to score them on."""
    root = tmp_path_factory.mktemp("work")
    for name, seed, changes in (("two_step", 5, {}), ("two_step_6", 6, {}), ("supervised", 5, SUPERVISED)):
        (root / "made" / name).mkdir(parents=True)
        if name == "two_step_6":  # the same teacher file: another one would be another run
            shutil.copy(root / "made" / "two_step" / "teacher.ckpt", root / "teacher.ckpt")
        run_dir = str(root / "runs" / name)
        config = write_config(root / "made" / name, steps=6, seed_everything=seed, run_dir=run_dir, **changes)
        text = config.read_text().replace(str(root / "made" / name / "teacher.ckpt"), str(root / "teacher.ckpt"))
        config.write_text(text)
        shutil.copy(root / "made" / "two_step" / "teacher.ckpt", root / "teacher.ckpt")
        assert main(["fit", "--config", str(config)]) == 0
    for folder in ("noisy", "clean"):
        (root / folder).mkdir()
    for index in range(6):
        rng = np.random.default_rng(index)
        time_s = np.arange(RATE + 100 * index) / RATE
        clean = 0.1 * np.sin(2 * np.pi * (200 + 50 * index) * time_s) * (1 + np.sin(2 * np.pi * 3 * time_s))
        for folder, wave in (("clean", clean), ("noisy", clean + 0.05 * rng.standard_normal(clean.size))):
            soundfile.write(root / folder / f"f{index}_snr{5 * (index % 2)}_.wav", wave, RATE, subtype="FLOAT")
    return root


@pytest.fixture(scope="module")
def made(work) -> Path:
    flags = ["--paired", str(work / "noisy"), str(work / "clean"), *FEW, "--out", str(work / "report")]
    assert main(["report", str(work / "runs"), *flags]) == 0
    return work / "report"


def test_everything_is_there_and_names_every_system(made):
    tables = {path.name for path in (made / "tables").iterdir()}
    for key in ("scores", "differences", "seeds", "cost"):
        assert {f"{key}.md", f"{key}.csv", f"{key}.tex"} <= tables
    figures = {path.name for path in (made / "figures").iterdir()}
    assert {"improvement_by_snr.png", "similarity_two_step.png"} <= figures
    assert any(name.startswith("training_curves") for name in figures)
    for path in (made / "figures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
    for file in ("report.md", "report.html", "tables/scores.md", "tables/cost.md"):
        text = (made / file).read_text()
        assert all(name in text for name in ("teacher", "supervised", "two_step", "two_step_6")), file
    links = re.findall(r"\]\((figures/[^)]+)\)", (made / "report.md").read_text())
    assert sorted(links) == sorted(f"figures/{name}" for name in figures)


def test_tables_hold_the_means_of_the_scores(made):
    with open(made / "scores" / "per_file.csv") as file:
        values = [float(row["si_sdr"]) for row in csv.DictReader(file) if row["system"] == "two_step"]
    with open(made / "tables" / "scores.csv") as file:
        (row,) = [r for r in csv.DictReader(file) if r["system"] == "two_step" and r["snr_db"] == "all"]
    assert float(row["si_sdr"]) == pytest.approx(np.mean(values), abs=1e-9)
    assert float(row["si_sdr_low"]) < float(row["si_sdr"]) < float(row["si_sdr_high"])


def test_runs_of_two_seeds_give_mean_and_deviation(made):
    with open(made / "tables" / "scores.csv") as file:
        means = {r["system"]: float(r["si_sdr"]) for r in csv.DictReader(file) if r["snr_db"] == "all"}
    pair = [means["two_step"], means["two_step_6"]]
    with open(made / "tables" / "seeds.csv") as file:
        (row,) = [r for r in csv.DictReader(file) if r["method"] == "two_step"]
    assert row["seeds"] == "2" and float(row["si_sdr"]) == pytest.approx(np.mean(pair), abs=1e-6)
    assert float(row["si_sdr_deviation"]) == pytest.approx(np.std(pair, ddof=1), abs=1e-6)


def test_what_is_played_is_what_was_scored(made, work):
    runs, sets = find_runs([str(work / "runs")]), read_scores([("", made / "scores")])
    report = build_report(runs, sets, Options(files=["f3_snr5_"], similarity_items=0))
    (heard,) = report.listening
    noisy, _ = soundfile.read(work / "noisy" / "f3_snr5_.wav", dtype="float32")
    np.testing.assert_array_equal(heard.waves["noisy"], noisy)
    model = load_model(work / "runs" / "two_step" / "checkpoints" / "last.ckpt")
    with torch.no_grad():
        expected = model(torch.from_numpy(noisy)[None]).waveform[0].numpy()
    np.testing.assert_allclose(heard.waves["two_step"], expected, atol=1e-6)
    assert list(heard.waves)[:2] == ["noisy", "clean"] and "teacher" in heard.waves
    with open(made / "scores" / "per_file.csv") as file:
        (row,) = [r for r in csv.DictReader(file) if (r["system"], r["name"]) == ("two_step", "f3_snr5_")]
    assert heard.scores["two_step"]["si_sdr"] == float(row["si_sdr"])


def test_audio_that_is_not_what_was_scored_is_refused_in_words(made, work, tmp_path, capsys):
    shutil.copytree(made / "scores", tmp_path / "scores")
    with open(tmp_path / "scores" / "per_file.csv") as file:
        lines = list(csv.DictReader(file))
    for row in lines:  # as if the checkpoint had been trained on since
        if row["system"] == "supervised":
            row["si_sdr"] = f"{float(row['si_sdr']) + 1:.6f}"
    with open(tmp_path / "scores" / "per_file.csv", "w") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    flags = [
        "--scores",
        str(tmp_path / "scores"),
        "--listen",
        "1",
        "--similarity-items",
        "0",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["report", str(work / "runs"), *flags]) == 0
    assert re.search(
        r"WARNING: no audio of supervised: supervised now scores .* evaluate again", capsys.readouterr().err
    )
    assert "supervised now scores" in (tmp_path / "out" / "report.html").read_text()


def test_scores_beside_the_runs_are_taken_and_not_made_again(made, work, tmp_path):
    shutil.copytree(work / "runs", tmp_path / "runs")
    shutil.copytree(made / "scores", tmp_path / "runs" / "scores")
    flags = ["--listen", "0", "--similarity-items", "0", "--out", str(tmp_path / "out")]
    assert main(["report", str(tmp_path / "runs"), *flags]) == 0
    assert not (tmp_path / "out" / "scores").exists()
    assert (tmp_path / "out" / "tables" / "scores.csv").read_bytes() == (made / "tables" / "scores.csv").read_bytes()


def test_any_model_is_scored_beside_a_run_and_the_report_lies_in_the_run_if_no_folder_is_named(work, tmp_path, capsys):
    run = Path(shutil.copytree(work / "runs" / "supervised", tmp_path / "supervised"))
    how = ["--paired", str(work / "noisy"), str(work / "clean"), "--metrics", "si_sdr", "--workers", "0"]
    assert main(["report", str(run), "small=cruse-30k", *how, "--listen", "0", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["out"] == str(run / "report") and "report.html" in said["written"]
    with open(run / "report" / "tables" / "scores.csv") as file:
        assert {row["system"] for row in csv.DictReader(file)} == {"noisy", "supervised", "small"}
    assert main(["report", str(run), "small=cruse-30k", "--scores", str(run / "report" / "scores")]) == 2
    assert "small: says how to score" in capsys.readouterr().err


def test_a_run_that_was_interrupted_is_warned_of(made, work, tmp_path, capsys):
    shutil.copytree(work / "runs" / "supervised", tmp_path / "supervised")
    config = tmp_path / "supervised" / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 6", "max_steps: 400"))
    (tmp_path / "supervised" / "result.json").unlink()  # (written when a run has ended)
    flags = [
        "--scores",
        str(made / "scores"),
        "--listen",
        "0",
        "--similarity-items",
        "0",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["report", str(tmp_path / "supervised"), *flags]) == 0
    assert "supervised is unfinished: step 6 of 400" in capsys.readouterr().err


def test_the_teacher_does_not_compete_with_its_students(made):
    with open(made / "tables" / "scores.csv") as file:
        marks = {row["si_sdr_mark"] for row in csv.DictReader(file) if row["system"] in ("teacher", "noisy")}
    assert "best" not in marks


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--reference", "nobody"], "--reference nobody"),
        (["--files", "nothing"], "--files nothing"),
        (["--listen-by", "stoi"], "--listen-by stoi"),
        (["--listen", "-1"], "--listen"),
        (["--wandb", "perhaps"], "--wandb perhaps"),
        (["--seeds", "x=supervised,nobody"], "no run 'nobody'"),
        (["--scores", "/nowhere"], "--scores /nowhere"),
        (["--metrics", "lsd"], "--metrics: says how to score"),
        (["--out", "/proc/nowhere"], "--out /proc/nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(made, work, flags, named, tmp_path, capsys):
    arguments = ["report", str(work / "runs"), "--scores", str(made / "scores"), "--similarity-items", "0"]
    assert main([*arguments, "--out", str(tmp_path), *flags]) == 2
    assert named in capsys.readouterr().err.strip().splitlines()[-1]


def test_half_of_the_files_to_hear_are_the_worst_and_the_rest_is_spread():
    rows = [Row("noisy", f"{i:02d}", {"si_sdr": 0.0}) for i in range(20)]
    rows += [Row("x", f"{i:02d}", {"si_sdr": float((7 * i) % 20)}) for i in range(20)]
    worst_first = sorted(range(20), key=lambda i: (7 * i) % 20)
    chosen = [int(name) for _, name in choose(rows, ["x"], "si_sdr", 6)]
    assert chosen[:3] == worst_first[:3]
    places = [worst_first.index(i) for i in chosen[3:]]
    assert places == sorted(places) and len(set(places)) == 3 and max(places) > 14 and min(places) >= 3
    assert len(choose(rows, ["x"], "si_sdr", 100)) == 20


def test_a_failed_file_counts_as_the_worst_and_a_lower_lsd_as_better():
    rows = [Row("noisy", name, {"lsd": 5.0}) for name in "abc"]
    rows += [Row("x", name, {"lsd": value}) for name, value in (("a", 2.0), ("b", 4.0), ("c", float("nan")))]
    assert [name for _, name in choose(rows, ["x"], "lsd", 3)] == ["c", "b", "a"]


def test_wandb_gets_the_report_when_asked(made, work, tmp_path, capsys):
    pytest.importorskip("wandb")
    flags = ["--scores", str(made / "scores"), "--listen", "1", "--similarity-items", "0", "--wandb", "offline"]
    assert main(["report", str(work / "runs"), *flags, "--out", str(tmp_path)]) == 0
    assert "wandb sync" in capsys.readouterr().out
    (listening,) = tmp_path.rglob("wandb/**/listening*.table.json")
    assert listening.read_text().count('"Audio"') == 6  # noisy, clean, teacher and three students
    tables = {path.name.split("_")[0] for path in tmp_path.rglob("wandb/**/tables/*.table.json")}
    assert {"scores", "differences", "seeds", "cost"} <= tables
    assert len(list(tmp_path.rglob("wandb/**/figures/*.png"))) == len(list((tmp_path / "figures").iterdir()))


def test_facts_say_what_was_scored_and_how(made):
    page = (made / "report.html").read_text()
    versions = json.loads((made / "scores" / "summary.json").read_text())["versions"]
    assert f"torch {versions['torch']}" in page and "kdse report" in page and "mean not removed" in page


def report_of(work: Path, scores: list[tuple[str, Path]], runs: list[str], **options):
    return build_report(find_runs(runs), read_scores(scores), Options(similarity_items=0, listen=0, **options))


def test_a_run_scored_under_another_name_takes_it_and_one_not_scored_is_said(made, work):
    report = report_of(work, [("", made / "scores")], [f"renamed={work / 'runs' / 'two_step'}"])
    (curves,) = [figure for figure in report.figures if figure.key.startswith("training_curves")]
    assert "two_step" in curves.alt and not report.warnings
    shutil.copytree(work / "runs" / "supervised", made.parent / "elsewhere" / "stranger", dirs_exist_ok=True)
    report = report_of(work, [("", made / "scores")], [str(made.parent / "elsewhere" / "stranger")])
    assert any("stranger" in warning and "no row" in warning for warning in report.warnings)


def copy_scores(made: Path, folder: Path, **changes) -> Path:
    shutil.copytree(made / "scores", folder)
    record = json.loads((folder / "summary.json").read_text())
    for key, value in changes.items():
        place = record
        *parents, last = key.split("__")
        for name in parents:
            place = place[name]
        place[last] = value
    (folder / "summary.json").write_text(json.dumps(record))
    return folder


def test_sets_that_are_not_one_metric_or_one_rate_are_refused(made, work, tmp_path):
    other = copy_scores(made, tmp_path / "other", metrics__lsd__variant="another distance")
    with pytest.raises(ValueError, match="lsd of a is .* and of b 'another distance'"):
        report_of(work, [("a", made / "scores"), ("b", other)], [str(work / "runs")])
    assert any("lsd was scored as 'another distance'" in text for text in report_of(
        work, [("", other)], [str(work / "runs")]).warnings)  # fmt: skip
    slow = copy_scores(made, tmp_path / "slow", settings__sample_rate_hz=8000)
    with pytest.raises(ValueError, match="16000 Hz and b at 8000 Hz"):
        report_of(work, [("a", made / "scores"), ("b", slow)], [str(work / "runs")])


def test_every_set_has_its_own_figures_with_names_that_any_page_can_link(made, work, tmp_path):
    other = copy_scores(made, tmp_path / "other")
    report = report_of(work, [("my mix/é", made / "scores"), ("b", other)], [str(work / "runs")])
    keys = [figure.key for figure in report.figures]
    assert len(set(keys)) == len(keys) and all(re.fullmatch(r"[\w.+-]+", key, re.ASCII) for key in keys)
    assert sum("by_parameters" in key for key in keys) == 4 and sum("by_snr" in key for key in keys) == 2


def test_the_figure_against_size_has_the_tables_numbers(made, work):
    report = report_of(work, [("", made / "scores")], [str(work / "runs")])
    with open(made / "tables" / "scores.csv") as file:
        (row,) = [r for r in csv.DictReader(file) if r["system"] == "two_step" and r["snr_db"] == "all"]
    alt = next(figure.alt for figure in report.figures if figure.key.startswith("si_sdr_by_parameters"))
    assert f"{float(row['si_sdr']):.2f} [{float(row['si_sdr_low']):.2f}, {float(row['si_sdr_high']):.2f}]" in alt


def test_a_checkpoint_that_is_gone_costs_its_own_audio_only(made, work, tmp_path, capsys):
    shutil.copytree(made / "scores", tmp_path / "scores")
    record = json.loads((tmp_path / "scores" / "summary.json").read_text())
    record["systems"]["two_step"]["path"] = str(tmp_path / "gone.ckpt")
    record["systems"]["supervised"]["weights_sha256"] = "of an earlier training"
    (tmp_path / "scores" / "summary.json").write_text(json.dumps(record))
    runs = [str(work / "runs" / name) for name in ("supervised", "two_step_6")]
    report = build_report(
        find_runs(runs), read_scores([("", tmp_path / "scores")]), Options(listen=1, similarity_items=0)
    )
    assert set(report.listening[0].waves) == {"noisy", "clean", "teacher", "two_step_6"}
    assert any("two_step: its checkpoint" in text for text in report.warnings)
    assert any("supervised: " in text and "other weights" in text for text in report.warnings)


def test_other_items_in_the_same_folder_need_a_word(work, tmp_path, capsys):
    flags = ["--metrics", "si_sdr", "--workers", "0", "--no-cost", "--listen", "0", "--similarity-items", "0"]
    flags += ["--paired", str(work / "noisy"), str(work / "clean"), "--out", str(tmp_path)]
    assert main(["report", str(work / "runs" / "supervised"), *flags]) == 0
    (tmp_path / "tables" / "mine.txt").write_text("of the user")
    flags[1] = "lsd"
    assert main(["report", str(work / "runs" / "supervised"), *flags]) == 2
    assert main(["report", str(work / "runs" / "supervised"), *flags, "--overwrite"]) == 0
    assert {path.name for path in (tmp_path / "figures").iterdir() if "si_sdr_by" in path.name} == set()
    assert (tmp_path / "tables" / "mine.txt").exists()
