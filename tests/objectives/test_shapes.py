"""Paired activations are checked with an error that helps, or resampled as stated."""

from __future__ import annotations

import pytest
import torch

from kdse.objectives.shapes import require_equal, resample


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
