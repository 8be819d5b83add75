"""Interruptions at awkward moments and with settings that watch validations: the end is the undisturbed one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kdse.cli import main
from kdse.machine.processes import STOPPED
from kdse.models.checkpoint import LAST, read_checkpoint
from kdse.run.folder import result
from kdse.run.log import validations
from kdse.run.resume import check_same_run, last_good
from tests.faults.runs import assert_same_end, fit, make_config

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
PLATEAU = {
    "class_path": "lightning.pytorch.cli.ReduceLROnPlateau",
    "init_args": {"monitor": "val/loss", "mode": "max", "factor": 0.5, "patience": 0},
}


def changed(config: Path, **settings: object) -> Path:
    """The config with values at dotted names."""
    content = yaml.safe_load(config.read_text())
    for name, value in settings.items():
        *path, last = name.split("__")
        inner = content
        for part in path:
            inner = inner[part]
        inner[last] = value
    config.write_text(yaml.safe_dump(content))
    return config


def test_a_run_stopped_after_its_very_last_step_still_holds_the_final_validation(tmp_path):
    config = changed(make_config(tmp_path), trainer__max_steps=6)  # (in epochs of 3: a validation comes last)
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    assert fit(config, undisturbed).returncode == 0
    stopped = fit(config, run, harm="sigterm after step 6")
    assert stopped.returncode == STOPPED and result(run) is None
    done = fit(config, run)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same_end(run, undisturbed)
    assert [line["step"] for line in validations(run)] == [3, 6]


def test_schedulers_early_stopping_and_dropout_do_not_notice_an_interruption(tmp_path):
    stopping = {
        "class_path": "lightning.pytorch.callbacks.EarlyStopping",
        "init_args": {"monitor": "val/loss", "mode": "max", "patience": 2},
    }
    config = make_config(tmp_path)
    callbacks = [*yaml.safe_load(config.read_text())["trainer"]["callbacks"], stopping,
                 {"class_path": "tests.faults.harm.Dropout"}]  # fmt: skip
    changed(config, model__init_args__lr_scheduler=PLATEAU, trainer__callbacks=callbacks, trainer__max_steps=15)
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    assert fit(config, undisturbed).returncode == 0
    first = read_checkpoint(undisturbed / "checkpoints" / LAST)
    assert first["global_step"] == 9  # by early stopping: a loss that falls is no better under mode "max"
    assert first["optimizer_states"][0]["param_groups"][0]["lr"] < 1e-2  # and the plateau scheduler has acted
    for step in (3, 5, 6):  # the end of an epoch, its middle, its end
        assert fit(config, run, harm=f"sigterm after step {step}").returncode == STOPPED
    assert fit(config, run).returncode == 0
    assert_same_end(run, undisturbed)


def test_a_moved_run_folder_keeps_its_best_checkpoint(tmp_path):
    config = changed(make_config(tmp_path), model__init_args__optimizer__init_args__lr=0.3)  # (so that it gets worse)
    undisturbed, here, there = tmp_path / "undisturbed", tmp_path / "here", tmp_path / "there"
    assert fit(config, undisturbed).returncode == 0
    assert fit(config, here, harm="sigterm after step 4").returncode == STOPPED
    here.rename(there)
    assert fit(config, there).returncode == 0
    assert_same_end(there, undisturbed)


def test_a_run_that_replaced_another_and_was_killed_early_goes_on_as_itself(tmp_path):
    config, run = make_config(tmp_path), tmp_path / "run"
    assert fit(config, run).returncode == 0
    assert last_good(run / "checkpoints", "another run's") is None
    other = ("--model.optimizer.lr=0.5",)
    early = ("--resume=false", "--overwrite=true", "--save_every_n_steps=100")
    assert fit(config, run, *other, *early, harm="kill during validation 1").returncode < 0
    again = fit(config, run, *other)
    assert again.returncode == 0 and "no checkpoint yet, a new run" in again.stdout
    groups = read_checkpoint(run / "checkpoints" / LAST)["optimizer_states"][0]["param_groups"]
    assert groups[0]["lr"] > 0.1


def test_only_fit_takes_resume_and_run_root_and_a_stored_config_does_neither(tmp_path):
    config, run = make_config(tmp_path), tmp_path / "run"
    assert fit(config, run).returncode == 0
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert (stored["resume"], stored["run_root"], stored["ckpt_path"]) == (False, None, None)
    assert main(["test", "--config", str(config), "--resume=true"]) == 2
    assert main(["validate", "--config", str(config), f"--run_root={tmp_path}"]) == 2


def test_a_stored_config_that_was_cut_short_is_named_as_such(tmp_path):
    config = make_config(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_bytes(b"")
    with pytest.raises(ValueError, match=r"config\.yaml: not readable"):
        check_same_run(tmp_path / "run", yaml.safe_load(config.read_text()))
