"""GTCRN and UL-UNAS have the published sizes, train everywhere, are tapped where they say, and can be compressed."""

from __future__ import annotations

import pytest
import torch

from kdse.models import Gtcrn, UlUnas
from kdse.models.budget import count_parameters, find_widths
from kdse.models.dual_path_layers import BandGate, ErbBands, band_conv
from kdse.models.ul_unas import AffinePrelu
from kdse.taps import probe, resolve_taps

FAMILIES = (Gtcrn, UlUnas)


@pytest.mark.parametrize(
    ("family", "trained", "published", "counts_filters"),
    [(Gtcrn, 23_669, 23_670, False), (UlUnas, 146_752, 171_000, True)],
)
def test_parameters_are_the_published_of_which_one_counts_the_fixed_band_filters(
    family, trained, published, counts_filters
):
    with torch.device("meta"):
        model = family()
    assert count_parameters(model, trainable_only=True) == count_parameters(model) == trained
    filters = 2 * model.bands.filters.numel()  # (those that merge and those that split)
    assert trained + counts_filters * filters == pytest.approx(published, rel=0.002)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_gets_a_finite_gradient_on_silence_too(family):
    model = family(n_fft=64, hop=32, linear_bins=9, erb_bands=8)
    noisy = torch.cat([torch.zeros(2, 300), 0.1 * torch.randn(2, 700)], dim=1)
    model(noisy).waveform.square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_taps_are_the_blocks_on_their_bands(family):
    model = family().eval()
    shapes = probe(model, resolve_taps(model), 2000)
    channels, last = ([16] * 5, 2) if family is Gtcrn else ([12, 24, 24, 32, 16], 1)
    frames, down = model.stft.frame_count(2000), [65, 33, 33, 33, 33]
    expected = {f"encoder{i}": (1, c, frames, f) for i, (c, f) in enumerate(zip(channels, down, strict=True))}
    expected |= {name: (1, 16, frames, 33) for name in ("dual_path0", "bottleneck")}
    up = zip([*channels[-2::-1], last], [33, 33, 33, 65, 129], strict=True)
    expected |= {f"decoder{i}": (1, c, frames, f) for i, (c, f) in enumerate(up)}
    assert {name: tuple(shape) for name, shape in shapes.items()} == expected
    assert list(shapes) == list(expected)


@pytest.mark.parametrize(("teacher", "ratio"), [(Gtcrn(channels=48), 4), (UlUnas(), 3), (UlUnas(), 6)])
def test_a_teacher_is_compressed_to_about_the_ratio(teacher, ratio):
    budget = find_widths(teacher, ratio)
    assert budget.ratio == pytest.approx(ratio, rel=0.1)
    assert count_parameters(type(teacher)(**budget.init_args)) == budget.parameters


def test_bands_are_triangles_between_their_centres_that_sum_to_one():
    bands = ErbBands(512, 65, 64, 16000)
    assert torch.equal(bands.split(torch.ones(129)), torch.ones(257))
    x = torch.randn(3, 257)
    assert torch.equal(bands.merge(x)[:, :65], x[:, :65])
    for column in bands.filters.t():  # rises in equal steps to one at the centre, and falls so
        peak = int(column.argmax())
        assert column[peak] == 1
        for slope in (column[: peak + 1], column[peak:].flip(0)):
            steps = slope[slope > 0].diff()
            torch.testing.assert_close(steps, steps[:1].expand_as(steps), atol=1e-6, rtol=0)
    bin_hz = 16000 / 512
    erb = 21.4 * torch.log10(1 + 0.00437 * bin_hz * (65 + bands.filters.argmax(0).double()))
    one_bin = erb[1] - erb[0]  # (neighbours, where a bin is most on this scale; each centre is rounded by up to half)
    assert (erb.diff() - (erb[-1] - erb[0]) / 63).abs().max() <= one_bin


def test_a_convolution_of_stride_one_is_the_transposed_one_with_its_kernel_mirrored():
    up = band_conv(4, 4, 3, frames=2, groups=4, up=True, dilation=3)
    transposed = torch.nn.ConvTranspose2d(4, 4, (2, 3), padding=(0, 1), groups=4, dilation=(3, 1))
    with torch.no_grad():
        transposed.weight.copy_(up.conv.weight.flip(2, 3))
        transposed.bias.copy_(up.conv.bias)
    x = torch.randn(2, 4, 9, 7)
    torch.testing.assert_close(up(x), transposed(x)[:, :, :9])


def test_a_gate_of_bands_sees_groups_and_fills_up_the_last_one():
    gate, energy = BandGate(4), torch.rand(2, 3, 10)
    rows = torch.nn.functional.pad(energy, (0, 2))[1, 2].reshape(1, 3, 4)
    wanted = gate.linear(gate.gru(rows)[0]).sigmoid().flatten()[:10]
    torch.testing.assert_close(gate(energy)[1, 2], wanted)


def test_affine_prelu_is_prelu_plus_an_affine_map_of_each_channel_and_band():
    layer = AffinePrelu(2, 3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    x = torch.randn(1, 2, 4, 3)
    for c, t, f in ((0, 0, 0), (1, 3, 2), (1, 1, 0), (0, 2, 1)):
        value = x[0, c, t, f]
        bent = value if value > 0 else layer.slope[c] * value
        wanted = bent + layer.weight[c, 0, f] * value + layer.bias[c, 0, f]
        torch.testing.assert_close(layer(x)[0, c, t, f], wanted)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Gtcrn(channels=6), "channels=6: must be a multiple of 4"),
        (lambda: UlUnas(channels=[12, 24, 24, 32, 18]), "channels=.*last one a multiple of 4"),
        (lambda: UlUnas(channels=[12, 23, 24, 32, 16]), "channels=.*five even widths"),
        (lambda: Gtcrn(erb_bands=63), "linear_bins=65, erb_bands=63: together"),
        (lambda: Gtcrn(linear_bins=201, erb_bands=64), "erb_bands=64: too many for the 257 bins"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(build, named):
    with pytest.raises(ValueError, match=named):
        build()
