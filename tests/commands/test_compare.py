"""`kdse compare` trains each config once, goes on after an interruption, and hides no failure."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from kdse.cli import main
from kdse.commands.compare import _run
from kdse.models import Cruse, count_parameters
from kdse.models.checkpoint import load_model
from kdse.report.tables.comparison import add_costs, describe_run
from kdse.run.folder import last_checkpoint
from kdse.run.timing import COLUMNS
from kdse.sweeps import sequential_runs
from kdse.sweeps.sequential_runs import Run, train
from kdse.training.checkpoint_files import LastCheckpoint
from tests.data.small_corpus import make_corpus

pytestmark = pytest.mark.integration

CHANNELS = {"small": [2, 4, 4, 4], "big": [3, 4, 6, 8]}
STEPS = 3


def model(channels: list[int], **settings) -> dict:
    cruse = {"class_path": "kdse.models.Cruse", "init_args": {"channels": channels}}
    return {"class_path": "kdse.Enhancer", "init_args": {"model": cruse, "metrics": ["si_sdr"], **settings}}


@pytest.fixture(scope="module")
def configs(tmp_path_factory) -> Path:
    """A base, three deltas, one of them a copy, and one that fails."""
    folder = tmp_path_factory.mktemp("configs")
    corpus = make_corpus(folder / "corpus", files=2, seconds=0.5)
    base = {
        "data": {
            "class_path": "kdse.data.Mixtures",
            "init_args": {"root": str(corpus), "segment_seconds": 0.3, "batch_size": 2, "steps_per_epoch": STEPS,
                          "validation_items": 1, "validation_seconds": 0.5, "test_items": 1, "test_snr_db": [0, 5]},
        },
        "trainer": {"max_steps": STEPS, "accelerator": "cpu", "enable_progress_bar": False,
                    "enable_model_summary": False, "log_every_n_steps": 1, "num_sanity_val_steps": 0,
                    "limit_val_batches": 0},
        "save_every_n_steps": 1,
        "seed_everything": 7,
    }  # fmt: skip
    fails = model(CHANNELS["small"], weights="/nowhere.ckpt")
    deltas = {"small": model(CHANNELS["small"]), "same": model(CHANNELS["small"]), "big": model(CHANNELS["big"])}
    for name, content in {"base": base, **{n: {"model": m} for n, m in {**deltas, "fails": fails}.items()}}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture
def commands(monkeypatch) -> list[list[str]]:
    """Runs commands in this process, which is faster, and notes them."""
    noted: list[list[str]] = []

    def call(command: list[str], **_) -> int:
        assert command[1:3] == ["-m", "kdse.cli"]
        noted.append(command[3:])
        return main(command[3:])

    monkeypatch.setattr(sequential_runs, "call", call)
    return noted


def compare(configs: Path, out: Path, *deltas: str, flags: tuple[str, ...] = ()) -> int:
    files = [str(configs / f"{delta}.yaml") for delta in deltas]
    common = ["--base", str(configs / "base.yaml"), "--out", str(out), "--metrics", "si_sdr", "--workers", "0"]
    return main(["compare", *files, *common, *flags])


def table(out: Path) -> dict[str, dict[str, str]]:
    with open(out / "comparison.csv") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def fits(commands: list[list[str]]) -> list[str]:
    """Which runs were trained, in order."""
    return [Path(flag.split("=")[1]).name for c in commands for flag in c if flag.startswith("--run_dir=")]


def test_two_configs_end_in_one_table_that_agrees_with_the_runs_and_their_scores(configs, tmp_path, commands, capsys):
    assert compare(configs, tmp_path, "small", "big", flags=("--trainer.max_steps=2",)) == 0
    rows = table(tmp_path)
    assert list(rows) == ["noisy", "small", "big"] and fits(commands) == ["small", "big"]
    with open(tmp_path / "scores" / "per_file.csv") as file:
        items = list(csv.DictReader(file))
    scores = {(i["system"], i["name"]): float(i["si_sdr"]) for i in items}
    names = {i["name"] for i in items}
    assert len(names) == 2  # the data config's own test set: one item at each of two SNRs
    for name in ("small", "big"):
        row = rows[name]
        assert int(row["parameters"]) == count_parameters(Cruse(channels=CHANNELS[name]))
        gains = [scores[name, item] - scores["noisy", item] for item in names]
        assert float(row["si_sdr_improvement"]) == pytest.approx(sum(gains) / 2, abs=1e-6)
        assert (row["state"], row["steps"], row["seed"]) == ("finished", "2", "7")
        assert float(row["training_seconds"]) > 0 and row["seconds_per_step"] == ""  # two steps only warm up
    printed = capsys.readouterr().out
    text = (tmp_path / "comparison.md").read_text()
    assert text in printed and all(c in text for c in ("SI-SDR dB", "small", "big", "noisy"))
    runs_table = text.split("\n\n")[1].splitlines()
    assert len({len(line) for line in runs_table}) == 1 and runs_table[0].startswith("| name ")
    # two items cannot tell one run from the other: the one that is not the best, and the difference, say so
    difference = sum(scores["big", item] - scores["small", item] for item in names) / 2
    best, other = ("big", "small") if difference > 0 else ("small", "big")
    assert (rows[best]["si_sdr_mark"], rows[other]["si_sdr_mark"]) == ("best", "inside noise")
    assert float(rows["big"]["si_sdr_difference"]) == pytest.approx(difference, abs=1e-9)
    low, high = float(rows["big"]["si_sdr_difference_low"]), float(rows["big"]["si_sdr_difference_high"])
    assert low < difference < high and float(rows["big"]["si_sdr_p"]) >= 0.5
    assert rows["small"]["si_sdr_difference"] == ""  # the reference
    marked = {line.split()[1]: "≈ |" in line for line in runs_table[3:]}
    assert marked == {best: False, other: True}
    assert text.count("≈ |") == 2 + 2  # here noisy and the other run, and both lines of differences to the reference
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["reference"] == "small" and [r["name"] for r in content["runs"]] == list(rows)
    assert printed.count("$ kdse fit --config") == 2 and "$ kdse evaluate" in printed


def test_an_interrupted_comparison_goes_on_and_ends_like_an_uninterrupted_one(configs, tmp_path, commands, monkeypatch):
    def dies(self, trainer, *rest):
        after(self, trainer, *rest)
        if trainer.global_step == 2:
            raise ZeroDivisionError  # (Lightning would tidy up after a KeyboardInterrupt; a kill does not)

    def killed(command, **_):
        with pytest.raises(ZeroDivisionError):
            main(command[3:])
        raise KeyboardInterrupt

    after = LastCheckpoint.on_train_batch_end
    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_batch_end", dies)
        patch.setattr(sequential_runs, "call", killed)
        assert compare(configs, tmp_path, "small", "same") == 130
    assert not (tmp_path / "same").exists() and not (tmp_path / "comparison.md").exists()

    assert compare(configs, tmp_path, "small", "same") == 0
    assert fits(commands) == ["small", "same"]
    assert "--resume=true" in commands[0]
    assert not any("--resume" in flag for flag in commands[1])
    a, b = (load_model(tmp_path / n / "checkpoints" / "last.ckpt").state_dict() for n in ("small", "same"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    rows = table(tmp_path)
    assert rows["small"]["si_sdr_improvement"] == rows["same"]["si_sdr_improvement"] != ""

    commands.clear()
    assert compare(configs, tmp_path, "small", "same") == 0 and fits(commands) == []  # all was finished
    assert table(tmp_path) == rows


def test_a_failing_config_is_in_the_table_and_the_others_go_on(configs, tmp_path, commands, capsys):
    assert compare(configs, tmp_path, "fails", "small", flags=("--reference", "small")) == 1
    rows = table(tmp_path)
    assert (rows["fails"]["state"], rows["fails"]["si_sdr_improvement"]) == ("failed", "")
    assert rows["small"]["state"] == "finished" and rows["small"]["si_sdr_improvement"] != ""
    printed = capsys.readouterr()
    assert "fails (failed)" in printed.out and "/nowhere.ckpt" in printed.err
    commands.clear()
    assert compare(configs, tmp_path, "fails", "small") == 1 and fits(commands) == ["fails"]  # tried again


def test_if_all_fail_there_is_a_table_without_scores(configs, tmp_path, commands):
    assert compare(configs, tmp_path, "fails") == 1
    assert table(tmp_path)["fails"]["state"] == "failed" and len(commands) == 1


def test_if_scoring_fails_the_costs_are_kept_and_the_exit_code_says_so(configs, tmp_path, commands, capsys):
    flags = ("--paired", "/nowhere", "/nowhere")
    assert compare(configs, tmp_path, "small", flags=flags) == 1
    assert table(tmp_path)["small"]["steps"] == str(STEPS)
    assert "no scores: kdse evaluate ended with exit code 2" in capsys.readouterr().out


def test_only_some_are_trained_and_the_others_are_said_not_to_be(configs, tmp_path, commands, capsys):
    assert compare(configs, tmp_path, "small", "big", flags=("--only", "big")) == 0
    assert fits(commands) == ["big"] and table(tmp_path)["small"]["state"] == "not run"
    assert "small (not run)" in capsys.readouterr().out


def test_json_is_all_that_stdout_gets(configs, tmp_path, monkeypatch, capsys):
    def call(command, stdout=None):
        assert stdout == 2
        return main(command[3:]) if command[3] == "fit" else evaluate(command)

    def evaluate(command):
        capsys.readouterr()  # in a process of its own it would have gone to stderr
        code = main(command[3:])
        capsys.readouterr()
        return code

    monkeypatch.setattr(sequential_runs, "call", call)
    assert compare(configs, tmp_path, "small", flags=("--json",)) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "comparison.json").read_text())


def test_a_dry_run_prints_commands_that_parse_and_starts_nothing(configs, tmp_path, commands, capsys):
    flags = ("--dry-run", "--data.snr_db=[-5,0]", "--snr-db", "-5", "0", "--corpus", str(configs / "corpus"))
    assert compare(configs, tmp_path / "out", "small", "big", flags=flags) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [["kdse", "fit"], ["kdse", "fit"], ["kdse", "evaluate"]]
    assert commands == [] and not (tmp_path / "out").exists()
    for line in lines[:2]:
        with pytest.raises(SystemExit) as leaving:
            main([*line[1:], "--print_config"])
        assert leaving.value.code == 0
        printed = yaml.safe_load(capsys.readouterr().out)
        assert printed["data"]["init_args"]["snr_db"] == [-5, 0] and printed["run_dir"].startswith(str(tmp_path))
    assert "--data-config" not in lines[2] and "--corpus" in lines[2]
    assert [f"{n}={tmp_path / 'out' / n / 'checkpoints' / 'last.ckpt'}" for n in ("small", "big")] == lines[2][2:4]


def test_a_run_of_other_settings_is_refused_and_not_replaced(configs, tmp_path, commands, capsys):
    assert compare(configs, tmp_path, "small") == 0
    before = (tmp_path / "small" / "checkpoints" / "last.ckpt").read_bytes()
    for flags in (("--trainer.max_steps=4",), ("--seed_everything=1",)):
        assert compare(configs, tmp_path, "small", flags=flags) == 2
        assert "holds a run of other settings" in capsys.readouterr().err
    assert main(["compare", f"small={configs / 'big.yaml'}", "--base", str(configs / "base.yaml"),
                 "--out", str(tmp_path)]) == 2  # fmt: skip
    assert (tmp_path / "small" / "checkpoints" / "last.ckpt").read_bytes() == before


def test_a_comparison_goes_on_with_flags_that_change_no_result(configs, tmp_path, commands):
    assert compare(configs, tmp_path, "small", flags=("--data.num_workers=0",)) == 0
    commands.clear()
    assert compare(configs, tmp_path, "small", flags=("--data.num_workers=1", "--trainer.accelerator=cpu")) == 0
    assert fits(commands) == [] and table(tmp_path)["small"]["state"] == "finished"


def test_a_comparison_of_an_earlier_kdse_goes_on(configs, tmp_path, commands):
    """Its run.json says a state too; the folder's own counts."""
    assert compare(configs, tmp_path, "small") == 0
    marker = tmp_path / "small" / "run.json"
    marker.write_text(json.dumps({"state": "started", **json.loads(marker.read_text())}))
    commands.clear()
    assert compare(configs, tmp_path, "small") == 0 and fits(commands) == []


def test_the_demos_runs_are_replaced_when_their_settings_change(tmp_path, monkeypatch, capsys):
    made: list[list[str]] = []

    def call(command, **_):
        made.append(command[3:])
        last_checkpoint(run.folder).parent.mkdir(parents=True, exist_ok=True)
        last_checkpoint(run.folder).write_bytes(b"weights")
        (run.folder / "result.json").write_text('{"state": "finished"}')
        return 0

    monkeypatch.setattr(sequential_runs, "call", call)
    for steps in (4, 4, 8):
        run = Run("a", tmp_path / "a", ["--x=1"], {"steps": steps})
        assert train([run], replace=("other",)) == {"a": 0}
    assert made == [["fit", "--x=1", f"--run_dir={tmp_path / 'a'}"]] * 2
    assert "a: finished before, kept (delete" in capsys.readouterr().out


def test_costs_are_relative_to_the_reference(tmp_path):
    for name, seconds in (("supervised", 0.5), ("distilled", 0.8)):
        (tmp_path / name).mkdir()
        line = f"1.0,0,50,{seconds},{seconds},60.0\n"
        (tmp_path / name / "timing.csv").write_text(",".join(COLUMNS) + "\n" + line)
    rows = [describe_run(n, tmp_path / n, "unfinished") for n in ("supervised", "distilled", "nothing")]
    add_costs(rows, "supervised")
    assert [row["relative_cost"] for row in rows] == [1.0, pytest.approx(1.6), None]
    assert [row["training_seconds"] for row in rows] == [60.0, 60.0, None]
    untimed = [describe_run(n, tmp_path / n, "unfinished") for n in ("supervised", "nothing")]
    add_costs(untimed, "nothing")
    assert [row["relative_cost"] for row in untimed] == [None, None]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--trainer.max_steps", "4"], "--trainer.max_steps: unknown; a flag for kdse fit is written as --name=VALUE"),
        (["--run_dir=/x"], "--run_dir: kdse compare sets it"),
        (["--ckpt_path=x.ckpt"], "--ckpt_path: kdse compare sets it"),
        (["--only", "medium"], "--only medium: no delta is called so; there are small"),
        (["--reference", "medium"], "--reference medium"),
        (["small.yaml"], "two runs are called 'small'"),
        (["noisy=x.yaml"], "cannot be called 'noisy'"),
        (["scores=x.yaml"], "cannot be called 'scores'"),
        (["/nowhere.yaml"], "DELTA /nowhere.yaml: not readable"),
        (["--base", "/nowhere.yaml"], "--base /nowhere.yaml: not readable"),
        (["--metrics", "beauty"], "--metrics"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(flags, named, configs, tmp_path, commands, capsys):
    given = ["compare", str(configs / "small.yaml"), "--base", str(configs / "base.yaml"), "--out", str(tmp_path)]
    positional = [f for f in flags if "=" in f and not f.startswith("-") or f.endswith(".yaml")]
    where = given[:2] + ([] if flags[0] == "--base" else positional) + given[2:]
    assert main(where + (flags if flags[0] == "--base" else [f for f in flags if f not in positional])) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and named in error[0] and commands == []


def test_the_base_among_the_deltas_is_passed_over_and_alone_is_refused(configs, tmp_path, capsys):
    assert compare(configs, tmp_path, "base", "small", flags=("--dry-run",)) == 0
    assert "--run_dir=" + str(tmp_path / "base") not in capsys.readouterr().out
    assert compare(configs, tmp_path, "base", flags=("--dry-run",)) == 2
    assert "only the base" in capsys.readouterr().err


def test_another_teacher_at_the_same_path_is_another_run(configs, tmp_path, commands, capsys):
    """A table must not mix students of two teachers."""
    teacher = tmp_path / "teacher.ckpt"
    delta = {
        "model": {"class_path": "kdse.Distiller", "init_args": {"teacher_checkpoint": str(teacher), "compression": 2}}
    }
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(delta))

    def state(content: bytes) -> str:
        teacher.write_bytes(content)
        settings = _run("kd", configs / "base.yaml", tmp_path / "kd.yaml", tmp_path, []).settings
        return settings["teacher"]

    assert state(b"one") == state(b"one") != state(b"two")
