"""What `kdse profile` reports is what a closed form gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdse.deploy.cost import count_macs, time_streaming, time_whole
from kdse.models import Cruse, Estimate, SpeechModel, count_parameters


class Layers(SpeechModel):
    """One layer on frames of 16 samples at 1,600 Hz: 100 frames a second."""

    sample_rate_hz, hop_samples = 1600, 16

    def __init__(self, kind: str = "linear") -> None:
        super().__init__()
        self.kind = kind
        self.layer: nn.Module = {
            "linear": lambda: nn.Linear(16, 24),
            "conv": lambda: nn.Conv1d(16, 24, 3, padding=1),
            "grouped conv": lambda: nn.Conv1d(16, 24, 3, padding=2, dilation=2, groups=4),
            "strided conv": lambda: nn.Conv1d(16, 24, 4, stride=2, padding=1),
            "transposed": lambda: nn.ConvTranspose1d(16, 24, 4, stride=2, padding=1),
            "gru": lambda: nn.GRU(16, 24, batch_first=True),
            "deep two-way gru": lambda: nn.GRU(16, 24, num_layers=2, bidirectional=True, batch_first=True),
            "lstm": lambda: nn.LSTM(16, 24, batch_first=True),
            "attention": lambda: nn.MultiheadAttention(16, 2, batch_first=True),
        }[kind]()

    def forward(self, noisy: Tensor) -> Estimate:
        frames = noisy.reshape(noisy.shape[0], -1, 16)
        if "conv" in self.kind or self.kind == "transposed":
            self.layer(frames.transpose(1, 2))
        elif self.kind == "attention":
            self.layer(frames, frames, frames)
        else:
            self.layer(frames)
        return Estimate(noisy)


@pytest.mark.parametrize(
    ("kind", "per_frame"),
    [
        ("linear", 16 * 24),
        ("conv", 16 * 24 * 3),
        ("grouped conv", 4 * (4 * 6 * 3)),
        ("strided conv", 16 * 24 * 4 / 2),
        ("transposed", 16 * 24 * 4),  # at input positions
        ("gru", 3 * (16 * 24 + 24 * 24)),
        ("deep two-way gru", 2 * 3 * (16 * 24 + 24 * 24) + 2 * 3 * (48 * 24 + 24 * 24)),
        ("lstm", 4 * (16 * 24 + 24 * 24)),
    ],
)
def test_macs_of_a_layer_are_its_closed_form(kind, per_frame):
    macs = count_macs(Layers(kind), seconds=0.5)
    assert macs.per_second == 100 * per_frame and macs.linear


def test_attention_over_the_clip_is_reported_as_growing_faster_than_length():
    assert not count_macs(Layers("attention"), seconds=4.0).linear


def test_macs_of_cruse_are_the_sum_over_its_blocks():
    channels, frequencies, groups = [8, 16, 32, 32], [80, 40, 20, 10, 5], 4
    widths = [1, *channels]
    total = 2 * 257 * 80  # mel filters and their way back
    for i in range(4):
        total += 6 * widths[i] * widths[i + 1] * frequencies[i + 1]  # encoder, at output positions
        total += 6 * widths[i] * widths[i + 1] * frequencies[i + 1]  # mirrored decoder, at input positions
        total += widths[i + 1] ** 2 * frequencies[i + 1]  # 1x1 skip
    hidden = channels[-1] * 5 // groups
    total += groups * 6 * hidden**2
    macs = count_macs(Cruse(channels=channels), seconds=1.0)
    assert macs.per_second * 256 / 16000 == pytest.approx(total, rel=1e-9)
    assert any("fft" in name for name in macs.uncounted)


def test_shared_and_frozen_parameters_count_as_they_should():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[1].bias.requires_grad_(False)
    assert (count_parameters(model, trainable_only=True), count_parameters(model)) == (12, 15)


def test_counting_leaves_the_model_and_the_random_stream_alone():
    model = Cruse(channels=[2, 4, 6, 8]).train()
    state, before = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    count_macs(model, 0.2)
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_timings_are_positive_ordered_and_only_for_models_that_stream():
    whole, hops = time_whole(Cruse(channels=[2, 4, 6, 8]), 0.2, runs=2), time_streaming(Cruse(channels=[2, 4, 6, 8]), 3)
    assert 0 < whole.fastest <= whole.real_time_factor <= whole.slowest
    assert hops is not None and 0 < hops.fastest <= hops.slowest
    assert time_streaming(Layers()) is None
