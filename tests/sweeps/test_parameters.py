"""Parameters mean here what they mean to W&B, whose own optimiser's values are in wandb_reference.json."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from kdse.sweeps.parameters import Parameter, read_parameters

REFERENCE = json.loads(Path(__file__).with_name("wandb_reference.json").read_text())


class Quantile:
    """A trial that draws one quantile of everything."""

    def __init__(self, share: float) -> None:
        self.share = share

    def suggest_float(self, name: str, low: float, high: float, log: bool = False) -> float:
        if log:
            return math.exp(math.log(low) + self.share * (math.log(high) - math.log(low)))
        return low + self.share * (high - low)

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return low + math.ceil(self.share * (high - low + 1)) - 1

    def suggest_categorical(self, name: str, choices: list) -> object:
        return choices[int(self.share * len(choices))]


def one(**about) -> Parameter:
    (parameter,) = read_parameters({"x": about})
    return parameter


@pytest.mark.parametrize("case", REFERENCE["draws"], ids=lambda case: case["parameter"]["distribution"])
def test_a_quantile_of_every_distribution_has_the_value_that_wandb_gives_it(case):
    parameter = one(**case["parameter"])
    for share, expected in zip(case["quantiles"], case["values"], strict=True):
        # (an unbounded distribution is cut at a millionth on both sides)
        assert parameter.draw(Quantile(share)) == pytest.approx(expected, rel=2e-4), share


def test_probabilities_are_the_shares_of_draws():
    parameter = one(values=["a", "b", "c"], probabilities=[0.2, 0.0, 0.8])
    drawn = [parameter.draw(Quantile((i + 0.5) / 1000)) for i in range(1000)]
    assert [drawn.count(value) for value in "abc"] == [200, 0, 800]


def test_a_drawn_list_is_the_list_itself_and_numbers_keep_their_type():
    values = [[-5, 0], [0, 5], 3, 3.5, True, "word"]
    parameter = one(values=values)
    drawn = [parameter.draw(Quantile((i + 0.5) / len(values))) for i in range(len(values))]
    assert drawn == values and [type(a) for a in drawn] == [type(a) for a in values]


def test_the_distribution_follows_from_the_keys_as_wandb_has_it():
    assert one(min=1, max=4).distribution == "int_uniform"
    assert one(min=1.0, max=4).distribution == "uniform"
    assert one(value=3).distribution == "constant"
    assert one(values=[3]).distribution == "categorical"


def test_a_grid_lists_whole_numbers_and_quantised_ranges():
    assert one(min=2, max=5).as_listed().listed == [2, 3, 4, 5]
    # numpy.arange(0, 1, 0.25), which is what W&B's grid takes
    assert one(distribution="q_uniform", min=0, max=1, q=0.25).as_listed().listed == [0, 0.25, 0.5, 0.75]
    with pytest.raises(ValueError, match="x: a grid cannot list distribution uniform"):
        one(min=0.0, max=1.0).as_listed()


def test_nested_parameters_keep_their_path():
    found = read_parameters({"schedule": {"parameters": {"distil_fraction": {"values": [0, 1]}}}, "a.b": {"value": 1}})
    assert [(p.path, p.name) for p in found] == [
        (("schedule", "distil_fraction"), "schedule.distil_fraction"),
        (("a.b",), "a.b"),
    ]


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"distribution": "cauchy", "min": 0}, "x: distribution 'cauchy' is unknown; use one of constant"),
        ({"distribution": "normal", "mean": 0}, "x: mean does not go with distribution normal"),
        ({"distribution": "uniform", "min": 0}, "x: distribution uniform needs max"),
        ({"min": 0}, "x: needs value, values, min and max, or distribution"),
        ({"values": []}, "x: values must be a list of one or more"),
        ({"values": [1, 2, 1]}, "x: values has 1 twice"),
        ({"values": [1, None]}, "x: null is written as None by W&B's agent"),
        ({"value": {"a": [None]}}, "x: null is written as None by W&B's agent"),
        ({"values": [1, 2], "probabilities": [0.5, 0.6]}, "x: probabilities must be as many numbers"),
        ({"min": 3, "max": 3}, "x: min 3 must be less than max 3"),
        ({"min": "1", "max": 3, "distribution": "uniform"}, "x: min must be a number, not '1'"),
        ({"min": 0.5, "max": 3, "distribution": "int_uniform"}, "x: int_uniform needs whole numbers"),
        ({"min": 0, "max": 3, "distribution": "log_uniform_values"}, "x: log_uniform_values needs a min above zero"),
        ({"min": 1, "max": 3000, "distribution": "log_uniform"}, "x: min and max of log_uniform are exponents of e"),
        ({"min": 0, "max": 3, "q": 0, "distribution": "q_uniform"}, "x: q must be more than zero"),
        (7, "x: must be a mapping such as"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_is_wrong(about, message):
    with pytest.raises(ValueError) as error:
        read_parameters({"x": about})
    assert str(error.value).startswith(f"parameters: {message}") and "\n" not in str(error.value)
