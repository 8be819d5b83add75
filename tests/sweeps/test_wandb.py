"""The shipped sweeps through W&B's own code: the file it loads, the command line its agent builds, what kdse reads."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import queue
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from kdse.cli import main
from kdse.sweeps.command import fill, fit_flags
from kdse.sweeps.definition import read_sweep
from kdse.sweeps.store import sampler

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "experiments" / "sweeps").glob("*.yaml"))
FAILURES = "WANDB_AGENT_MAX_INITIAL_FAILURES"
NAMES = ["compression_x_snr", "method_x_ratio", "objective_weight", "seeds"]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def some_points(sweep) -> list[dict]:
    """All of a grid; five draws of a search."""
    if sweep.method == "grid":
        return list(sweep.grid())
    import optuna

    study = optuna.create_study()
    found = []
    for number in range(5):
        study.sampler = sampler(sweep.method, 0, number)
        found.append(sweep.draw(study.ask()))
    return found


def agent_commands(
    path: Path, runs: list[dict], monkeypatch, tmp_path: Path, codes: Sequence[int] = ()
) -> list[list[str]]:
    """What W&B's agent starts when its server hands it these values: the agent itself, without server and processes.

    The runs end with these exit codes, or well.
    """
    import wandb
    from wandb import wandb_agent
    from wandb.apis.public import sweeps
    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    class Process:
        started: list[list[str]] = []

        def __init__(self, command, env, **_):
            self.started.append(command)
            assert env["WANDB_RUN_ID"]

        def poll(self):
            return (list(codes) or [0] * len(runs))[len(self.started) - 1]

    Process.started = []
    waiting = [
        {"type": "run", "run_id": f"run{i}", "program": None, "args": {k: {"value": v} for k, v in values.items()}}
        for i, values in enumerate(runs)
    ]
    config = load_sweep_config(str(path))
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != FAILURES]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_RUN_ID", "")  # (so that what the agent sets is taken back)
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "")
    monkeypatch.setattr(wandb_agent, "AgentProcess", Process)
    monkeypatch.setattr(wandb_agent.Agent, "POLL_INTERVAL", 0)
    monkeypatch.setattr(wandb, "teardown", lambda *_: None)
    monkeypatch.setattr(wandb, "Api", lambda: None)
    monkeypatch.setattr(sweeps, "_sweep_with_runs", lambda *_: {"config": yaml.safe_dump(config)})
    monkeypatch.setattr(sweeps, "_register_agent", lambda *_, **__: {"id": "agent"})
    monkeypatch.setattr(sweeps, "_agent_heartbeat", lambda *_: [waiting.pop(0) if waiting else {"type": "exit"}])
    agent = wandb_agent.Agent(None, queue.Queue(), sweep_id="sweep")
    agent.run()
    failed = [response for _, response in agent._log if "exception" in response]
    assert not failed, failed
    return Process.started


def resolved(command: list[str]) -> dict:
    """The config that `kdse fit` takes from a command line."""
    assert command[0] == "kdse"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        assert main([*command[1:], "--print_config"]) == 0
    content = yaml.safe_load(printed.getvalue())
    assert content is not None, command
    return content


def at(config: dict, name: str):
    """A setting by the name of its flag."""
    for word in name.split("."):
        config = config["init_args"][word] if "init_args" in config else config[word]
    return config


def test_every_sweep_of_the_issue_is_shipped():
    assert [path.stem for path in SHIPPED] == NAMES


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_header_shows_both_ways_to_run_it_and_its_cost(path):
    header = path.read_text().split("project:")[0]
    for words in (f"kdse sweep experiments/sweeps/{path.name}", f"wandb sweep experiments/sweeps/{path.name}",
                  "wandb agent ID", "Cost:", "Needs"):  # fmt: skip
        assert words in header, words


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_agent_and_the_local_runner_pass_the_same_flags(path, monkeypatch, tmp_path):
    sweep = read_sweep(path)
    runs = [sweep.arguments(point) for point in some_points(sweep)]
    commands = agent_commands(path, runs, monkeypatch, tmp_path)
    assert len(commands) == len(runs)
    for command, values in zip(commands, runs, strict=True):
        assert command == fill(sweep.command, values)
        own = [word for word in command[2:] if not word.startswith(("--run_root=", "--resume=", "--wandb="))]
        assert fit_flags(sweep.command, values) == own
        assert f"--run_root=runs/sweeps/{path.stem}" in command and "--resume=true" in command


def test_the_agent_goes_on_after_runs_that_were_stopped_early_if_told_as_the_header_says(monkeypatch, tmp_path):
    path = ROOT / "experiments" / "sweeps" / "objective_weight.yaml"
    runs = [{"objectives.gram.weight": float(i)} for i in range(20)]
    codes = [0, *[75] * 19]
    monkeypatch.delenv(FAILURES, raising=False)
    monkeypatch.setattr("wandb.wandb_agent.Agent.FLAPPING_MAX_SECONDS", 0)  # (those were not the first minute)
    given_up = len(agent_commands(path, runs, monkeypatch, tmp_path, codes))
    assert given_up < 20  # (when this fails, W&B has changed, and the header can lose its variable)
    assert f"{FAILURES}=100 wandb agent ID" in path.read_text()
    monkeypatch.setenv(FAILURES, "100")
    assert len(agent_commands(path, runs, monkeypatch, tmp_path, codes)) == 20


@pytest.mark.integration
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_kdse_takes_every_command_line_of_the_agent_and_means_its_values(path, monkeypatch, tmp_path):
    sweep = read_sweep(path)
    points = some_points(sweep)
    commands = agent_commands(path, [sweep.arguments(point) for point in points], monkeypatch, tmp_path)
    for command, point in zip(commands, points, strict=True):
        config = resolved(command)
        for name, value in point.items():
            if name != "config":
                assert at(config, name) == value, (name, command)
        scheduler = config["model"]["init_args"]["lr_scheduler"]["init_args"]
        epochs = config["trainer"]["max_steps"] / config["data"]["init_args"]["steps_per_epoch"]
        assert scheduler["T_max"] == epochs, "the learning rate would not end with the run"


def test_without_a_first_step_nothing_is_distilled():
    from kdse.schedule import TwoStep, phase_starts

    schedule = TwoStep(distil_fraction=0)
    schedule.starts = phase_starts(schedule.phases, total_steps=3000, steps_per_epoch=100)
    assert schedule.weights(0, ["supervised", "gram"]) == {"supervised": 1.0, "gram": 0.0}


def test_the_order_in_which_a_server_sends_values_does_not_matter():
    sweep = read_sweep(ROOT / "experiments" / "sweeps" / "method_x_ratio.yaml")
    methods = [p for p in sweep.grid() if p["model.compression"] == 16][::8]
    for point in methods:
        configs = [resolved(fill(sweep.command, dict(order))) for order in itertools.permutations(point.items())]
        ours = [{key: value for key, value in config.items() if key != "config"} for config in configs]
        assert all(config == ours[0] for config in ours), point
        assert ours[0]["model"]["init_args"]["compression"] == 16


def test_the_agent_writes_awkward_values_as_we_do(monkeypatch, tmp_path):
    values = {"a": [-5, 0], "b": True, "c": {"d": 0.1, "e": ["x"]}, "f": 1e-05, "g": "two words", "h": 0}
    command = ["kdse", "fit", "${args}", "${args_no_hyphens}", "${args_json}", "${args_no_boolean_flags}", "${env}",
               "${args_no_equals}"]  # fmt: skip
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"method": "grid", "command": command, "parameters": {"a": {"value": 1}}}))
    assert agent_commands(path, [values], monkeypatch, tmp_path) == [fill(command, values)]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--data.snr_db=[-5, 0]", [-5.0, 0.0]),
        ("--model.optimizer.lr=1e-05", 1e-05),
        ("--model.balance_gradients=True", True),
    ],
)
def test_kdse_reads_values_as_python_writes_them(flag, value):
    base = ["kdse", "fit", "--config=experiments/two_step/base.yaml", "--config=experiments/two_step/two_step.yaml"]
    assert at(resolved([*base, flag]), flag.split("=")[0].removeprefix("--")) == value


def test_nested_parameters_reach_kdse():
    base = ["kdse", "fit", "--config=experiments/two_step/base.yaml", "--config=experiments/two_step/two_step.yaml"]
    config = resolved([*base, *fill(["${args}"], {"data": {"init_args": {"snr_db": [0, 5]}}})])
    assert at(config, "data.snr_db") == [0, 5] and at(config, "data.batch_size") == 16
