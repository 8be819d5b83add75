"""Paired activations are checked with an error that helps, or resampled as stated."""

from __future__ import annotations

import logging

import pytest
import torch

from kdse.objectives import shapes
from kdse.objectives.shapes import in_step, require_equal, resample


def test_the_error_names_both_taps_both_shapes_and_the_fix():
    with pytest.raises(ValueError, match=r"objectives.hint.*'a' \[1, 2, 3, 4\].*'b' \[1, 2, 5, 4\].*frames.*pairs"):
        require_equal("hint", ("a", "b"), (1, 2, 3, 4), (1, 2, 5, 4), "btf")
    require_equal("hint", ("a", "b"), (1, 2, 3, 4), (1, 9, 3, 4), "btf")  # channels were not asked for


def test_shrinking_by_a_whole_factor_is_the_mean_of_neighbours():
    x = torch.randn(2, 3, 12, 8)
    torch.testing.assert_close(resample(x, 4, 8), x.unflatten(2, (4, 3)).mean(3))
    torch.testing.assert_close(resample(x, frequencies=2), x.unflatten(3, (2, 4)).mean(4))


@pytest.mark.parametrize("frames", [3, 7, 29])
def test_a_constant_stays_constant_and_a_ramp_keeps_its_mean(frames):
    assert torch.allclose(resample(torch.full((1, 2, 10, 5), 3.0), frames, 9), torch.tensor(3.0))
    ramp = torch.linspace(0, 1, 10)[None, None, :, None]
    assert resample(ramp, frames).mean().item() == pytest.approx(0.5, abs=1e-6)


def test_equal_lengths_change_nothing():
    x = torch.randn(2, 3, 12, 8)
    assert torch.equal(resample(x, 12, 8), x)


def taps(**frames: int) -> dict[str, torch.Tensor]:
    return {name: torch.arange(2.0 * count).reshape(1, 2, count, 1) for name, count in frames.items()}


@pytest.mark.parametrize(
    ("teacher", "student", "kept"),
    [
        ((126, 63), (126, 63), ((126, 63), (126, 63))),
        ((126, 63), (125, 62), ((125, 62), (125, 62))),  # every resolution by itself
        ((125, 63), (126, 62), ((125, 62), (125, 62))),
        ((126, 126), (125, 126), ((126, 126), (125, 126))),  # 126 frames have their partner
        ((126, 63), (124, 60), ((126, 63), (124, 60))),  # more than a partial frame: not ours to explain
    ],
)
def test_a_last_frame_that_only_one_network_has_is_left_out(teacher, student, kept):
    given = [taps(a=frames[0], b=frames[1]) for frames in (teacher, student)]
    for before, after, frames in zip(given, in_step(*given), kept, strict=True):
        for name, count in zip("ab", frames, strict=True):
            assert after[name].shape[2] == count
            assert torch.equal(after[name], before[name][:, :, :count])


def test_that_frames_are_left_out_is_said_once(caplog):
    shapes._report.cache_clear()
    with caplog.at_level(logging.INFO, logger="kdse.objectives.shapes"):
        for _ in range(3):
            in_step(taps(a=12), taps(b=11))
            in_step(taps(a=12), taps(b=12))
    assert [r.getMessage() for r in caplog.records] == [
        "the teacher's activations have one frame more than the other network's: the last is left out"
    ]
