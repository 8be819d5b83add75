"""A compression ratio becomes a student of the teacher's family, whatever the family."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdse.models import Cruse, Estimate, SpeechModel, compress, count_parameters
from kdse.models.budget import find_widths


class Dense(SpeechModel):
    """A family with one integer and one list as widths, and nothing else in common with CRUSE."""

    width_parameters = ("hidden", "stages")

    def __init__(self, hidden: int = 64, stages: list[int] = [32, 16], bias: bool = True) -> None:  # noqa: B006
        super().__init__()
        sizes = [16, hidden, *stages, 16]
        self.layers = nn.Sequential(*(nn.Linear(a, b, bias=bias) for a, b in zip(sizes, sizes[1:], strict=False)))

    def forward(self, noisy: Tensor) -> Estimate:
        return Estimate(noisy)

    @classmethod
    def widths_allowed(cls, widths: dict[str, Any], init_args: dict[str, Any]) -> bool:
        return widths["hidden"] % 2 == 0


class Fixed(SpeechModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("ratio", "channels", "parameters", "reached"),
    [(30, [8, 16, 32, 32], 62_313, 29.96), (63, [4, 8, 16, 24], 30_101, 62.03)],
)
def test_the_papers_ratios_give_the_papers_students(ratio, channels, parameters, reached):
    budget = find_widths(Cruse(), ratio)
    assert budget.source == "preset" and budget.init_args["channels"] == channels
    assert budget.parameters == parameters and budget.ratio == pytest.approx(reached, abs=0.005)


@pytest.mark.parametrize("ratio", [1, 2, 5, 20])
@pytest.mark.parametrize("teacher", [Cruse(channels=[8, 16, 24, 32]), Dense(96, [48, 32])], ids=["cruse", "dense"])
def test_other_ratios_are_searched_to_within_five_percent(teacher, ratio):
    budget = find_widths(teacher, ratio, tolerance=0.0)
    assert budget.source == "search" and budget.ratio == pytest.approx(ratio, rel=0.05)
    assert budget.parameters == count_parameters(type(teacher)(**budget.init_args))


def test_the_other_arguments_of_the_teacher_are_kept():
    assert find_widths(Dense(96, [48, 32], bias=False), 4).init_args["bias"] is False
    assert find_widths(Cruse(compression=0.5), 63).init_args["compression"] == 0.5


def test_the_log_says_which_was_found_and_how(caplog):
    with caplog.at_level(logging.INFO):
        student = compress(Cruse(), 63)()
        compress(Dense(96, [48, 32]), 4)
    preset, search = (record.getMessage() for record in caplog.records)
    assert "[4, 8, 16, 24]" in preset and "62.03" in preset and "preset" in preset
    assert "search" in search and "hidden=" in search
    assert count_parameters(student) == 30_101


@pytest.mark.parametrize("ratio", [0.5, 0, -3, float("nan")])
def test_a_ratio_below_one_is_refused(ratio):
    with pytest.raises(ValueError, match="--model.compression"):
        find_widths(Dense(), ratio)


def test_an_impossible_ratio_states_the_possible_range():
    with pytest.raises(ValueError, match=r"possible range is 1 to \d+\.\d"):
        find_widths(Dense(), 5000)


def test_a_family_without_widths_is_told_what_to_do():
    with pytest.raises(ValueError, match="--model.student"):
        find_widths(Fixed(), 2)


def test_searching_leaves_the_random_stream_alone():
    teacher = Cruse(channels=[8, 16, 24, 32])
    before = torch.get_rng_state()
    find_widths(teacher, 3, tolerance=0.0)
    assert torch.equal(before, torch.get_rng_state())
