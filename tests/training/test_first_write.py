"""A run folder is left alone until a start has shown that it can train, and a run in it until somebody says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import kdse.training.cli
from kdse.cli import main
from kdse.errors import UserError
from kdse.models.checkpoint import read_checkpoint
from kdse.objectives.base import Objective
from kdse.run.folder import result
from kdse.run.log import training_log, validations
from kdse.run.resume import check_free, check_usable
from tests.tiny_run import write_config

pytestmark = pytest.mark.integration


class Refuses(Objective):
    """Finds out with the first batch that it cannot train."""

    uses_taps = False

    def loss(self, exchange):
        raise UserError("objectives.late: this batch is too small")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def config(tmp_path) -> Path:
    return write_config(tmp_path)


@pytest.fixture
def run(config, tmp_path) -> Path:
    """A finished run, and a file of somebody else in its folder."""
    assert main(["fit", "--config", str(config)]) == 0
    (tmp_path / "run" / "csv" / "notes.txt").write_text("mine")
    return tmp_path / "run"


LATE = '{"late": {"class_path": "tests.training.test_first_write.Refuses"}}'
STARTS_THAT_FAIL = {
    "corpus": ["--data=kdse.data.Mixtures", "--data.root=/nowhere"],
    "teacher": ["--model.teacher_checkpoint=/nowhere.ckpt"],
    "schedule": ["--schedule.distil_learning_rate=1e-3", "--model.lr_scheduler=torch.optim.lr_scheduler.ExponentialLR",
                 "--model.lr_scheduler.gamma=0.5"],
    "optimizer": ["--model.optimizer=torch.optim.Adam", "--model.optimizer.lr=-1"],
    "taps": ["--objectives.gram.pairs=[[encoder9,encoder0]]"],
    "batch": ["--objectives", LATE],
}  # fmt: skip


def test_a_start_that_fails_leaves_an_old_run_byte_for_byte_and_makes_no_new_folder(config, run, tmp_path, capsys):
    before = content(run)
    for what, flags in STARTS_THAT_FAIL.items():
        start = ["fit", "--config", str(config), *flags]
        for folder in (["--overwrite=true"], [f"--run_dir={tmp_path / 'new'}"]):
            assert main([*start, *folder]) == 2, what
            said = capsys.readouterr().err.splitlines()[-1]
            assert said.startswith("kdse fit: "), what
        assert content(run) == before, what
        assert not (tmp_path / "new").exists(), what


def test_a_folder_that_holds_a_run_is_refused_and_both_flags_are_named(config, run, capsys):
    before = content(run)
    for flags in ([], ["--model.compression=3"]):
        assert main(["fit", "--config", str(config), *flags]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert str(run) in said and "--resume=true" in said and "--overwrite=true" in said
    assert main(["fit", "--config", str(config), "--resume=true", "--overwrite=true"]) == 2
    assert "--resume and --overwrite" in capsys.readouterr().err
    last = run / "checkpoints" / "last.ckpt"
    assert main(["fit", "--config", str(config), "--overwrite=true", f"--ckpt_path={last}"]) == 2
    assert "which --ckpt_path names" in capsys.readouterr().err
    assert content(run) == before


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=rf"--run_dir {folder}: cannot be used \({tmp_path}/file is no folder\)"):
            check_usable(folder)
    check_usable(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("file", ["config.yaml", "result.json", "checkpoints/best.ckpt"])
def test_a_config_a_result_or_a_checkpoint_makes_a_run(file, tmp_path):
    (tmp_path / "csv").mkdir()
    check_free(tmp_path)
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(UserError, match=rf"holds a run \({file}\)"):
        check_free(tmp_path)


def test_overwrite_leaves_nothing_of_the_old_run_and_all_that_is_not_its(config, run):
    (run / "checkpoints" / "last.previous.ckpt").write_bytes(b"old")
    (run / "checkpoints" / ".last.ckpt.1.partial").write_bytes(b"half")
    one_phase = ["--schedule=kdse.schedule.Joint", "--trainer.max_steps=2", "--save_every_n_steps=null"]
    assert main(["fit", "--config", str(config), "--overwrite=true", *one_phase]) == 0
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert sorted(path.name for path in (run / "csv").iterdir()) == ["notes.txt", "version_0"]
    assert len([path for path in (run / "tensorboard").iterdir() if "events" in path.name]) == 1
    assert len(training_log(run)) == 2 and [line["step"] for line in validations(run)] == [2]
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert (stored["overwrite"], stored["resume"], stored["run_dir"]) == (False, False, str(run))
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == result(run)["step"] == 2


def test_a_start_that_lost_the_race_for_a_new_folder_is_refused(config, tmp_path, monkeypatch, capsys):
    real = kdse.training.cli.FirstWrite.on_train_start

    def another_is_faster(self, trainer, pl_module):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.yaml").write_text("theirs")
        real(self, trainer, pl_module)

    monkeypatch.setattr(kdse.training.cli.FirstWrite, "on_train_start", another_is_faster)
    assert main(["fit", "--config", str(config)]) == 2 and "holds a run" in capsys.readouterr().err
    assert (tmp_path / "run" / "config.yaml").read_text() == "theirs"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.yaml", "run.lock"]


def test_a_longer_run_goes_on_from_its_own_last_checkpoint_in_its_folder_or_another(config, run, tmp_path):
    last = run / "checkpoints" / "last.ckpt"
    for folder in (tmp_path / "longer", run):
        flags = ["--trainer.max_steps=6", f"--ckpt_path={last}", f"--run_dir={folder}"]
        assert main(["fit", "--config", str(config), *flags]) == 0
        assert result(folder)["step"] == 6
    a, b = (torch.load(folder / "checkpoints" / "last.ckpt")["state_dict"] for folder in (run, tmp_path / "longer"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert training_log(run)["step"].tolist() == list(range(6))
