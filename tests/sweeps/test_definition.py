"""A sweep file is read as W&B reads it, and what is not supported is refused in one line that names it."""

from __future__ import annotations

import pytest
import yaml

from kdse.sweeps.command import check_extra, fill, fit_flags
from kdse.sweeps.definition import read_sweep

GOOD = {
    "method": "grid",
    "metric": {"name": "val/pesq_wb", "goal": "maximize"},
    "command": ["kdse", "fit", "${args}"],
    "parameters": {"a": {"values": [1, 2]}, "b": {"value": "x"}, "c": {"parameters": {"d": {"values": [[0, 1], 2]}}}},
}


def read(tmp_path, **changes):
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in {**GOOD, **changes}.items() if value != "absent"}))
    return read_sweep(path)


def test_a_grid_has_every_combination_once(tmp_path):
    sweep = read(tmp_path)
    points = [(p["a"], p["b"], p["c.d"]) for p in sweep.grid()]
    assert points == [(1, "x", [0, 1]), (1, "x", 2), (2, "x", [0, 1]), (2, "x", 2)]
    assert sweep.points() == 4 and read(tmp_path, run_cap=3).points() == 3


def test_nested_values_are_handed_over_under_their_first_name(tmp_path):
    sweep = read(tmp_path)
    assert sweep.arguments(next(sweep.grid())) == {"a": 1, "b": "x", "c": {"d": [0, 1]}}


def test_random_and_bayes_end_at_their_cap_or_never(tmp_path):
    assert read(tmp_path, method="random").points() is None
    assert read(tmp_path, method="bayes", run_cap=9).points() == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "hill"}, "method: must be one of grid, random, bayes, not 'hill'"),
        ({"method": "custom"}, "method: must be one of"),
        ({"parameters": "absent"}, "parameters: missing"),
        ({"parameters": {}}, "parameters: must be a mapping"),
        ({"parameters": {"a": {"min": 0.0, "max": 1.0}}}, "parameters: a: a grid cannot list"),
        (
            {"parameters": {"a.b": {"value": 1}, "a": {"parameters": {"b": {"value": 2}}}}},
            "parameters: a.b is there twice",
        ),
        ({"metric": {"goal": "maximize"}}, "metric: must have a name"),
        ({"metric": {"name": "m", "goal": "up"}}, "metric: goal must be minimize or maximize, not 'up'"),
        ({"metric": {"name": "m", "target": 3}}, "metric: target is not supported here"),
        ({"metric": "absent", "method": "bayes"}, "metric: method: bayes needs one"),
        (
            {"metric": "absent", "early_terminate": {"type": "hyperband", "min_iter": 1}},
            "metric: early_terminate needs one",
        ),
        ({"command": "absent"}, "command: missing"),
        ({"run_cap": 0}, "run_cap: must be a whole number above zero"),
        ({"controller": {"type": "local"}}, "controller: unknown or not supported here"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate: give min_iter"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_key(tmp_path, changes, message):
    with pytest.raises(ValueError) as error:
        read(tmp_path, **changes)
    assert str(error.value).startswith(f"{tmp_path / 'sweep.yaml'}: {message}") and "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_no_yaml_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere.yaml: not readable"):
        read_sweep(tmp_path / "nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("method: [grid")
    with pytest.raises(ValueError, match="broken.yaml: not readable as YAML"):
        read_sweep(tmp_path / "broken.yaml")


def test_what_the_local_runner_sets_is_taken_out_of_the_command():
    command = [
        "${env}",
        "kdse",
        "fit",
        "--config=b",
        "--run_root=r",
        "--resume=true",
        "--wandb=online",
        "${args}",
        "--x=1",
    ]
    assert fit_flags(command, {"a": [1, 2]}) == ["--config=b", "--a=[1, 2]", "--x=1"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["${interpreter}", "${program}", "${args}"], r"command: \$\{interpreter\} is not supported here"),
        (["python", "train.py", "${args}"], "command: kdse sweep runs `kdse fit`"),
        (["kdse", "fit", "--config=b"], r"command: has no \$\{args\}"),
        (["kdse", "fit", "${args_json_file}"], r"command: \$\{args_json_file\} is not supported here"),
    ],
)
def test_a_command_that_is_not_kdse_fit_is_refused(command, message):
    with pytest.raises(ValueError, match=message):
        fit_flags(command, {"a": 1})


def test_environment_variables_are_filled_in(monkeypatch):
    monkeypatch.setenv("CORPUS_NAME", "dns")
    assert fill(["--x=${envvar:CORPUS_NAME}-${envvar:NOT_SET}"], {}) == ["--x=dns-NOT_SET"]


@pytest.mark.parametrize(
    "flag", ["--run_root=a", "--run_dir=a", "--resume=false", "--ckpt_path=a", "--config=a", "--oops", "word"]
)
def test_flags_that_would_be_lost_or_undo_a_point_are_refused(flag):
    with pytest.raises(ValueError, match=flag.split("=")[0]):
        check_extra(["--trainer.max_steps=3", flag])


@pytest.mark.parametrize(
    "flag",
    ["--data.snr_db=[0, 5]", "--data.init_args.snr_db=[0, 5]", "--data=a.yaml", "--data.class_path=B",
     "--schedule.share=1", "--schedule+=B"],
)  # fmt: skip
def test_a_flag_that_would_undo_a_swept_value_is_refused(flag):
    with pytest.raises(ValueError, match=r"would come after (data\.snr_db|schedule) of every point"):
        check_extra([flag], ["data.snr_db", "schedule"])


def test_a_flag_beside_the_swept_values_is_not():
    check_extra(["--data.snr_db_of_tests=3", "--data.batch_size=2", "--schedules=1"], ["data.snr_db", "schedule"])


@pytest.mark.parametrize("words", [["--config", "base.yaml"], ["--run_root", "elsewhere"], ["--x", "-5"]])
def test_a_flag_apart_from_its_value_is_refused_with_the_right_form(words):
    with pytest.raises(ValueError, match=f"write them as one word, {words[0]}={words[1]}"):
        fit_flags(["kdse", "fit", *words, "${args}"], {})


def test_flags_without_a_value_and_those_of_a_macro_are_no_such_pair():
    command = ["kdse", "fit", "--flag", "--x=1", "--other", "${args_no_equals}"]
    assert fit_flags(command, {"a": 1}) == ["--flag", "--x=1", "--other", "--a", "1"]
