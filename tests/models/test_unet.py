"""The UNet is causal, streams, returns its input under a mask of ones, and offers every kind of mismatch."""

from __future__ import annotations

import pytest
import torch

from kdse.models import count_parameters
from kdse.models.budget import find_widths
from kdse.models.checkpoint import describe
from kdse.models.inverted_bottleneck import InvertedBottleneck, SeparableBlock
from kdse.models.layers import BandConv
from kdse.models.unet import UNet
from kdse.taps import TapRecorder, probe, resolve_taps

TINY = [2, 4, 6]

CHOICES = [
    {"block_type": "separable"},
    {"block_type": "plain"},
    {"norm": "cumulative"},
    {"block_type": "plain", "norm": "cumulative", "kernel_frames": 3},
    {"gru_groups": 4},
    {"latent_channels": 3},
    {"channels": [2, 4, 4, 4, 4, 4, 4, 3]},
    {"channels": [4]},
    {"expansion": 1},
    {"kernel_frames": 1},
    {"activation": "silu"},
    {"skips": False},
    {"compression": 0.5},
    {"window": "hann"},
    {"n_fft": 320, "hop": 160},
    {"n_fft": 512, "hop": 100},
]


def make(**arguments) -> UNet:
    """In eval mode, with batch statistics that are neither 0 nor 1, as after training."""
    torch.manual_seed(0)
    model = UNet(**{"channels": TINY, **arguments})
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.1, 0.5)
    return model.eval()


def set_mask(model: UNet, logit: float) -> None:
    torch.nn.init.zeros_(model.decoder[-1].project.weight)
    torch.nn.init.constant_(model.decoder[-1].project.bias, logit)


@pytest.mark.parametrize("choice", [{}, {"channels": [4, 3, 2, 2, 2, 2, 2, 2]}, {"n_fft": 320, "hop": 100}], ids=str)
def test_an_all_ones_mask_returns_the_input(choice):
    model = make(**choice)
    set_mask(model, 50.0)  # sigmoid(50) is 1 in float32
    noisy = torch.randn(2, 5001)
    estimate = model(noisy)
    assert torch.all(estimate.mask == 1)
    torch.testing.assert_close(estimate.waveform, noisy, atol=1e-5, rtol=0)


def test_every_bin_gets_its_own_band_and_the_topmost_its_neighbours():
    logits = torch.randn(2, 1, 5, 256)
    gain = make().bin_gain(logits)
    assert gain.shape == (2, 257, 5)
    torch.testing.assert_close(gain[:, :256], torch.sigmoid(logits[:, 0]).transpose(1, 2))
    assert torch.equal(gain[:, 256], gain[:, 255])


def test_features_are_the_compressed_magnitudes_below_the_topmost_bin():
    spectrum = torch.randn(2, 257, 4, dtype=torch.complex64)
    expected = spectrum[:, :256].abs().pow(0.3).transpose(1, 2)[:, None]
    torch.testing.assert_close(make().features(spectrum), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("choice", [{}, *CHOICES], ids=str)
def test_streaming_hop_by_hop_equals_the_offline_result(choice):
    model = make(**choice)
    hop = model.hop_samples
    noisy = torch.randn(2, hop * 20)
    extra = -(-(model.latency_samples - hop) // hop) * hop
    state, hops = model.initial_state(2), []
    with torch.no_grad():
        offline = model(noisy).waveform
        for part in torch.cat([noisy, torch.zeros(2, extra)], dim=1).split(hop, dim=1):
            out, state = model.step(part, state)
            hops.append(out)
    late = model.latency_samples - hop
    streamed = torch.cat(hops, dim=1)[:, late : late + noisy.shape[1]]
    torch.testing.assert_close(streamed, offline, atol=2e-6, rtol=0)


def test_a_hop_leaves_the_state_it_was_given_as_it_was():
    model = make(gru_groups=4, norm="cumulative")
    before = model.step(torch.randn(1, 256), model.initial_state(1))[1]
    copies = {name: value.clone() for name, value in before.items()}
    after = model.step(torch.randn(1, 256), before)[1]
    assert set(after) == set(before) == set(model.initial_state(1))
    assert all(torch.equal(before[name], copies[name]) for name in before)
    assert all(value.shape[0] == 1 for value in after.values())


@pytest.mark.parametrize("choice", [{}, {"n_fft": 320, "hop": 160}], ids=str)
def test_no_output_sample_depends_on_input_more_than_the_declared_look_ahead(choice):
    """By gradients; the last samples of a hop reach least far, its first furthest."""
    model = make(**choice)
    noisy = torch.randn(1, 4096, requires_grad=True)
    furthest = []
    for n in range(1500, 1500 + model.hop_samples, 17):
        (grad,) = torch.autograd.grad(model(noisy).waveform[0, n], noisy)
        furthest.append(int(grad[0].abs().nonzero().max()) - n)
    assert model.lookahead_samples - 17 <= max(furthest) <= model.lookahead_samples == model.latency_samples - 1


@pytest.mark.parametrize("choice", [{}, *CHOICES[:6]], ids=str)
def test_no_frame_depends_on_a_later_frame(choice):
    """With an activation that never saturates, so that a gradient of zero means that there is no path."""
    model = make(**{"activation": "silu", **choice})
    features = torch.rand(1, 1, 9, 256, requires_grad=True)
    for t in range(9):
        (grad,) = torch.autograd.grad(model.mask_logits(features)[0, 0, t].sum(), features)
        assert torch.all(grad[0, 0, t + 1 :] == 0) and torch.any(grad[0, 0, t] != 0)


@pytest.mark.parametrize(("frames", "skips"), [(2, True), (2, False), (3, True)])
def test_the_network_sees_as_many_past_frames_as_the_docstring_says(frames, skips):
    model = make(kernel_frames=frames, skips=skips, activation="silu")
    features = torch.rand(1, 1, 20, 256, requires_grad=True)
    (grad,) = torch.autograd.grad(model.mask_logits(features)[0, 0, 19].sum(), features)
    first = int(grad[0, 0].abs().sum(-1).nonzero().min())
    assert 19 - first == 2 * len(TINY) * (frames - 1)


@pytest.mark.parametrize("up", [False, True])
def test_the_causal_convolution_agrees_with_a_float64_loop(up):
    conv = BandConv(2, 2, up, frames=3, groups=2, bias=False).double()
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64)
    y = torch.zeros(1, 2, 5, 8 if up else 2, dtype=torch.float64)
    for c in range(2):
        for t in range(5):
            for k in range(min(3, t + 1)):  # frames back
                for f in range(4):
                    for j in range(3):
                        weight = conv.conv.weight[c, 0, k if up else 2 - k, j]
                        out, odd = (2 * f + j - 1, 0) if up else divmod(f - j + 1, 2)
                        if odd == 0 and 0 <= out < y.shape[3]:
                            y[0, c, t, out] += weight * x[0, c, t - k, f]
    torch.testing.assert_close(conv(x), y, atol=1e-12, rtol=1e-12)


def test_an_inverted_bottleneck_is_its_stages_written_out():
    """Expansion and projection as matrix products, norms by their closed form, no activation at the end."""
    torch.manual_seed(1)
    block = InvertedBottleneck(3, 5, up=False, expansion=4).double()
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)

    def normed(y: torch.Tensor) -> torch.Tensor:
        mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), keepdim=True, unbiased=False)
        return (y - mean) / (var + 1e-5).sqrt()

    wide = normed(torch.einsum("hc,bctf->bhtf", block.expand.weight[:, :, 0, 0], x)).clamp(0, 6)
    assert wide.shape[1] == 20  # four times the wider side
    deep = normed(block.depthwise(wide)).clamp(0, 6)
    expected = normed(torch.einsum("oh,bhtf->botf", block.project.weight[:, :, 0, 0], deep))
    torch.testing.assert_close(block(x), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("channels_in", "hidden"), [(1, 5), (3, 3)])
def test_a_separable_block_spreads_a_single_channel_before_it_mixes(channels_in, hidden):
    """Parameters by hand: depthwise filters of 2 x 3 and their norm, 1x1 and its norm."""
    block = SeparableBlock(channels_in, 5, up=False)
    assert count_parameters(block) == 6 * hidden + 2 * hidden + 5 * hidden + 2 * 5
    assert block(torch.randn(2, channels_in, 4, 8)).shape == (2, 5, 4, 4)


def expected_parameters(channels: list[int], expansion: int) -> int:
    """Inverted bottlenecks with batch norm and skips, counted by hand."""
    total = sum(c * c + c for c in channels[:-1])
    for a, b in zip([1, *channels[:-1]], channels, strict=True):
        hidden = expansion * max(a, b)
        for into, out in ((a, b), (b, a)):
            total += into * hidden + 2 * hidden + 6 * hidden + 2 * hidden + hidden * out + 2 * out
    return total - 2 + 1  # the mask's projection has a bias and no norm


def test_parameters_are_counted_by_hand_and_low():
    assert count_parameters(make(expansion=3)) == expected_parameters(TINY, 3)
    assert count_parameters(UNet()) == expected_parameters([16, 32, 48, 64, 64], 4) == 194_593
    assert "194,593" in UNet.__doc__


@pytest.mark.parametrize("block_type", ["inverted", "separable", "plain"])
@pytest.mark.parametrize("norm", ["batch", "cumulative"])
def test_the_latent_is_linear_and_takes_both_signs(block_type, norm):
    model = make(block_type=block_type, norm=norm, latent_channels=5).train()
    with TapRecorder(model, model.taps()) as recorder:
        model(torch.randn(2, 4000))
    latent = recorder.activations()["bottleneck"]
    assert latent.shape[1] == 5 and latent.min() < -0.5 and latent.max() > 0.5


def test_taps_name_every_block_once_and_the_latent_as_bottleneck():
    model = make(gru_groups=4, latent_channels=5, channels=[2, 4, 6, 8])
    shapes = probe(model, resolve_taps(model), 16000)
    names = ["encoder0", "encoder1", "encoder2", "bottleneck", "recurrent", "decoder0", "decoder1", "decoder2"]
    assert list(shapes) == [*names, "decoder3"]
    assert [s[1] for s in shapes.values()] == [2, 4, 6, 5, 5, 6, 4, 2, 1]
    assert [s[3] for s in shapes.values()] == [128, 64, 32, 16, 16, 32, 64, 128, 256]
    assert [n for n, tap in model.taps().items() if tap.group == "bottleneck"] == ["bottleneck"]
    assert len({tap.path for tap in model.taps().values()}) == len(model.taps())


@pytest.mark.parametrize("arguments", [{}, {"gru_groups": 4}, {"block_type": "plain"}], ids=str)
@pytest.mark.parametrize("ratio", [1, 4, 20])
def test_compression_finds_a_student_of_the_family(arguments, ratio):
    teacher = UNet(channels=[16, 24, 32], **arguments)
    budget = find_widths(teacher, ratio)
    assert budget.ratio == pytest.approx(ratio, rel=0.05)
    assert count_parameters(UNet(**budget.init_args)) == budget.parameters


def test_compression_leaves_an_explicit_latent_as_it_is():
    budget = find_widths(UNet(channels=[16, 24, 32], latent_channels=16), 5)
    student = UNet(**budget.init_args)
    assert probe(student, student.taps())["bottleneck"][1] == 16 and budget.ratio == pytest.approx(5, rel=0.05)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_each_choice_changes_the_result(choice):
    noisy = torch.randn(1, 4000, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(make()(noisy).waveform, make(**choice)(noisy).waveform, atol=1e-6)


@pytest.mark.parametrize("length", [1, 255, 256, 257, 511, 4001])
@pytest.mark.parametrize("training", [False, True])
def test_any_length_keeps_its_length(length, training):
    estimate = make(channels=[2] * 8).train(training)(torch.randn(1, length))
    assert estimate.waveform.shape == (1, length) and torch.isfinite(estimate.waveform).all()
    assert estimate.spectrum.shape == estimate.mask.shape == (1, 257, -(-length // 256) + 1)


def test_items_of_a_batch_do_not_mix():
    model, noisy = make(gru_groups=4), torch.randn(3, 3000)
    alone = torch.cat([model(item[None]).waveform for item in noisy])
    torch.testing.assert_close(model(noisy).waveform, alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("choice", [{}, *CHOICES[:5]], ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_silence_gives_silence_and_finite_gradients(choice, training):
    model = make(**choice).train(training)
    noisy = torch.zeros(2, 3000, requires_grad=True)
    with TapRecorder(model, model.taps()) as recorder:
        wave = model(noisy).waveform
    (wave.square().sum() + sum(x.square().sum() for x in recorder.activations().values())).backward()
    assert torch.all(wave == 0)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in [noisy, *model.parameters()])


def test_autocast_leaves_the_spectrum_in_float32():
    model, noisy = make(), torch.randn(1, 4000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        estimate = model(noisy)
    assert estimate.waveform.dtype == estimate.mask.dtype == torch.float32
    torch.testing.assert_close(estimate.waveform, model(noisy).waveform, atol=0.1, rtol=0)


def test_a_checkpoint_can_describe_it():
    about = describe(UNet(channels=TINY, latent_channels=3))["model"]
    assert about["init_args"]["latent_channels"] == 3 and about["class_path"] == "kdse.models.UNet"


@pytest.mark.parametrize(
    "bad",
    [{"channels": []}, {"channels": [2, 0]}, {"channels": [1] * 9}, {"latent_channels": 0}, {"block_type": "dense"},
     {"norm": "group"}, {"activation": "tanh"}, {"expansion": 0}, {"kernel_frames": 0}, {"gru_groups": -1},
     {"gru_groups": 7, "channels": TINY}, {"compression": 0.0}, {"window": "box"}, {"n_fft": 510}, {"hop": 300}],
    ids=str,
)  # fmt: skip
def test_an_impossible_setting_is_named(bad):
    with pytest.raises(ValueError, match="|".join(bad)):
        UNet(**bad)
