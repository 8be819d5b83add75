"""Runs and scores are found, told apart, and grouped by seed only if nothing but the seed differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from kdse.evaluation.scoring import per_file_csv
from kdse.metrics.table import Row
from kdse.report.collect import common_metrics, find_runs, read_scores, seed_groups


def make_run(folder: Path, **config: object) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def make_scores(folder: Path, *metrics: str, group: str = "") -> Path:
    folder.mkdir(parents=True)
    rows = [Row("noisy", "a", dict.fromkeys(metrics, 1.0), group=group)]
    (folder / "per_file.csv").write_text(per_file_csv(rows, metrics))
    (folder / "summary.json").write_text(json.dumps({"metrics": {m: {} for m in metrics}, "systems": {"noisy": {}}}))
    return folder


def test_a_folder_of_runs_stands_for_its_runs_and_a_label_for_one(tmp_path):
    for name in ("b", "a"):
        make_run(tmp_path / "runs" / name)
    (tmp_path / "runs" / "scores").mkdir()
    assert list(find_runs([str(tmp_path / "runs")])) == ["a", "b"]
    assert find_runs([f"mine={tmp_path / 'runs' / 'a'}"]) == {"mine": tmp_path / "runs" / "a"}


def test_a_link_is_called_by_its_own_name(tmp_path):
    make_run(tmp_path / "elsewhere" / "x")
    (tmp_path / "student").symlink_to(tmp_path / "elsewhere" / "x")
    assert list(find_runs([str(tmp_path / "student")])) == ["student"]


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["{}/nowhere"], "nowhere: no such folder"),
        (["{}/empty"], "holds no run"),
        (["{}/one/a", "{}/two/a"], "two runs are called 'a'"),
        (["x={}/one"], "cannot all be called 'x'"),
        (["noisy={}/two/a"], "cannot be called 'noisy'"),
    ],
)
def test_what_is_no_run_or_cannot_be_told_apart_is_refused(tmp_path, texts, named):
    (tmp_path / "empty").mkdir()
    for name in ("one/a", "one/b", "two/a"):
        make_run(tmp_path / name)
    with pytest.raises(ValueError, match=named):
        find_runs([text.format(tmp_path) for text in texts])


def test_runs_that_differ_in_seed_and_folder_only_are_one_group(tmp_path):
    def run(name: str, seed: int, lr: float = 0.1) -> Path:
        data = {"init_args": {"seed": seed, "batch_size": 4}}
        return make_run(tmp_path / name, seed_everything=seed, run_dir=name, data=data, model={"init_args": {"lr": lr}})

    runs = {"a": run("a", 0), "a1": run("a1", 1), "a7": run("a7", 7), "other": run("other", 2, lr=0.2)}
    assert seed_groups(runs) == {"a": {0: "a", 1: "a1", 7: "a7"}}


def test_a_given_group_counts_as_given_and_impossible_ones_are_refused(tmp_path):
    runs = {
        name: make_run(tmp_path / name, seed_everything=seed, model={"name": name})
        for name, seed in (("a", 0), ("b", 1), ("c", 1), ("d", True))
    }
    assert seed_groups(runs, ["both=a,b"]) == {"both": {0: "a", 1: "b"}}
    for text, named in (
        ("both=b,c", "seed 1 too"),
        ("both=a,d", "no known seed"),
        ("both=a,x", "no run 'x'"),
        ("a,b", "write"),
    ):
        with pytest.raises(ValueError, match=named):
            seed_groups(runs, [text])


def test_sets_are_named_apart_and_keep_what_all_have_been_scored_by(tmp_path):
    one = make_scores(tmp_path / "mix", "si_sdr", "stoi", group="-5..15 dB")
    two = make_scores(tmp_path / "pairs", "pesq_wb", "stoi", "si_sdr")
    sets = read_scores([("", one), ("VoiceBank", two)])
    assert [scored.rows[0].group for scored in sets] == ["mix -5..15 dB", "VoiceBank"]
    assert common_metrics(sets) == ("si_sdr", "stoi")
    (alone,) = read_scores([("", one)])
    assert alone.rows[0].group == "-5..15 dB"
    with pytest.raises(ValueError, match="no metric in common"):
        common_metrics(read_scores([("", one), ("", make_scores(tmp_path / "other", "lsd"))]))
    with pytest.raises(ValueError, match="two test sets are called 'mix'"):
        read_scores([("", one), ("mix", two)])


def test_an_unfinished_evaluation_is_refused_by_name(tmp_path):
    folder = make_scores(tmp_path / "half", "si_sdr")
    (folder / "summary.json").unlink()
    with pytest.raises(ValueError, match="half: holds no finished evaluation"):
        read_scores([("", folder)])
