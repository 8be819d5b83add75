"""Runs are stopped early exactly where W&B's own code stops them (wandb_reference.json), and by what it documents."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from kdse.sweeps.hyperband import read_early_terminate

CASES = json.loads(Path(__file__).with_name("wandb_reference.json").read_text())["hyperband"]


def test_the_rule_stops_the_runs_that_wandb_stops():
    stopped = 0
    for case in CASES:
        rule = read_early_terminate(case["rule"], case["goal"] == "maximize")
        mine = [i for i, own in enumerate(case["histories"]) if rule.stops(own, case["histories"])]
        assert mine == case["stopped"], case["rule"]
        stopped += len(mine)
    assert stopped > 50  # (the cases say something)


def test_brackets_are_those_of_the_documentation():
    # https://docs.wandb.ai/models/sweeps/sweep-config-keys: max_iter 27, s 2, eta 3 gives 9 and 3
    by_last = read_early_terminate({"type": "hyperband", "max_iter": 27, "s": 2, "eta": 3}, True)
    assert by_last.brackets == (3, 9)
    by_first = read_early_terminate({"type": "hyperband", "min_iter": 3}, True)
    assert by_first.brackets[:4] == (3, 9, 27, 81)


@pytest.mark.parametrize("maximize", [True, False])
def test_the_best_of_those_that_got_to_a_bracket_go_on(maximize):
    draw = random.Random(3)
    histories = [[draw.gauss(0, 1)] * 4 for _ in range(12)]
    rule = read_early_terminate({"type": "hyperband", "min_iter": 4, "eta": 3}, maximize)
    going_on = [own for own in histories if not rule.stops(own, histories)]
    # the threshold itself survives: the best third, and the one behind them
    assert sorted(going_on) == sorted(sorted(histories, reverse=maximize)[:5])


def test_a_run_before_the_first_bracket_and_a_run_alone_go_on():
    rule = read_early_terminate({"type": "hyperband", "min_iter": 3}, True)
    assert not rule.stops([-9.0, -9.0], [[-9.0, -9.0], [5.0] * 9, [6.0] * 9])
    assert not rule.stops([-9.0] * 5, [[-9.0] * 5])


def test_strict_looks_at_the_bracket_and_lenient_at_the_best_so_far():
    others = [[0.0, 0.0, 5.0], [0.0, 0.0, 4.0], [0.0, 0.0, 3.0]]
    own = [9.0, 0.0, 1.0]  # once the best, at the bracket the worst
    strict = {"type": "hyperband", "min_iter": 3}  # by default, in W&B's code though not in its documentation
    assert read_early_terminate(strict, True).stops(own, [own, *others])
    assert not read_early_terminate({**strict, "strict": False}, True).stops(own, [own, *others])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"type": "envelope"}, "type must be hyperband"),
        ({"type": "hyperband"}, "give min_iter, or max_iter and s"),
        ({"type": "hyperband", "max_iter": 27}, "give min_iter, or max_iter and s"),
        ({"type": "hyperband", "min_iter": 3, "s": 2}, "s goes with max_iter"),
        ({"type": "hyperband", "min_iter": 0}, "min_iter must be a number above zero"),
        ({"type": "hyperband", "min_iter": 3, "eta": 1}, "eta must be more than 1"),
        ({"type": "hyperband", "min_iter": 3, "bands": 2}, "bands is unknown"),
        ({"type": "hyperband", "max_iter": 2, "s": 2, "eta": 3}, "less than one iteration"),
        ({"type": "hyperband", "min_iter": 3, "strict": 1}, "strict must be true or false"),
    ],
)
def test_a_wrong_rule_is_named(content, message):
    with pytest.raises(ValueError, match=f"early_terminate: .*{message}"):
        read_early_terminate(content, True)
