"""Every shipped experiment trains: two optimizer steps of each on a tiny corpus, found by a search of experiments/."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import kdse.schedule
from experiments.try_configs import EXPERIMENTS, configs, load, merged, small, teacher_run, with_base
from kdse.cli import main
from kdse.models.checkpoint import describe, read_checkpoint, resolve_class
from kdse.run.log import training_log
from kdse.seeding import seeded
from tests.data.small_corpus import hiss, make_corpus, put, tone_and_pauses

pytestmark = pytest.mark.integration

CONFIGS = configs()
BATCH = 4


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    """A mixing corpus, a VoiceBank-DEMAND of six files, a folder of noisy files."""
    root = tmp_path_factory.mktemp("corpora")
    make_corpus(root / "mixing", files=2)
    for split, names in (("trainset_28spk", ["p226_1", "p282_1", "p287_1", "p300_1", "p300_2"]), ("testset", ["p1_1"])):
        for i, name in enumerate(names):
            clean = tone_and_pauses(1.0, seed=i)
            put(root / "voicebank" / f"clean_{split}_wav" / f"{name}.wav", clean)
            put(root / "voicebank" / f"noisy_{split}_wav" / f"{name}.wav", clean + hiss(1.0, seed=i))
    shutil.copytree(root / "voicebank" / "noisy_trainset_28spk_wav", root / "noisy")
    return root


@pytest.fixture(scope="module")
def teacher_of(tmp_path_factory):
    """Makes the checkpoint, with untrained weights, that the config of a teacher would give; each once."""
    folder, made = tmp_path_factory.mktemp("teachers"), {}

    def teacher_of(run_dir: str) -> Path:
        if run_dir not in made:
            config = next(p for p in CONFIGS if load(p).get("run_dir") == run_dir)
            entry = load(config)["model"]["init_args"]["model"]
            with seeded("teacher", seed=0):
                cls = resolve_class(entry["class_path"], trust_code=True, source=str(config))
                model = cls(**entry.get("init_args", {}))
            path = folder / f"{len(made)}.ckpt"
            state = {f"model.{k}": v for k, v in model.state_dict().items()}
            torch.save({"state_dict": state, "kdse": describe(model)}, path)
            made[run_dir] = path
        return made[run_dir]

    return teacher_of


def flags_for(path: Path, corpora: Path, teacher_of: Any, run_dir: Path) -> list[str]:
    """What makes a shipped config small: two steps, short clips, this corpus, an untrained teacher."""
    own = merged(path, "data")["class_path"].rpartition(".")[2]
    data = None
    if own == "SyntheticCorpus":  # (its generation has tests of its own)
        data = {"class_path": "kdse.data.Mixtures", "init_args": {"root": str(corpora / "mixing")}}
    flags = small(path, BATCH, data, run_dir.with_name("scratch"))
    flags += ["--trainer.max_steps=2", "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false"]
    flags += ["--data.segment_seconds=0.5", "--data.steps_per_epoch=2", f"--run_dir={run_dir}"]
    flags += {
        "Mixtures": [f"--data.root={corpora / 'mixing'}"],
        "PairedFolders": [f"--data.root={corpora / 'voicebank'}"],
        "NoisyFolder": [f"--data.folder={corpora / 'noisy'}"],
    }.get(own, [])
    taught_by = teacher_run(path)
    if taught_by is not None:
        flags.append(f"--model.teacher_checkpoint={teacher_of(taught_by)}")
    if merged(path, "schedule").get("class_path") == "kdse.schedule.TwoStep":
        flags.append("--schedule.distil_fraction=0.5")  # a quarter of two steps would round to none
    return flags


def check_schedule(path: Path, resolved: dict[str, Any] | None) -> None:
    """A delta over a base with another schedule class inherits arguments of the same name: none it does not state."""
    last = [load(file)["schedule"] for file in with_base(path) if "schedule" in load(file)]
    if not last:
        return
    assert resolved is not None and resolved["class_path"] == last[-1]["class_path"]
    cls = getattr(kdse.schedule, resolved["class_path"].rpartition(".")[2])
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name not in ("self", "phases", "distil_fraction"):
            stated = last[-1].get("init_args", {}).get(name, parameter.default)
            assert resolved["init_args"][name] == stated, f"{path.name}: schedule.{name}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(EXPERIMENTS)))
def test_every_shipped_config_trains_two_steps(path, corpora, teacher_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_dir = tmp_path / "run"
    assert main(["fit", *flags_for(path, corpora, teacher_of, run_dir)]) == 0
    log = training_log(run_dir)
    assert log["train/loss"].notna().sum() == 2 and log["train/loss"].abs().lt(1e6).all()
    assert read_checkpoint(run_dir / "checkpoints" / "last.ckpt")["global_step"] == 2
    check_schedule(path, load(run_dir / "config.yaml").get("schedule"))
    for name in load(path).get("objectives") or {}:
        assert log[f"terms/{name}/raw"].notna().any()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(EXPERIMENTS)))
def test_every_shipped_config_opens_with_the_command_that_runs_it_and_has_a_folder_of_its_own(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("kdse fit" in line and path.name in line for line in head) or path.parent.name == "demo"
    assert [load(p).get("run_dir") for p in CONFIGS].count(load(path)["run_dir"]) == 1
