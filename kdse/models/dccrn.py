"""DCCRN (Hu et al., Interspeech 2020, arXiv 2008.00264), also in the size of Distil-DCCRN (arXiv 2408.04267).

Architecture and numbers follow the authors' published code where paper and code differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdse.errors import UserError, require_at_least, require_one_of
from kdse.models.base import Estimate, Tap
from kdse.models.complex_layers import ComplexBatchNorm, ComplexConv, ComplexLstm, RealLstm, concatenate
from kdse.models.layers import CausalConv, NextFrames, State, whole
from kdse.models.spectral import SpectralModel, block_taps
from kdse.models.stft import Stft
from kdse.precision import exact


class ComplexBlock(CausalConv):
    """Complex convolution, norm, PReLU with one slope, on ``[B, C, T, F]``; as many frames out as in.

    An encoder block puts one zero frame before the first, so frame t sees frames t - 1 and t. A decoder block's
    transposed convolution gives T + 1 frames, of which one end is dropped: without the first (``look_ahead``), frame t
    sees t and t + 1 (behind the last frame stands a zero one); without the last, it sees t - 1 and t. Either way frame
    t of the output belongs to frame t of the input. The published code drops the frame after norm and PReLU; we do so
    before the norm, which differs only in one frame's share of the batch statistics.

    Args:
        channels_in, channels_out: real and imaginary parts together.
        up: a decoder block.
        look_ahead: see above.
        complex_norm: complex batch norm instead of a plain one.
        last: neither norm nor activation.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        up: bool = False,
        look_ahead: bool = False,
        complex_norm: bool = False,
        last: bool = False,
    ) -> None:
        super().__init__(ComplexConv(channels_in, channels_out, up), channels_in, up)
        self.look_ahead = look_ahead
        norm = ComplexBatchNorm if complex_norm else nn.BatchNorm2d
        self.norm: nn.Module = nn.Identity() if last else norm(channels_out)
        self.activation: nn.Module = nn.Identity() if last else nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)[:, :, 1:] if self.up and self.look_ahead else super().forward(x)
        return self.activation(self.norm(y))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Frames ``[B, C, T, F]``, in eval mode; with look-ahead what comes out belongs to the frame before each.

        The two kinds of decoder block compute the same from two neighbouring frames and differ in which of them the
        result is for.
        """
        y, new = super().step(x, state)
        return self.activation(self.norm(y)), new


class Dccrn(SpectralModel):
    """Deep complex convolution recurrent network: a complex U-Net around an LSTM predicts a complex ratio mask.

    STFT (Hann window of 25 ms, hop 6.25 ms, 512 points) -> real and imaginary part of bins 1 to 256 as two channels
    -> complex encoder, halving the frequencies -> LSTM over all channels and frequencies -> complex decoder, each
    block fed with the one before and the encoder's -> mask -> inverse STFT. Bin 0 is always removed.

    Synthesis differs from the published code's, which multiplies by the pseudo-inverse of the one-sided analysis: its
    frame before the window is ours, x, plus ``(X_0 - sum x) / 912 + (-1)^n (X_256 - sum (-1)^n x) / 912`` with X the
    masked spectrum and 912 = transform + window length. That is not zero, since both remove bin 0. On speech it lies
    at -44 to -53 dB, nearly all of it below 100 Hz, and changes SI-SDR by at most 0.05 dB.

    Trainable parameters: 3,742,349 for the defaults (DCCRN-E, -C, -R); 3,671,053 for channels
    [32,64,128,256,256,256] with ``complex_lstm=True`` (DCCRN-CL); 1,109,645 for [32,64,128,128,128,128] with
    ``lstm_units=64`` (Distil-DCCRN: our fit to 1.1 M, a third party's figure for the paper's 30 %; its own widths are
    unknown to us).

    Time: frame t ends with sample ``(t + 1) hop - 1``, as many zeros before the signal as in the published code
    (window - hop), and on the right frames go on until every sample is covered by as many as any other (the published
    code drops the samples behind its last whole hop). Each block keeps the frame count (see `ComplexBlock`), so the
    output is aligned with the input, without delay: a look-ahead is a dependence on later input, not a shift. With
    the published look-ahead output n sees input up to ``n + window - 2 + blocks * hop`` (998 samples, 62.4 ms, of
    which 37.5 ms are the six decoder blocks'), else ``n + window - 2`` (398); the Hann window's first value is zero.

    Both variants stream in eval mode (batch norm), equal to the whole signal. With look-ahead each decoder block
    gives frame t once it has seen t + 1, so the mask of a frame is complete as many frames later as there are blocks:
    ``latency_samples`` is ``window + blocks * hop`` (1000 samples, 62.5 ms, for the published six), and delay lines
    hold back the encoder's outputs (block i takes those of i frames ago) and the spectrum until their turn. Behind
    the last frame each block sees a zero one, which is not what silence gives; so the state has the entry `ended`
    (see `SpeechModel.initial_state`), and the frames behind the end are zeroed where they enter a block.

    Args:
        channels: widths of the encoder blocks, real and imaginary parts together as in the published code: a block
            has half as many complex channels, rounded up. The decoder mirrors them. The paper's text gives
            [32,64,128,128,256,256] for -E, -C, -R, which has 4.0 M parameters; the default is the code's, 3.7 M.
        lstm_units: units of each LSTM layer; with `complex_lstm` both its LSTMs together, half each, rounded up.
        lstm_layers: LSTM layers.
        complex_lstm: complex LSTMs (DCCRN-CL) instead of a real one.
        mask_mode: how mask M meets spectrum Y. "E": ``|Y| tanh|M|`` with M's phase added; "C": the complex product;
            "R": real and imaginary parts apart.
        complex_norm: complex batch norm, as the paper describes; the published code's default is the plain one.
        look_ahead: each decoder block sees one frame ahead, as published; False is strictly causal, our variant.
        n_fft: points of the Fourier transform; half of it must divide by 2 once for each block.
        hop: samples between frames.
        window_samples: length of the window, which is followed by zeros up to `n_fft`.
        window: "hann" as published, or "sqrt_hann". Synthesis uses the dual window.
        clip: limit the waveform to [-1, 1], as the published code does.
        sample_rate_hz: 16000 in the paper.
    """

    width_parameters = ("channels", "lstm_units")

    def __init__(
        self,
        channels: list[int] = [16, 32, 64, 128, 256, 256],  # noqa: B006 (jsonargparse shows it in --help)
        lstm_units: int = 256,
        lstm_layers: int = 2,
        complex_lstm: bool = False,
        mask_mode: str = "E",
        complex_norm: bool = False,
        look_ahead: bool = True,
        n_fft: int = 512,
        hop: int = 100,
        window_samples: int = 400,
        window: str = "hann",
        clip: bool = True,
        sample_rate_hz: int = 16000,
    ) -> None:
        super().__init__()
        if not channels or any(c < 1 for c in channels):
            raise UserError(f"channels={channels}: give at least one block, each at least one channel wide")
        require_at_least(1, lstm_units=lstm_units, lstm_layers=lstm_layers)
        require_one_of("mask_mode", mask_mode, "E", "C", "R")
        if not _halves(n_fft, len(channels)):
            raise UserError(
                f"channels={channels}, n_fft={n_fft}: {len(channels)} blocks halve n_fft / 2 bins, so n_fft must be a "
                f"multiple of {2 ** (len(channels) + 1)}"
            )
        self.stft = Stft(n_fft, hop, window, window_samples)
        self.mask_mode, self.clip = mask_mode, clip
        self.sample_rate_hz, self.hop_samples, self.causal = sample_rate_hz, hop, not look_ahead
        ahead = len(channels) * hop if look_ahead else 0
        self.latency_samples = window_samples + ahead
        self.lookahead_samples = window_samples - 2 + ahead  # a frame's first sample has zero weight
        widths = [2, *(c + c % 2 for c in channels)]
        self.encoder = nn.ModuleList(ComplexBlock(a, b, complex_norm=complex_norm) for a, b in pairwise(widths))
        frequencies = n_fft // 2 ** (len(channels) + 1)
        units = lstm_units + lstm_units % 2 if complex_lstm else lstm_units
        lstm = ComplexLstm if complex_lstm else RealLstm
        self.bottleneck = lstm(widths[-1], frequencies, units, lstm_layers)
        down = list(reversed(widths))
        self.decoder = nn.ModuleList(
            ComplexBlock(2 * a, b, True, look_ahead, complex_norm, last=i == len(channels) - 1)
            for i, (a, b) in enumerate(pairwise(down))
        )
        self._delays = [_Delay(width, i) for i, width in enumerate(down[:-1])]  # of what the decoder blocks join

    def forward(self, noisy: Tensor) -> Estimate:
        """Enhances ``[B, N]``; the mask is ``[B, 2, T, F]``, real and imaginary part as applied (zero in bin 0)."""
        spectrum = self.stft(noisy)
        mask = self.gain(self.predict(self.features(spectrum)))
        enhanced = self.apply_mask(spectrum, mask)
        return Estimate(self._limit(self.stft.inverse(enhanced, noisy.shape[-1])), enhanced, mask)

    def features(self, spectrum: Tensor) -> Tensor:
        """Complex spectrum ``[B, F, T]`` to its real and imaginary part without bin 0, ``[B, 2, T, F - 1]``."""
        return torch.stack([spectrum.real, spectrum.imag], dim=1)[:, :, 1:].transpose(2, 3)

    def predict(self, features: Tensor, run: Callable[[str, Any, Tensor], Tensor] = whole) -> Tensor:
        """Features ``[B, 2, T, F - 1]`` to the decoder's output ``[B, 2, T, F - 1]``."""
        outputs = self.encode(features, run)
        x = run("bottleneck", self.bottleneck, outputs[-1])
        late = None if self.causal or not isinstance(run, NextFrames) else run
        for i, (block, encoded) in enumerate(zip(self.decoder, reversed(outputs), strict=True)):
            if i and late is not None:
                encoded = late(f"decoder{i}", self._delays[i], encoded)
            x = concatenate(x, encoded)
            x = run(f"decoder{i}", block, x if late is None else x * self._is_inside(i, late.state))
        return x

    def gain(self, predicted: Tensor) -> Tensor:
        """Decoder output to the mask that is applied, ``[B, 2, T, F]``: bounded in mode E, bin 0 zero."""
        mask = F.pad(exact(predicted), (1, 0))
        if self.mask_mode != "E":
            return mask
        # M tanh|M| / |M|: modulus and phase of mode E without an arctangent, so that M = 0 has a gradient
        modulus = (mask.square().sum(1, keepdim=True) + 1e-12).sqrt()
        return mask * (modulus.tanh() / modulus)

    def apply_mask(self, spectrum: Tensor, mask: Tensor) -> Tensor:
        """Complex spectrum ``[B, F, T]`` under a mask ``[B, 2, T, F]``."""
        real, imaginary = mask.transpose(2, 3).unbind(1)
        if self.mask_mode == "R":
            return self.stft.join(real * spectrum.real, imaginary * spectrum.imag)
        return self.stft.join(real, imaginary) * spectrum

    def _limit(self, wave: Tensor) -> Tensor:
        return wave.clamp(-1, 1) if self.clip else wave

    def taps(self) -> dict[str, Tap]:
        """All blocks after their activation, and the LSTM after its linear layer; the last decoder block's is the
        mask before tanh. Channels are real parts, then imaginary parts."""
        count = len(self.encoder)
        bottleneck = {"bottleneck": Tap("bottleneck", group="bottleneck")}
        return block_taps("encoder", count) | bottleneck | block_taps("decoder", count)

    @classmethod
    def presets(cls) -> list[dict[str, Any]]:
        """DCCRN-E/C/R, DCCRN-CL (with ``complex_lstm=True``) and, our fit, Distil-DCCRN."""
        return [
            {"channels": [16, 32, 64, 128, 256, 256], "lstm_units": 256},
            {"channels": [32, 64, 128, 256, 256, 256], "lstm_units": 256},
            {"channels": [32, 64, 128, 128, 128, 128], "lstm_units": 64},
        ]

    @classmethod
    def widths_allowed(cls, widths: dict[str, Any], init_args: dict[str, Any]) -> bool:
        """Each block must be able to halve the bins."""
        return _halves(init_args.get("n_fft", 512), len(widths["channels"]))

    # --- streaming ---

    def parts(self) -> Iterable[tuple[str, Any, int]]:
        bins, blocks = self.stft.n_fft // 2, len(self.decoder)
        for i, block in enumerate(self.encoder):
            yield f"encoder{i}", block, bins // 2**i
        yield "bottleneck", self.bottleneck, bins // 2**blocks
        for i, block in enumerate(self.decoder):
            frequencies = bins // 2 ** (blocks - i)
            yield f"decoder{i}", block, frequencies
            if i and not self.causal:
                yield f"decoder{i}", self._delays[i], frequencies

    def initial_state(self, batch: int) -> State:
        state = super().initial_state(batch)
        if not self.causal:
            state["spectrum"] = torch.zeros(batch, 2, self.stft.bins, len(self.decoder), device=self.device)
            state["ended"] = torch.zeros(batch, 1, device=self.device)
        return state

    def step(self, noisy_hop: Tensor, state: State) -> tuple[Tensor, State]:
        enhanced, new = self.stft.step(noisy_hop, state, self.step_spectrum)
        return self._limit(enhanced), new

    def step_spectrum(self, spectrum: Tensor, state: State) -> tuple[Tensor, State]:
        """The spectrum of T frames ``[B, F, T]`` in, as many enhanced ones and the network's new state out.

        With look-ahead the enhanced frames are those of as many frames ago as there are blocks. T must be 1 once the
        signal has ended.
        """
        run = NextFrames(state)
        x = self.predict(self.features(spectrum), run)
        if not self.causal:
            line = torch.cat([state["spectrum"], torch.stack([spectrum.real, spectrum.imag], dim=1)], dim=3)
            frames = spectrum.shape[-1]
            run.new["spectrum"] = line[..., frames:]
            spectrum = self.stft.join(*line[..., :frames].unbind(1))
            run.new["ended"] = state["ended"] + state["ended"].sign()
        return self.apply_mask(spectrum, self.gain(x)), run.new

    def _is_inside(self, index: int, state: State) -> Tensor:
        """1 where decoder block ``index`` is given a frame of the signal, 0 behind its last one: ``[B, 1, 1, 1]``.

        The last sample lies in ``overlap - 1`` frames that end behind it, and block i is i frames late.
        """
        return (state["ended"] < self.stft.overlap + index).to(state["ended"])[:, :, None, None]


class _Delay:
    """A delay line of some frames ``[B, C, T, F]``, with the state of a layer."""

    def __init__(self, channels: int, frames: int) -> None:
        self.channels, self.frames = channels, frames

    def initial_state(self, batch: int, frequencies: int, device: torch.device) -> State:
        return {"skip": torch.zeros(batch, self.channels, self.frames, frequencies, device=device)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        line = torch.cat([state["skip"], x], dim=2)
        return line[:, :, : x.shape[2]], {"skip": line[:, :, x.shape[2] :]}


def _halves(n_fft: int, blocks: int) -> bool:
    return n_fft % 2 ** (blocks + 1) == 0
