"""What a run folder says of its run: how far it is, its validations, also in folders of an earlier kdse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from kdse.run.folder import RUN, last_checkpoint, state
from kdse.run.log import history, validations


def run_folder(folder: Path, step: int | None, result: dict | None = None, **trainer) -> Path:
    """A run whose last checkpoint, of this kdse, is at a step."""
    last_checkpoint(folder).parent.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"trainer": trainer}))
    if step is not None:
        torch.save({"state_dict": {}, "global_step": step, RUN: "0-seed0"}, last_checkpoint(folder))
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_a_run_has_ended_when_its_result_says_so_and_its_weights_are_there(tmp_path):
    finished = {"state": "finished"}
    assert state(tmp_path / "nowhere") == "new"
    assert state(run_folder(tmp_path / "begun", None, max_steps=4)) == "unfinished"
    assert state(run_folder(tmp_path / "midway", 2, max_steps=4)) == "unfinished"
    assert state(run_folder(tmp_path / "before its last validation", 4, max_steps=4)) == "unfinished"
    assert state(run_folder(tmp_path / "ended", 4, finished, max_steps=4)) == "finished"
    assert state(run_folder(tmp_path / "stopped early", 2, finished, max_steps=4)) == "finished"
    lost = run_folder(tmp_path / "lost", 4, finished, max_steps=4)
    last_checkpoint(lost).unlink()
    assert state(lost) == "new"
    damaged = run_folder(tmp_path / "damaged", 4, max_steps=4)
    last_checkpoint(damaged).write_bytes(b"cut short")
    assert state(damaged) == "unfinished"


@pytest.mark.parametrize(("step", "end", "expected"), [(4, 4, "finished"), (3, 4, "unfinished"), (3, -1, "finished")])
def test_a_run_of_a_kdse_without_results_has_ended_at_its_last_step(step, end, expected, tmp_path):
    run = run_folder(tmp_path / "old", None, max_steps=end)
    torch.save({"state_dict": {}, "global_step": step}, last_checkpoint(run))
    assert state(run) == expected


def test_validations_are_the_same_from_their_file_and_from_an_early_runs_log(tmp_path):
    lines = ["step,train/loss,val/si_sdr,val/loss", "2,0.5,,", "2,,3.5,-3.5", "5,,nan,-1.0", "5,0.25,,"]
    for number, rows in ((0, lines), (1, [lines[0], "5,,4.0,-4.0"])):  # the second start repeated step 6
        (tmp_path / f"csv/version_{number}").mkdir(parents=True)
        (tmp_path / f"csv/version_{number}/metrics.csv").write_text("\n".join(rows) + "\n")
    expected = [
        {"step": 3, "metrics": {"val/si_sdr": 3.5, "val/loss": -3.5}},
        {"step": 6, "metrics": {"val/si_sdr": 4.0, "val/loss": -4.0}},
    ]
    assert validations(tmp_path) == expected and history(tmp_path, "val/si_sdr") == {3: 3.5, 6: 4.0}
    again = {"step": 6, "metrics": {"val/loss": -1.0}}
    texts = [json.dumps(line) for line in (expected[0], again, expected[1])]
    (tmp_path / "validations.jsonl").write_text("\n".join([*texts, '{"step": 9, "met']))
    assert validations(tmp_path) == expected and history(tmp_path, "val/pesq_wb") == {}
