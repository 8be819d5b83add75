"""W&B gets the tables, audio and plots that are on disk, in one run, and nothing else starts or breaks by it."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kdse.cli import main
from kdse.models.checkpoint import describe
from kdse.report.contents import Figure, ListeningFile, Report
from kdse.report.tables.table import Cell, Column, Table
from kdse.report.wandb_log import log_report, report_id, table_of
from kdse.training.log_scores import LogScores
from kdse.training.wandb_logger import RunLogger, last_step
from tests.report.wandb_files import OfflineRun, starts
from tests.toys import make_teacher

pytestmark = pytest.mark.integration


class Starts(NamedTuple):
    """A run folder and the W&B files of its fit, resume, test and validation, and those of a fit that broke.

    (One that is refused, as a third start of the first run is, has none.)
    """

    folder: Path
    fit: OfflineRun
    resume: OfflineRun
    test: OfflineRun
    validate: OfflineRun
    broken: OfflineRun


@pytest.fixture(scope="module")
def quiet_environment() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("WANDB_SILENT", "true")
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, quiet_environment) -> Starts:
    root = tmp_path_factory.mktemp("wandb")
    rng = np.random.default_rng(0)
    for kind in ("speech", "noise"):
        for split in ("train", "valid", "test"):
            (root / kind / split).mkdir(parents=True)
            for index in range(2):
                wave = 0.1 * rng.standard_normal(24000) * np.hanning(24000)
                soundfile.write(root / kind / split / f"{index}.flac", wave, 16000)
    model = make_teacher()
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "kdse": describe(model)}, root / "teacher.ckpt")
    settings = {
        "data": {
            "class_path": "kdse.data.Mixtures",
            "init_args": {"root": str(root), "segment_seconds": 0.5, "batch_size": 2, "steps_per_epoch": 4,
                          "snr_db": [0, 10], "validation_items": 4, "validation_seconds": 0.5, "test_items": 1},
        },
        "model": {
            "class_path": "kdse.Distiller",
            "init_args": {"teacher_checkpoint": str(root / "teacher.ckpt"), "compression": 2.0, "metrics": ["si_sdr"]},
        },
        "objectives": {"gram": {"class_path": "kdse.objectives.SimilarityPreserving"}},
        "schedule": {"class_path": "kdse.schedule.TwoStep", "init_args": {"distil_steps": 2}},
        "trainer": {"max_steps": 4, "val_check_interval": 2, "accelerator": "cpu", "enable_progress_bar": False,
                    "enable_model_summary": False, "log_every_n_steps": 1, "num_sanity_val_steps": 0},
        "run_dir": str(root / "run"),
        "wandb": "offline",
        "example_every_n_validations": 1,
    }  # fmt: skip
    config, last = root / "config.yaml", str(root / "run" / "checkpoints" / "last.ckpt")
    config.write_text(yaml.safe_dump(settings))
    flags = ["--config", str(config)]
    assert main(["fit", *flags, "--wandb_project", "tests"]) == 0
    assert main(["fit", *flags, "--trainer.max_steps", "6", "--ckpt_path", last]) == 0
    assert main(["fit", *flags, "--schedule.distil_steps", "1", "--ckpt_path", last]) == 2
    assert main(["test", *flags, "--ckpt_path", last]) == 0
    assert main(["validate", *flags, "--ckpt_path", last]) == 0
    stopping = "lightning.pytorch.callbacks.EarlyStopping"
    with pytest.raises(RuntimeError, match="val/nothing"):  # (found out at the first validation)
        main(["fit", *flags, f"--run_dir={root / 'broken'}", f"--trainer.callbacks={stopping}",
              "--trainer.callbacks.monitor=val/nothing"])  # fmt: skip
    return Starts(root / "run", *starts(root / "run"), *starts(root / "broken"))


def csv_log(run: Starts) -> pd.DataFrame:
    return pd.concat([pd.read_csv(path) for path in sorted(run.folder.glob("csv/version_*/metrics.csv"))])


def tables(start: OfflineRun, stage: str = "val") -> dict[int, list[dict[str, Any]]]:
    """Step to table."""
    return {row["trainer/global_step"]: start.table(row[f"{stage}/scores"]) for row in start.logged(f"{stage}/scores")}


def line(table: list[dict[str, Any]], system: str, snr_db: str = "all") -> dict[str, Any]:
    (found,) = [row for row in table if row["system"] == system and row["snr_db"] == snr_db]
    return found


def test_the_table_of_every_validation_has_the_numbers_of_the_csv_log(run):
    found = tables(run.fit) | tables(run.resume)
    expected = csv_log(run).dropna(subset="val/si_sdr").set_index("step")
    assert sorted(found) == list(expected.index) == [1, 3, 5]
    for step, table in found.items():
        student, logged = line(table, "student"), expected.loc[step]
        assert student["si_sdr"] == pytest.approx(logged["val/si_sdr"], abs=1e-5)
        assert student["si_sdr_improvement"] == pytest.approx(logged["val/si_sdr_improvement"], abs=1e-5)
        snrs = [column.removeprefix("val/si_sdr_snr") for column in expected if column.startswith("val/si_sdr_snr")]
        assert len(snrs) > 1
        for snr in snrs:
            assert line(table, "student", snr)["si_sdr"] == pytest.approx(logged[f"val/si_sdr_snr{snr}"], abs=1e-5)
        assert line(table, "noisy")["si_sdr"] == pytest.approx(logged["val/noisy_si_sdr"], abs=1e-5)
        # the frozen teacher is scored once, and stays in the tables, also after the resume
        assert line(table, "teacher")["si_sdr"] == pytest.approx(expected.loc[1, "val/teacher_si_sdr"], abs=1e-5)
        assert (student["items"], student["si_sdr_failed"]) == (4, 0)


def test_all_starts_of_a_run_folder_are_one_run_and_none_repeats_a_step(run):
    assert {(start.id, start.project, start.resume) for start in run[1:-1]} == {(run.fit.id, "tests", True)}
    assert json.loads((run.folder / "wandb_run.json").read_text())["id"] == run.fit.id
    internal = [row["_step"] for start in run[1:-1] for row in start.rows]
    assert internal == sorted(set(internal))
    trained = [[row["trainer/global_step"] for row in start.logged("train/loss")] for start in (run.fit, run.resume)]
    assert trained == [[0, 1, 2, 3], [4, 5]]


def test_a_run_ends_as_it_ended(run):
    assert [start.exit_code for start in run[1:]] == [0, 0, 0, 0, 1]


def test_a_validation_of_the_last_checkpoint_repeats_the_last_validation_of_the_fit(run):
    (repeated,) = tables(run.validate).values()
    assert tables(run.validate) == {5: tables(run.resume)[5]}  # with what the teacher scored
    scalar = run.validate.logged("val/si_sdr")[0]
    assert (scalar["trainer/global_step"], scalar["val/si_sdr"]) == (
        5,
        pytest.approx(line(repeated, "student")["si_sdr"]),
    )


def test_a_test_adds_its_table_plots_and_audio_at_the_step_of_the_checkpoint(run):
    (table,) = tables(run.test, "test").values()
    scalars = run.test.logged("test/si_sdr")[0]
    assert tables(run.test, "test").keys() == {5} and scalars["trainer/global_step"] == 5
    for system, prefix in (("student", ""), ("noisy", "noisy_"), ("teacher", "teacher_")):
        assert line(table, system)["si_sdr"] == pytest.approx(scalars[f"test/{prefix}si_sdr"], abs=1e-5)
    (plot,) = run.test.logged("plots/test_improvement_by_snr")
    assert Image.open(run.test.file(plot["plots/test_improvement_by_snr"])).width > 500
    assert {"test/example0/noisy", "test/example0/estimate", "test/example0/clean"} <= run.test.logged(
        "test/example0/noisy"
    )[0].keys()


def test_audio_and_spectrograms_are_logged_at_the_step_of_the_scores(run):
    rows = run.fit.logged("example1/estimate")
    assert [row["trainer/global_step"] for row in rows] == [1, 3]
    waves = {name: soundfile.read(run.fit.file(rows[0][f"example1/{name}"])) for name in ("noisy", "clean", "estimate")}
    assert all(rate == 16000 and len(wave) == 8000 for wave, rate in waves.values())
    assert max(np.abs(wave).max() for wave, _ in waves.values()) == pytest.approx(1, abs=1e-3)  # one level for all
    pixels = np.asarray(Image.open(run.fit.file(rows[0]["example1/spectrograms"])))
    assert pixels.max() == 255 and len(np.unique(pixels)) > 50  # a picture, not black
    assert "dB" in rows[0]["example1/noisy"]["caption"] and "step 1" in rows[0]["example1/noisy"]["caption"]


def test_plots_are_logged_when_training_ends(run):
    for start, step in ((run.fit, 3), (run.resume, 5)):
        for key in ("plots/improvement_by_snr", "plots/training_curves_si_sdr"):
            (row,) = start.logged(key)
            assert row["trainer/global_step"] == step and "SI-SDR" in row[key]["caption"]
            assert len(np.unique(np.asarray(Image.open(start.file(row[key])).convert("L")))) > 5


def test_the_config_and_all_files_of_tables_are_kept_with_the_run(run):
    stored = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert run.resume.config["model"] == stored["model"] and run.resume.config["schedule"] == stored["schedule"]
    assert run.resume.config["trainer"]["max_steps"] == 6
    for start in run[1:]:
        for files in start.artifacts:
            assert all(start.folder in path.parents and path.is_file() for path in files.values())


def test_tensorboard_gets_the_same_table_as_text(run):
    tag, text = "val/scores/text_summary", {}
    for path in run.folder.glob("tensorboard/events.*"):
        events = EventAccumulator(str(path)).Reload()
        if tag in events.Tags()["tensors"]:
            text |= {event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors(tag)}
    assert sorted(text) == [1, 3, 5]
    assert f"{line(tables(run.fit)[3], 'student')['si_sdr']:.2f}" in text[3] and "teacher" in text[5]


def test_only_a_resume_goes_on_with_a_remembered_run(run, monkeypatch):
    assert RunLogger(run.folder, "offline", go_on=True).version == run.fit.id
    assert RunLogger(run.folder, "offline", go_on=True).name == "tests"
    assert RunLogger(run.folder, "offline").version is None
    assert RunLogger(run.folder, "offline", project="other", go_on=True).version is None
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    assert RunLogger(run.folder, "offline", go_on=True).version == "mine"


def test_the_step_of_a_checkpoint_is_that_of_its_last_scores(run):
    assert last_step(run.folder / "checkpoints" / "last.ckpt") == 5 and last_step(None) == 0


def test_what_a_checkpoint_keeps_of_the_tables_is_the_teacher_alone(run):
    content = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
    rows = content["callbacks"][LogScores.__qualname__]["rows"]
    assert {row["system"] for row in rows} == {"teacher"} and len(rows) == 4


# --- a report ---


def small_report() -> Report:
    columns = (Column("system", "System"), Column("si_sdr", "SI-SDR dB", "higher"), Column("snr_db", "Input SNR"))
    table = Table(
        "scores",
        "Scores",
        "Brackets are 95 % intervals.",
        columns,
        (
            (Cell("noisy", "noisy"), Cell("0.10", 0.1), Cell("all", "all")),
            (Cell("a", "a"), Cell("5.13 [5.0, 5.2]", 5.125, best=True, low=5.0, high=5.2), Cell("-5", -5.0)),
            (Cell("b", "b"), Cell("n/a", float("nan"), noise=True), Cell("", None)),
        ),
    )
    out = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(out, "PNG")
    rng = np.random.default_rng(1)
    waves = {name: (level * rng.standard_normal(4000)).astype(np.float32) for name, level in
             (("noisy", 0.3), ("clean", 0.2), ("a", 0.25))} | {"b": np.full(4000, np.nan, np.float32)}  # fmt: skip
    scores = {"noisy": {"si_sdr": 0.1}, "a": {"si_sdr": 5.125}, "b": {"si_sdr": float("nan")}}
    return Report(
        title="Two systems",
        notes=["One seed."],
        warnings=["b failed on 1 of 1 items"],
        tables=[table],
        figures=[Figure("curve", "A curve", "It rises to 5.1 dB.", out.getvalue())],
        listening=[ListeningFile("x/1.wav", "set", 2.5, waves, scores)],
        sample_rate_hz=16000,
        metrics=("si_sdr",),
        facts={"kdse": "0.1.0", "torch.version": "2.11"},
    )


@pytest.fixture(scope="module")
def logged(tmp_path_factory, quiet_environment) -> tuple[Path, list[str], list[OfflineRun]]:
    folder = tmp_path_factory.mktemp("report")
    (folder / "report.html").write_text("the page")
    where = [log_report(small_report(), folder, "offline", "tests", "a report") for _ in range(2)]
    return folder, where, starts(folder)


def test_every_table_of_a_report_is_logged_with_raw_values_intervals_and_marks(logged):
    start = logged[2][0]
    (row,) = start.logged("tables/scores")
    assert start.table(row["tables/scores"]) == [
        {"system": "noisy", "si_sdr": 0.1, "si_sdr_low": None, "si_sdr_high": None, "si_sdr_mark": "",
         "SI-SDR dB": "0.10", "snr_db": "all", "Input SNR": "all"},
        {"system": "a", "si_sdr": 5.125, "si_sdr_low": 5.0, "si_sdr_high": 5.2, "si_sdr_mark": "best",
         "SI-SDR dB": "5.13 [5.0, 5.2]", "snr_db": "-5", "Input SNR": "-5"},
        {"system": "b", "si_sdr": None, "si_sdr_low": None, "si_sdr_high": None, "si_sdr_mark": "inside noise",
         "SI-SDR dB": "n/a", "snr_db": None, "Input SNR": ""},
    ]  # fmt: skip
    assert start.config["report"]["tables"]["scores"]["caption"] == "Brackets are 95 % intervals."


def test_every_figure_of_a_report_is_logged_byte_for_byte(logged):
    start, figure = logged[2][0], small_report().figures[0]
    (row,) = start.logged("figures/curve")
    assert start.file(row["figures/curve"]).read_bytes() == figure.png
    assert figure.alt in row["figures/curve"]["caption"]


def test_every_signal_of_a_report_is_logged_with_its_scores_and_one_gain_a_file(logged):
    rows, files = logged[2][0].table_with_media("listening")
    (file,) = small_report().listening
    assert [row["system"] for row in rows] == ["noisy", "clean", "a", "b"]
    gain = 10 ** (-1 / 20) / max(np.abs(file.waves[name]).max() for name in ("noisy", "clean", "a"))
    for row in rows[:3]:
        samples, rate = soundfile.read(files[row["audio"]["path"]], dtype="int16")
        expected = np.rint(np.float64(gain) * file.waves[row["system"]] * 2**15)
        assert rate == 16000 and np.array_equal(samples, expected)
        assert Image.open(files[row["spectrogram"]["path"]]).height == 257
        assert row["gain_db"] == pytest.approx(20 * np.log10(gain))
        assert (row["set"], row["file"], row["input_snr_db"]) == ("set", "x/1.wav", 2.5)
    assert [row["si_sdr"] for row in rows] == [0.1, None, 5.125, None]
    assert rows[3]["audio"] is None and "NaN" in rows[3]["trouble"]  # said, not left out and not noise


def test_warnings_and_facts_are_in_the_summary_and_the_config(logged):
    start = logged[2][0]
    assert start.summary["warnings"] == ["b failed on 1 of 1 items"] and start.summary["warning_count"] == 1
    assert start.config["report"]["facts"] == {"kdse": "0.1.0", "torch version": "2.11"}
    assert start.job_type == "report" and start.name == "a report" and "One seed." in start.notes


def test_a_report_built_again_is_the_same_run_and_says_how_to_send_it(logged):
    folder, where, (first, second) = logged
    assert first.id == second.id == report_id("tests", folder) != report_id("other", folder)
    assert first.rows[-1]["_step"] < second.rows[0]["_step"]
    assert str(first.folder) in where[0] and f"wandb sync {second.folder}" in where[1]


def test_logging_a_report_prints_nothing(tmp_path, quiet_environment, monkeypatch, capfd):
    monkeypatch.delenv("WANDB_SILENT")
    log_report(small_report(), tmp_path, "offline", "tests", "a report")
    assert capfd.readouterr() == ("", "")


def test_without_a_key_online_is_one_line_with_the_way_out_and_the_folder_stays(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    page = tmp_path / "out" / "report.html"
    page.parent.mkdir()
    page.write_text("the page")
    with pytest.raises(ValueError, match="--wandb online: .*wandb login.*--wandb offline") as error:
        log_report(small_report(), page.parent, "online", "tests", "a report")
    assert "\n" not in str(error.value) and page.read_text() == "the page"
    with pytest.raises(ValueError, match="--wandb online: .*wandb login.*--wandb offline"):
        _ = RunLogger(tmp_path / "run", "online").experiment


def test_without_the_package_wandb_its_flag_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="--wandb offline: the package wandb is not installed; pip install wandb"):
        RunLogger(tmp_path, "offline")
    with pytest.raises(ValueError, match="--wandb offline: the package wandb is not installed; pip install wandb"):
        log_report(small_report(), tmp_path, "offline", "tests", "a report")


def test_what_logs_to_wandb_can_be_imported_without_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    training = ("training.wandb_logger", "training.log_scores", "training.examples")
    for name in ("report.wandb_log", *training):
        spec = importlib.util.find_spec(f"kdse.{name}")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))  # anew, and not into sys.modules
        assert sys.modules["wandb"] is None


def test_a_column_of_words_and_numbers_becomes_words_and_what_is_not_finite_becomes_empty():
    table = table_of(["snr_db", "si_sdr"], [["all", 1.5], [-5.0, float("inf")], [2.5, float("nan")]])
    assert table.data == [["all", 1.5], ["-5", None], ["2.5", None]]
