"""Audio in pieces: streaming and resampling equal one pass, cross-fading sums to one."""

from __future__ import annotations

import pytest
import torch
from scipy.signal import resample_poly
from torch import Tensor

from kdse.audio.resampling import ResampleStream
from kdse.deploy.chunks import CrossFade, WholeSignal
from kdse.models import Cruse, Estimate, SpeechModel
from kdse.models.streaming import Streamer, can_stream


class Half(SpeechModel):
    def forward(self, noisy: Tensor) -> Estimate:
        return Estimate(0.5 * noisy)


class Counting(SpeechModel):
    """Its n-th call returns n everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, noisy: Tensor) -> Estimate:
        self.calls += 1
        return Estimate(torch.full_like(noisy, self.calls))


def in_pieces(stage, signal: Tensor, sizes: list[int]) -> Tensor:
    outputs, start = [], 0
    for size in sizes:
        outputs.append(stage.push(signal[:, start : start + size]))
        start += size
    outputs += [stage.push(signal[:, start:]), stage.flush()]
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("length", [1, 255, 256, 700, 5000])
@pytest.mark.parametrize("sizes", [[], [1, 2, 3], [256, 256], [400, 33, 7]], ids=str)
def test_streaming_in_any_pieces_equals_one_pass(length, sizes):
    torch.manual_seed(0)
    model = Cruse(channels=[2, 4, 6, 8]).eval()
    signal = torch.randn(2, length)
    with torch.no_grad():
        expected = model(signal).waveform
    torch.testing.assert_close(in_pieces(Streamer(model, 2), signal, sizes), expected, atol=2e-6, rtol=0)


def test_streaming_does_not_drift_from_one_pass():
    torch.manual_seed(0)
    model, signal = Cruse(channels=[2, 4, 6, 8]).eval(), torch.randn(1, 20 * 16000)
    with torch.no_grad():
        expected = model(signal).waveform
    streamed = in_pieces(Streamer(model), signal, [50001] * 6)
    torch.testing.assert_close(streamed[:, -16000:], expected[:, -16000:], atol=5e-6, rtol=0)


def test_a_flushed_streamer_starts_anew():
    model, signal = Cruse(channels=[2, 4, 6, 8]).eval(), torch.randn(1, 900)
    streamer = Streamer(model)
    first = in_pieces(streamer, signal, [])
    assert torch.equal(in_pieces(streamer, signal, []), first)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_spoiled_sample_is_refused_before_it_reaches_the_state(bad):
    streamer = Streamer(Cruse(channels=[2, 4, 6, 8]))
    with pytest.raises(ValueError, match="NaN or infinite"):
        streamer.push(torch.full((1, 300), bad))


def test_a_model_that_does_not_stream_says_so():
    assert can_stream(Cruse(channels=[2, 4, 6, 8])) and not can_stream(Half())
    with pytest.raises(ValueError, match="Half does not stream"):
        Streamer(Half())


@pytest.mark.parametrize("length", [1, 99, 100, 101, 180, 181, 777])
@pytest.mark.parametrize("sizes", [[], [50, 3, 120]], ids=str)
def test_cross_fading_weights_sum_to_one_everywhere(length, sizes):
    signal = torch.randn(1, length)
    joined = in_pieces(CrossFade(Half(), 100, 20), signal, sizes)
    torch.testing.assert_close(joined, 0.5 * signal, atol=1e-6, rtol=0)


def test_neighbouring_chunks_fade_linearly_and_are_untouched_elsewhere():
    joined = in_pieces(CrossFade(Counting(), 100, 20), torch.zeros(1, 230), [])[0]
    rise = (torch.arange(20) + 0.5) / 20
    # chunks start at 0 and 80; the last one, from 160 on, reaches back to be as long as the others
    expected = [torch.ones(80), 1 + rise, torch.full((60,), 2.0), 2 + rise, torch.full((50,), 3.0)]
    torch.testing.assert_close(joined, torch.cat(expected))


def test_a_signal_that_fits_one_chunk_is_run_whole():
    model, signal = Cruse(channels=[2, 4, 6, 8]).eval(), torch.randn(1, 2000)
    assert torch.equal(
        in_pieces(CrossFade(model, 2000, 200), signal, [700]), in_pieces(WholeSignal(model), signal, [9])
    )


def test_an_overlap_of_more_than_half_a_chunk_is_refused():
    with pytest.raises(ValueError, match="overlap"):
        CrossFade(Half(), 100, 51)


@pytest.mark.parametrize(
    ("rate", "new_rate"), [(48000, 16000), (44100, 16000), (44101, 16000), (8000, 16000), (16000, 16000)]
)
@pytest.mark.parametrize("sizes", [[], [1000, 7, 2500]], ids=str)
def test_resampling_in_pieces_equals_resampling_at_once(rate, new_rate, sizes):
    signal = torch.randn(2, 9001)
    expected = torch.from_numpy(resample_poly(signal.numpy(), new_rate, rate, axis=1))
    out = in_pieces(ResampleStream(rate, new_rate, 2), signal, sizes)
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=0)
