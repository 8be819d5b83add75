"""`kdse fit | validate | test | predict` from configs and dotted flags, end to end on a tiny corpus."""

from __future__ import annotations

import io
import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import yaml

from kdse.cli import main
from kdse.commands.parser import underscored
from kdse.models import count_parameters
from kdse.models.checkpoint import describe, load_model
from kdse.run.log import training_log
from tests.toys import make_teacher

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for kind in ("speech", "noise"):
        for split in ("train", "valid", "test"):
            (root / kind / split).mkdir(parents=True)
            for index in range(2):
                wave = 0.1 * rng.standard_normal(24000) * np.hanning(24000)
                soundfile.write(root / kind / split / f"{index}.flac", wave, 16000)
    return root


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "teacher.ckpt"
    model = make_teacher()
    torch.save({"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "kdse": describe(model)}, path)
    return path


def write_config(corpus: Path, teacher: Path, folder: Path) -> Path:
    settings = {
        "data": {
            "class_path": "kdse.data.Mixtures",
            "init_args": {"root": str(corpus), "segment_seconds": 0.5, "batch_size": 2, "steps_per_epoch": 4,
                          "validation_items": 2, "validation_seconds": 1.0, "test_items": 1},
        },
        "model": {
            "class_path": "kdse.Distiller",
            "init_args": {"teacher_checkpoint": str(teacher), "compression": 2.0, "metrics": ["si_sdr"]},
        },
        "objectives": {"gram": {"class_path": "kdse.objectives.SimilarityPreserving"}},
        "schedule": {"class_path": "kdse.schedule.TwoStep", "init_args": {"distil_fraction": 0.5}},
        "trainer": {"max_steps": 4, "accelerator": "cpu", "enable_progress_bar": False,
                    "enable_model_summary": False, "log_every_n_steps": 1, "num_sanity_val_steps": 0},
        "run_dir": str(folder / "run"),
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def config(corpus, teacher, tmp_path) -> Path:
    return write_config(corpus, teacher, tmp_path)


@pytest.fixture(scope="module")
def finished(corpus, teacher, tmp_path_factory) -> Path:
    """A finished two-step run with everything it writes."""
    folder = tmp_path_factory.mktemp("finished")
    path = write_config(corpus, teacher, folder)
    assert main(["fit", "--config", str(path), "--wandb", "offline", "--example_every_n_validations", "1"]) == 0
    return folder / "run"


@pytest.mark.integration
def test_a_run_leaves_its_config_logs_examples_and_a_student_that_loads_alone(finished):
    assert yaml.safe_load((finished / "config.yaml").read_text())["schedule"]["init_args"]["distil_fraction"] == 0.5
    student = load_model(finished / "checkpoints" / "last.ckpt")
    assert count_parameters(student) == pytest.approx(count_parameters(make_teacher()) / 2, rel=0.25)
    assert list((finished / "tensorboard").glob("events.*")) and list((finished / "wandb").glob("offline-run-*"))


@pytest.mark.integration
def test_every_term_is_logged_raw_weighted_and_by_phase(finished):
    table = training_log(finished)
    gram, supervised = table["terms/gram/raw"].dropna(), table["terms/supervised/raw"].dropna()
    assert len(gram) == 2 and len(supervised) == 2  # two steps of each phase, and no teacher after the switch
    pd.testing.assert_series_equal(
        table["terms/gram/weighted"].dropna(), gram * table["terms/gram/weight"].dropna(), check_names=False
    )
    for column in ("train/lr", "train/loss", "val/si_sdr", "val/teacher_si_sdr", "val/loss"):
        assert table[column].notna().any(), column


def test_printing_the_config_round_trips(config, tmp_path, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["fit", "--config", str(config), "--print_config"])
    assert leaving.value.code == 0
    first = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(first)
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(tmp_path / "printed.yaml"), "--print_config"])
    assert capsys.readouterr().out == first


def test_dotted_flags_win_over_the_file(config, capsys):
    flags = ["--objectives.gram.weight=0.25", "--model.compression=3", "--data.snr_db=[-5,0,5]",
             "--schedule.distil_fraction=0.1"]  # fmt: skip
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(config), *flags, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["objectives"]["gram"]["init_args"]["weight"] == 0.25
    assert printed["model"]["init_args"]["compression"] == 3
    assert printed["data"]["init_args"]["snr_db"] == [-5, 0, 5]
    assert printed["schedule"]["init_args"]["distil_fraction"] == 0.1


@pytest.mark.integration
def test_weighted_sums_of_losses_can_be_configured_and_log_their_parts(config, tmp_path):
    losses = {
        "psa": {"class_path": "kdse.losses.PhaseSensitive"},
        "stft": {"class_path": "kdse.losses.MultiResolutionStft"},
    }
    loss = {"class_path": "kdse.losses.WeightedSum", "init_args": {"losses": losses, "weights": {"stft": 0.1}}}
    content = yaml.safe_load(config.read_text())
    content["model"]["init_args"]["loss"] = loss
    config.write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", str(config)]) == 0
    table = training_log(tmp_path / "run")
    parts = table[["terms/supervised/psa/weighted", "terms/supervised/stft/weighted"]].dropna().sum(axis=1)
    np.testing.assert_allclose(parts, table["terms/supervised/raw"].dropna(), rtol=1e-4)


@pytest.mark.integration
@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_finished_run_can_be_validated_tested_and_predicted(command, finished, capsys):
    checkpoint = finished / "checkpoints" / "last.ckpt"
    assert main([command, "--config", str(finished / "config.yaml"), "--ckpt_path", str(checkpoint)]) == 0
    if command == "predict":
        files = sorted((finished / "predictions").glob("*.wav"))
        assert len(files) == 4 and all(soundfile.info(f).frames == 16000 for f in files)  # one at each test SNR
    else:
        assert "si_sdr" in capsys.readouterr().out


@pytest.mark.integration
def test_a_resumed_run_ends_like_the_uninterrupted_one(config, tmp_path, finished):
    flags = ["fit", "--config", str(config), "--save_every_n_steps", "1"]
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    assert main([*flags, "--run_dir", whole]) == 0
    crash = [sys.executable, "-c", CRASH, *flags, "--run_dir", parts]
    done = subprocess.run(crash, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr[-2000:]
    assert main([*flags, "--run_dir", parts, "--ckpt_path", f"{parts}/checkpoints/last.ckpt"]) == 0
    a, b = (load_model(f"{folder}/checkpoints/last.ckpt").state_dict() for folder in (whole, parts))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert training_log(parts)["step"].tolist() == training_log(whole)["step"].tolist()  # the first start's log is kept


CRASH = """
import os, sys
import lightning as L
from kdse.cli import main
from kdse.training.cli import LastCheckpoint
after = LastCheckpoint.on_train_batch_end
def on_train_batch_end(self, trainer, *rest):
    after(self, trainer, *rest)
    if trainer.global_step == 3:
        os._exit(9)
LastCheckpoint.on_train_batch_end = on_train_batch_end
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--trainer.max_stepsss=3"], "max_stepsss"),
        (["--data.root=/nowhere"], "/nowhere"),
        (["--data.snr_definition=loud"], "snr_definition"),
        (["--model.compression=0.5"], "--model.compression"),
        (["--model.compression=100000"], "possible range"),
        (["--model.teacher_checkpoint=/nowhere.ckpt"], "/nowhere.ckpt"),
        (["--objectives.gram.pairs=[[encoder9,encoder0]]"], "encoder9"),
        (["--schedule.distil_fraction=2"], "distil_fraction"),
        (["--wandb=maybe"], "--wandb"),
        (["--trainer.accelerator=gpus"], "--trainer: You selected an invalid accelerator name"),
        (["--trainer.val_check_interval=3.5"], "3.5"),
        (["--ckpt_path=/nowhere.ckpt"], "/nowhere.ckpt"),
        (["--ckpt_path=kdse/pretrained/cruse-62k.ckpt"], "--model.weights=kdse/pretrained/cruse-62k.ckpt"),
        (["--save_every_n_steps=0"], "--save_every_n_steps=0: must be 1 or more"),
        (["--example_every_n_validations=-1"], "--example_every_n_validations=-1: must be 0 or more"),
        (["--max_nonfinite_steps=-1"], "--max_nonfinite_steps=-1: must be 0 or more"),
        (["--objectives.gram.weight=.inf"], "--objectives.gram.weight inf: must be a finite number"),
        (["--schedule.gamma=.nan"], "--schedule.gamma nan"),
        (["--model.optimizer=torch.optim.Adam", "--model.optimizer.lr=.inf"], "--model.optimizer.lr inf"),
        (["--model.optimizer=torch.optim.Adam", "--model.optimizer.lr=-1"], "Invalid learning rate: -1"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_that_names_it_and_exit_code_2(flags, named, config, monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    assert main(["fit", "--config", str(config), *flags]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kdse fit: ")]
    assert len(lines) == 1 and named in lines[0]


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_checkpoint_that_is_none_is_named_before_the_data_is_looked_at(command, config, tmp_path, capsys):
    (tmp_path / "garbage.ckpt").write_bytes(b"garbage")
    for path, named in (("garbage.ckpt", "corrupt"), ("box.ckpt", "--model.weights=")):
        if path == "box.ckpt":
            (tmp_path / path).write_bytes((REPOSITORY / "kdse" / "pretrained" / "cruse-62k.ckpt").read_bytes())
        start = [command, "--config", str(config), "--data.root=/nowhere", "--ckpt_path", str(tmp_path / path)]
        assert main(start) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert path in said and named in said and "/nowhere" not in said


def test_what_kdse_says_goes_to_the_stderr_of_each_command_and_not_of_an_earlier_one_in_the_same_process(
    config, monkeypatch, capsys
):
    for _ in range(2):
        with monkeypatch.context() as patched, io.StringIO() as stderr:
            patched.setattr(sys, "stderr", stderr)
            assert main(["fit", "--config", str(config), "--ckpt_path=/nowhere.ckpt"]) == 2
            logging.getLogger("kdse.teacher").warning("a word of caution")
            assert stderr.getvalue().count("a word of caution\n") == 1
    assert "caution" not in capsys.readouterr().err  # (nor "I/O operation on closed file")


def test_help_names_every_command_and_an_unknown_one_is_refused(capsys):
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(
        name in overview for name in ("fit", "validate", "test", "predict", "taps", "profile", "evaluate", "enhance")
    )
    assert main(["denoise"]) == 2 and "denoise" in capsys.readouterr().err


@pytest.mark.parametrize("installed", [False, True], ids=["in the clone", "elsewhere, as from a wheel"])
def test_the_first_command_that_the_help_names_works_where_it_is_shown(
    installed, corpus, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path if installed else REPOSITORY)
    assert main(["--help"]) == 0
    start = capsys.readouterr().out.splitlines()[-1].partition("start with:")[2]
    command = shlex.split(start)
    assert command[:3] == ["kdse", "fit", "--config"]
    assert Path(command[3]).is_absolute() == installed
    run = tmp_path / "run"
    fewer = ["--trainer.max_steps=2", "--data=kdse.data.Mixtures", f"--data.root={corpus}",
             "--data.segment_seconds=0.5", "--data.steps_per_epoch=2", "--trainer.limit_val_batches=0",
             f"--run_dir={run}"]  # fmt: skip
    assert main([*command[1:], *fewer]) == 0
    assert count_parameters(load_model(run / "checkpoints" / "last.ckpt")) == pytest.approx(62313 / 4, rel=0.05)


def test_the_quickstart_is_one_file_and_part_of_the_package():
    import tomllib

    assert (REPOSITORY / "experiments" / "quickstart.yaml").samefile(REPOSITORY / "kdse" / "quickstart.yaml")
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert "quickstart.yaml" in settings["tool"]["setuptools"]["package-data"]["kdse"]


def test_importing_kdse_is_light():
    heavy = ("torch", "lightning", "wandb", "matplotlib")
    code = f"import sys, kdse, kdse.cli; print([m for m in {heavy} if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).strip() == "[]"


def test_flags_of_fit_are_taken_with_hyphens_too_and_names_of_objectives_stay(config, capsys):
    shown = []
    for flags in (
        ["--run_dir=runs/mine", "--model.teacher_autocast=bfloat16", "--objectives.gram.init_args.pairs=[]"],
        ["--run-dir=runs/mine", "--model.teacher-autocast=bfloat16", "--objectives.gram.init_args.pairs=[]"],
    ):
        with pytest.raises(SystemExit):
            main(["fit", "--config", str(config), *flags, "--print-config"])
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] and "run_dir: runs/mine" in shown[0]
    assert underscored("--objectives.my-gram.init_args.over-all=a-b") == "--objectives.my-gram.init_args.over_all=a-b"
