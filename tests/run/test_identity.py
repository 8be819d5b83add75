"""One run, one name: what a run's identity depends on, and the run folder and W&B id that are called by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from kdse.cli import main
from kdse.run.folder import result
from kdse.run.identity import differences, identity
from kdse.run.log import validations
from tests.tiny_run import write_config

pytestmark = pytest.mark.integration

CONFIG = "experiments/two_step/two_step.yaml"
BASE = "experiments/two_step/base.yaml"


def resolved(capsys: pytest.CaptureFixture[str], *flags: str) -> dict:
    with pytest.raises(SystemExit):
        main(["fit", *flags, "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    return {**config, "seed_everything": config.get("seed_everything", 0)}


@pytest.fixture
def reference(capsys) -> dict:
    return resolved(capsys, "--config", BASE, "--config", CONFIG)


def test_files_flags_and_their_order_that_say_the_same_are_the_same_run(reference, capsys, tmp_path):
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(reference))
    one_file = resolved(capsys, "--config", str(tmp_path / "all.yaml"))
    flags = ("--config", BASE, "--config", CONFIG)
    spelled = resolved(capsys, *flags, "--data.snr_db=[-5, 15]", "--model.compression=63")
    swapped = resolved(capsys, *flags, "--model.compression=63", "--data.snr_db=[-5,15]")
    assert identity(reference) == identity(one_file) == identity(spelled) == identity(swapped)


@pytest.mark.parametrize(
    "flag",
    ["--run_dir=elsewhere", "--run_root=there", "--resume=true", "--wandb=offline", "--data.num_workers=3",
     "--data.manifest=corpus.kdse", "--model.metric_workers=2", "--trainer.enable_progress_bar=false",
     "--trainer.accelerator=cpu", "--save_every_n_steps=7"],
)  # fmt: skip
def test_where_and_how_a_run_is_kept_does_not_count(flag, reference, capsys):
    changed = resolved(capsys, "--config", BASE, "--config", CONFIG, flag)
    assert identity(changed) == identity(reference) and differences(changed, reference) == []


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        ("--model.compression=30", "model.compression"),
        ("--data.snr_db=[0,5]", "data.snr_db"),
        ("--schedule.distil_fraction=0", "schedule.distil_fraction"),
        ("--objectives.gram.weight=0.5", "objectives.gram.weight"),
        ("--trainer.precision=bf16-mixed", "trainer.precision"),
        ("--trainer.devices=2", "trainer.devices"),
        ("--trainer.max_steps=10", "trainer.max_steps"),
    ],
)
def test_what_a_run_computes_counts_and_is_named(flag, name, reference, capsys):
    changed = resolved(capsys, "--config", BASE, "--config", CONFIG, flag)
    assert identity(changed) != identity(reference)
    assert differences(changed, reference) == [name]


def test_a_number_of_devices_counts_the_same_from_a_file_and_as_a_flag(reference):
    as_flag, in_file = ({**reference, "trainer": {**reference["trainer"], "devices": n}} for n in ("2", 2))
    assert identity(as_flag) == identity(in_file) != identity(reference)


def test_seeds_of_one_config_share_their_digest(reference):
    digest, seed = identity(reference).split("-")
    other = identity({**reference, "seed_everything": 7})
    assert seed == "seed0" and other == f"{digest}-seed7"
    assert differences(reference, {**reference, "seed_everything": 7}) == ["seed_everything"]


def test_a_point_that_runs_again_is_found_by_its_name_and_not_trained_again(tmp_path, capsys):
    config = write_config(tmp_path, steps=3, switch=1)
    start = ["fit", "--config", str(config), f"--run_root={tmp_path / 'root'}", "--resume=true", "--wandb=offline"]
    assert main(start) == 0
    (run,) = (tmp_path / "root").iterdir()
    about = result(run)
    assert about["identity"] == run.name == json.loads((run / "wandb_run.json").read_text())["id"]
    assert about["step"] == 3 and about["metrics"] == validations(run)[-1]["metrics"]
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert identity(stored) == run.name and Path(stored["run_dir"]) == run and stored["run_root"] is None

    def written() -> dict:
        return {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.name != "run.lock" and "wandb" not in p.parts}

    before = written()
    capsys.readouterr()
    assert main(start) == 0
    assert "finished before at step 3" in capsys.readouterr().out
    assert written() == before and len(list((run / "wandb").glob("offline-run-*"))) == 1
    assert [folder.name for folder in (tmp_path / "root").iterdir()] == [run.name]


def test_resume_and_ckpt_path_are_not_given_together(tmp_path, capsys):
    config = write_config(tmp_path)
    assert main(["fit", "--config", str(config), "--resume=true", "--ckpt_path=a.ckpt"]) == 2
    assert "--resume and --ckpt_path" in capsys.readouterr().err
