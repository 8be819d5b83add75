"""DCCRN (Hu et al., Interspeech 2020, arXiv 2008.00264), also in the size of Distil-DCCRN (arXiv 2408.04267).

Architecture and numbers follow the authors' published code where paper and code differ.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdse.errors import UserError
from kdse.models.base import Estimate, SpeechModel, Tap
from kdse.models.complex_layers import ComplexBatchNorm, ComplexConv, ComplexLstm, RealLstm, concatenate
from kdse.models.layers import State, advance, named
from kdse.models.stft import Stft


class ComplexBlock(nn.Module):
    """Complex convolution, norm, PReLU with one slope, on ``[B, C, T, F]``; as many frames out as in.

    An encoder block puts one zero frame before the first, so frame t sees frames t - 1 and t. A decoder block's
    transposed convolution gives T + 1 frames, of which one end is dropped: without the first, frame t sees t and
    t + 1 (behind the last frame stands a zero one); without the last, it sees t - 1 and t. Either way frame t of the
    output belongs to frame t of the input. The published code drops the frame after norm and PReLU; we do so before
    the norm, which differs only in one frame's share of the batch statistics.

    Args:
        channels_in, channels_out: real and imaginary parts together.
        up: a decoder block.
        look_ahead: a decoder block drops the first frame, not the last.
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
        super().__init__()
        self.up, self.look_ahead, self.channels_in = up, look_ahead, channels_in
        self.conv = ComplexConv(channels_in, channels_out, up)
        norm = ComplexBatchNorm if complex_norm else nn.BatchNorm2d
        self.norm: nn.Module = nn.Identity() if last else norm(channels_out)
        self.activation: nn.Module = nn.Identity() if last else nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        if not self.up:
            y = self.conv(F.pad(x, (0, 0, 1, 0)))
        else:
            y = self.conv(x)
            y = y[:, :, 1:] if self.look_ahead else y[:, :, :-1]
        return self.activation(self.norm(y))

    def initial_state(self, batch: int, frequencies: int, device: torch.device) -> State:
        return {"past": torch.zeros(batch, self.channels_in, 1, frequencies, device=device)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One frame ``[B, C, 1, F]``, in eval mode; with look-ahead what comes out belongs to the frame before it.

        The two kinds of decoder block compute the same from two neighbouring frames and differ in which of them the
        result is for.
        """
        y = self.conv(torch.cat([state["past"], x], dim=2))
        return self.activation(self.norm(y[:, :, 1:2] if self.up else y)), {"past": x}


class Dccrn(SpeechModel):
    """Deep complex convolution recurrent network: a complex U-Net around an LSTM predicts a complex ratio mask.

    STFT (Hann window of 25 ms, hop 6.25 ms, 512 points) -> real and imaginary part of bins 1 to 256 as two channels
    -> complex encoder, halving the frequencies -> LSTM over all channels and frequencies -> complex decoder, each
    block fed with the one before and the encoder's -> mask -> inverse STFT. Bin 0 is always removed.

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
        if lstm_units < 1 or lstm_layers < 1:
            raise UserError(f"lstm_units={lstm_units}, lstm_layers={lstm_layers}: both must be 1 or more")
        if mask_mode not in ("E", "C", "R"):
            raise UserError(f'mask_mode={mask_mode!r}: use "E", "C" or "R"')
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
        self.bottleneck: RealLstm | ComplexLstm
        if complex_lstm:
            self.bottleneck = ComplexLstm(widths[-1], frequencies, lstm_units + lstm_units % 2, lstm_layers)
        else:
            self.bottleneck = RealLstm(widths[-1], frequencies, lstm_units, lstm_layers)
        down = list(reversed(widths))
        self.decoder = nn.ModuleList(
            ComplexBlock(2 * a, b, True, look_ahead, complex_norm, last=i == len(channels) - 1)
            for i, (a, b) in enumerate(pairwise(down))
        )

    def forward(self, noisy: Tensor) -> Estimate:
        """Enhances ``[B, N]``; the mask is ``[B, 2, T, F]``, real and imaginary part as applied (zero in bin 0)."""
        spectrum = self.stft(noisy)
        mask = self.gain(self.predict(self.features(spectrum)))
        enhanced = self.apply_mask(spectrum, mask)
        return Estimate(self._limit(self.stft.inverse(enhanced, noisy.shape[-1])), enhanced, mask)

    def features(self, spectrum: Tensor) -> Tensor:
        """Complex spectrum ``[B, F, T]`` to its real and imaginary part without bin 0, ``[B, 2, T, F - 1]``."""
        return torch.stack([spectrum.real, spectrum.imag], dim=1)[:, :, 1:].transpose(2, 3)

    def predict(self, features: Tensor) -> Tensor:
        """Features ``[B, 2, T, F - 1]`` to the decoder's output ``[B, 2, T, F - 1]``."""
        x, outputs = features, []
        for block in self.encoder:
            x = block(x)
            outputs.append(x)
        x = self.bottleneck(x)
        for block, encoded in zip(self.decoder, reversed(outputs), strict=True):
            x = block(concatenate(x, encoded))
        return x

    def gain(self, predicted: Tensor) -> Tensor:
        """Decoder output to the mask that is applied, ``[B, 2, T, F]``: bounded in mode E, bin 0 zero."""
        mask = F.pad(predicted if predicted.dtype == torch.float64 else predicted.float(), (1, 0))
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
        blocks = range(len(self.encoder))
        taps = {f"encoder{i}": Tap(f"encoder.{i}", group="encoder") for i in blocks}
        taps["bottleneck"] = Tap("bottleneck", group="bottleneck")
        return taps | {f"decoder{i}": Tap(f"decoder.{i}", group="decoder") for i in blocks}

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

    def initial_state(self, batch: int) -> State:
        device, bins = self.device, self.stft.n_fft // 2
        state = self.stft.initial_state(batch, device)
        block: Any
        blocks = len(self.decoder)
        for i, block in enumerate(self.encoder):
            state |= named(f"encoder{i}", block.initial_state(batch, bins // 2**i, device))
        state |= named("bottleneck", self.bottleneck.initial_state(batch, device))
        for i, block in enumerate(self.decoder):
            state |= named(f"decoder{i}", block.initial_state(batch, bins // 2 ** (blocks - i), device))
            if i and not self.causal:
                skip = torch.zeros(batch, block.channels_in // 2, i, bins // 2 ** (blocks - i), device=device)
                state |= {f"decoder{i}.skip": skip}
        if not self.causal:
            state["spectrum"] = torch.zeros(batch, 2, self.stft.bins, blocks, device=device)
            state["ended"] = torch.zeros(batch, 1, device=device)
        return state

    def step(self, noisy_hop: Tensor, state: State) -> tuple[Tensor, State]:
        enhanced, new = self.stft.step(noisy_hop, state, self.step_spectrum)
        return self._limit(enhanced), new

    def step_spectrum(self, spectrum: Tensor, state: State) -> tuple[Tensor, State]:
        """One frame's spectrum ``[B, F, 1]`` in, an enhanced one and the network's new state out.

        With look-ahead the enhanced frame is that of as many steps ago as there are blocks.
        """
        new: State = {}
        x, outputs = self.features(spectrum), []
        for i, block in enumerate(self.encoder):
            x = advance(block, f"encoder{i}", x, state, new)
            outputs.append(x)
        x = advance(self.bottleneck, "bottleneck", x, state, new)
        for i, (block, encoded) in enumerate(zip(self.decoder, reversed(outputs), strict=True)):
            if i and not self.causal:
                encoded = _delay(f"decoder{i}.skip", encoded, state, new)
            x = concatenate(x, encoded)
            x = advance(block, f"decoder{i}", x if self.causal else x * self._is_inside(i, state), state, new)
        if not self.causal:
            line = torch.stack([spectrum.real, spectrum.imag], dim=1)
            real, imaginary = _delay("spectrum", line, state, new, axis=3).unbind(1)
            spectrum = self.stft.join(real, imaginary)
            new["ended"] = state["ended"] + state["ended"].sign()
        return self.apply_mask(spectrum, self.gain(x)), new

    def _is_inside(self, index: int, state: State) -> Tensor:
        """1 where decoder block ``index`` is given a frame of the signal, 0 behind its last one: ``[B, 1, 1, 1]``.

        The last sample lies in ``overlap - 1`` frames that end behind it, and block i is i frames late.
        """
        return (state["ended"] < self.stft.overlap + index).to(state["ended"])[:, :, None, None]


def _delay(name: str, x: Tensor, state: State, new: State, axis: int = 2) -> Tensor:
    """The frame that went in as many steps ago as ``state[name]`` is long; ``x`` (one frame) goes in."""
    line = torch.cat([state[name], x], dim=axis)
    new[name] = line.narrow(axis, 1, line.shape[axis] - 1)
    return line.narrow(axis, 0, 1)


def _halves(n_fft: int, blocks: int) -> bool:
    return n_fft % 2 ** (blocks + 1) == 0
