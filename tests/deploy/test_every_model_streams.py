"""Every model that streams gives the whole signal's result, whatever the pieces; the others say that they do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdse.deploy.files import choose_stage
from kdse.models import Cruse, Dccrn, Gtcrn, Manner, SpeechModel, Uformer, UlUnas, UNet, Wrapped
from kdse.models.streaming import Streamer, can_stream
from tests.deploy.export.tiny import networks

CRUSE = {"channels": [2, 4, 6, 8]}
UNET = {"channels": [2, 4, 4], "n_fft": 512}
DCCRN = {"channels": [2, 4, 4], "lstm_units": 4}
MODELS = {
    "cruse": (Cruse, CRUSE),
    "cruse, norm of a frame": (Cruse, {**CRUSE, "norm_over_time": False, "gru_activation": True, "mask_floor": -20.0}),
    "unet": (UNet, UNET),
    "unet, cumulative": (UNet, {**UNET, "norm": "cumulative", "block_type": "plain", "kernel_frames": 3}),
    "unet, gru": (UNet, {**UNET, "gru_groups": 2, "block_type": "separable", "n_fft": 320, "hop": 160, "skips": False}),
    "dccrn": (Dccrn, DCCRN),
    "dccrn, complex": (Dccrn, {**DCCRN, "complex_lstm": True, "complex_norm": True, "mask_mode": "C"}),
    "dccrn, other frames": (Dccrn, {**DCCRN, "hop": 90, "window_samples": 330}),
    "dccrn, causal": (Dccrn, {**DCCRN, "look_ahead": False}),
    "gtcrn": (Gtcrn, {"channels": 4, "hidden": 3}),
    "ul-unas": (UlUnas, {"channels": [2, 4, 4, 2, 4]}),
}


def built(name: str) -> SpeechModel:
    """A model in eval mode whose batch norms have seen something."""
    torch.manual_seed(3)
    cls, settings = MODELS[name]
    model = cls(**settings)
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(2, 4000) + 0.1)
    return model.eval()


def streamed(streamer: Streamer, signal: Tensor, largest: int, seed: int = 0) -> Tensor:
    """``signal`` in random pieces of 0 to ``largest`` samples."""
    generator = torch.Generator().manual_seed(seed)
    outputs, start = [], 0
    while start < signal.shape[1]:
        size = int(torch.randint(0, largest + 1, (1,), generator=generator))
        outputs.append(streamer.push(signal[:, start : start + size]))
        start += size
    return torch.cat([*outputs, streamer.flush()], dim=1)


@pytest.mark.parametrize("name", MODELS)
def test_any_pieces_give_the_whole_signals_result(name):
    model = built(name)
    signal = 0.3 * torch.randn(2, 48_000 + 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(signal).waveform
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(streamed(Streamer(model, 2), signal, 3000), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_the_shortest_signals_are_streamed_exactly_one_after_another(name):
    model = built(name)
    streamer, hop = Streamer(model, 2), model.hop_samples
    for length in (1, hop - 1, hop, hop + 1, 2 * hop, 5 * hop - 1):
        signal = torch.randn(2, length, generator=torch.Generator().manual_seed(length))
        with torch.no_grad():
            whole = model(signal).waveform
        for largest in (hop // 3, 3000):
            torch.testing.assert_close(streamed(streamer, signal, largest), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_blocks_of_hops_give_what_single_hops_give(name):
    model = built(name)
    signal = 0.3 * torch.randn(2, 20 * model.hop_samples + 7, generator=torch.Generator().manual_seed(2))
    single, *blocks = (streamed(Streamer(model, 2, hops), signal, signal.shape[1]) for hops in (1, 2, 5, 64))
    for found in blocks:
        torch.testing.assert_close(found, single, atol=1e-5, rtol=0)


def test_a_model_that_takes_one_hop_gets_no_more():
    class OneHop(Cruse):
        many_hops = False

        def step(self, noisy_hop, state):
            assert noisy_hop.shape[1] == self.hop_samples
            return super().step(noisy_hop, state)

    model, signal = OneHop(**CRUSE).eval(), torch.randn(1, 5000)
    with torch.no_grad():
        torch.testing.assert_close(streamed(Streamer(model), signal, 3000), model(signal).waveform, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_a_sample_comes_out_no_later_than_the_declared_latency(name):
    model = built(name)
    streamer, received, emitted = Streamer(model), 0, 0
    for size in (1, 300, 0, 77, 999, 5, 640, 1200):
        emitted += streamer.push(torch.randn(1, size)).shape[1]
        received += size
        assert emitted >= received - model.latency_samples + 1
    assert emitted > 0


@pytest.mark.parametrize("name", MODELS)
def test_the_past_is_not_touched_by_more_future_than_declared(name):
    """The declared look-ahead is no further than what streaming waits for."""
    model = built(name)
    assert model.lookahead_samples < model.latency_samples
    signal = torch.randn(1, 6000)
    other = signal.clone()
    at = 3000
    other[:, at:] = torch.randn(1, 3000)
    with torch.no_grad():
        difference = (model(signal).waveform - model(other).waveform).abs()[0]
    assert difference[: at - model.lookahead_samples].max() == 0 and difference[at:].max() > 0


REFUSING = {
    "uformer": lambda: Uformer(channels=[2, 2], dilated_layers=1),
    "manner": lambda: Manner(hidden=3, depth=2),
    "wrapped": lambda: Wrapped("torch.nn.Identity", causal=True),
}


@pytest.mark.parametrize("name", REFUSING)
def test_a_model_that_cannot_stream_is_refused_with_its_name(name):
    model = REFUSING[name]()
    assert not can_stream(model)
    with pytest.raises(ValueError, match=f"{type(model).__name__} does not stream"):
        Streamer(model)


def test_every_network_of_kdse_streams_or_refuses_here():
    assert networks() <= {cls for cls, _ in MODELS.values()} | {type(build()) for build in REFUSING.values()}


def test_a_step_does_not_make_a_model_of_unbounded_look_ahead_stream():
    class Liar(Cruse):
        lookahead_samples = Uformer.lookahead_samples

    assert not can_stream(Liar(**CRUSE))
    with pytest.raises(ValueError, match="depends on all that follows"):
        Streamer(Liar(**CRUSE))


def test_a_long_file_through_a_model_with_bounded_look_ahead_is_streamed():
    method, stage = choose_stage(built("dccrn"), seconds=60.0, channels=2, chunk_seconds=30.0, whole_file=False)
    assert method == "streamed" and isinstance(stage, Streamer)
