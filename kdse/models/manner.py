"""MANNER, a time-domain encoder-decoder with multi-view attention (Park et al., ICASSP 2022, arXiv 2203.02181)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdse.errors import UserError, require_at_least, require_one_of
from kdse.models.base import UNBOUNDED, Estimate, SpeechModel, Tap
from kdse.models.manner_layers import VIEWS, DecoderBlock, EncoderBlock, Gate, MultiViewBlock

LEVEL_FLOOR = 1e-3
RESCALE_REFERENCE = 0.1


class Manner(SpeechModel):
    """Waveform in, waveform out: strided encoder, bottleneck, decoder, and a mask on the features of the first layer.

    Each block holds a residual conformer and (in all blocks, or only the deepest two) a multi-view attention: a third
    of the channels is attended by channel, a third across chunks of the whole clip, a third inside chunks. The input
    is divided by its standard deviation, the output multiplied by it. Not causal, and it does not stream: every
    output sample depends on the whole clip, so look-ahead and latency are `UNBOUNDED`. Attention across chunks makes
    the cost of a clip grow with the square of its length.

    Trainable parameters: 24,068,671 (base: the defaults), 21,253,921 (small: ``attention="deepest"``), 95,498,941
    (large: ``hidden=120``); 1,389,631 for small with ``hidden=15``. Architecture after the authors' code (MIT), which
    the fact sheet describes.

    Taps are the block outputs and, where there is attention, what each view shows right after its attention
    (`encoder0_channel`, `encoder0_global`, `encoder0_local`): ``[B, C/3, T]``, chunks joined again. Decoder 0 is the
    deepest one.

    Args:
        hidden: channels of the first layer, a multiple of 3.
        depth: encoder blocks, and decoder blocks; each shortens (lengthens) time by ``stride``.
        kernel: of the strided convolutions, in samples.
        stride: of the strided convolutions.
        growth: factor on the channels from block to block.
        heads: of the attention across chunks.
        chunk: samples a chunk of the global and local attention (at the block's own rate), even; chunks overlap by
            half.
        attention: "all" blocks (base, large) or the "deepest" encoder and decoder block alone (small).
        sample_rate_hz: 16000 in the paper.
    """

    lookahead_samples = UNBOUNDED
    latency_samples = UNBOUNDED
    width_parameters = ("hidden",)

    def __init__(
        self,
        hidden: int = 60,
        depth: int = 4,
        kernel: int = 8,
        stride: int = 4,
        growth: int = 2,
        heads: int = 1,
        chunk: int = 64,
        attention: str = "all",
        sample_rate_hz: int = 16000,
    ) -> None:
        super().__init__()
        if hidden < 3 or hidden % 3:
            raise UserError(f"hidden={hidden}: must be a multiple of 3 (each view attends to a third of the channels)")
        require_at_least(1, depth=depth, stride=stride, growth=growth, heads=heads)
        if kernel < stride:
            raise UserError(f"kernel={kernel} is shorter than stride={stride}: samples would be skipped")
        if chunk < 2 or chunk % 2:
            raise UserError(f"chunk={chunk}: must be even (chunks overlap by half)")
        require_one_of("attention", attention, "all", "deepest")
        self.depth, self.kernel, self.stride = depth, kernel, stride
        self.sample_rate_hz = sample_rate_hz
        self.hop_samples = stride**depth

        def views(level: int, channels: int) -> MultiViewBlock | None:
            wanted = attention == "all" or level == depth - 1
            return MultiViewBlock(channels, chunk, heads) if wanted else None

        widths = [hidden * growth**level for level in range(depth + 1)]
        self.stem = nn.Sequential(nn.Conv1d(1, hidden, 3, padding=1), nn.BatchNorm1d(hidden), nn.ReLU())
        self.encoder = nn.ModuleList(
            EncoderBlock(widths[i], widths[i + 1], kernel, stride, views(i, widths[i + 1])) for i in range(depth)
        )
        self.bottleneck = nn.Sequential(nn.Linear(widths[-1], widths[-1], bias=False), nn.ReLU())
        self.decoder = nn.ModuleList(
            DecoderBlock(widths[i + 1], widths[i], kernel, stride, views(i, widths[i])) for i in reversed(range(depth))
        )
        self.mask = Gate(hidden)
        self.out = nn.Conv1d(hidden, 1, 3, padding=1)
        _rescale(self)

    def forward(self, noisy: Tensor) -> Estimate:
        samples = noisy.shape[-1]
        level = noisy.std(-1, keepdim=True) if samples > 1 else torch.zeros_like(noisy)
        scaled = F.pad(noisy / (level + LEVEL_FLOOR), (0, self.padded_samples(samples) - samples))
        features = self.stem(scaled[:, None])
        x, outputs = features, []
        for block in self.encoder:
            x = block(x)
            outputs.append(x)
        x = self.bottleneck(x.transpose(1, 2)).transpose(1, 2)
        for block, encoded in zip(self.decoder, reversed(outputs), strict=True):
            x = block(x + encoded)
        mask = self.mask(x)
        wave = self.out(features * mask)[:, 0, :samples]
        return Estimate(wave * level, mask=mask[..., :samples])

    def padded_samples(self, samples: int) -> int:
        """The shortest length of at least ``samples`` that every strided convolution divides without a rest."""
        length = samples
        for _ in range(self.depth):
            length = max(1, (length - self.kernel + self.stride - 1) // self.stride + 1)
        for _ in range(self.depth):
            length = (length - 1) * self.stride + self.kernel
        return length

    @property
    def shortest_samples(self) -> int:
        """More than its deepest layer needs (597 with published strides): a graph has no case for what is padded."""
        return self.padded_samples(1) + 1

    def taps(self) -> dict[str, Tap]:
        """Per block its views (if it has any) and its output; the bottleneck between encoder and decoder."""
        taps = _block_taps("encoder", self.encoder)
        taps["bottleneck"] = Tap("bottleneck", "b t c", group="bottleneck")
        return taps | _block_taps("decoder", self.decoder)

    @classmethod
    def presets(cls) -> list[dict[str, Any]]:
        """The released widths (base and small have one, large the other)."""
        return [{"hidden": 60}, {"hidden": 120}]

    @classmethod
    def widths_allowed(cls, widths: dict[str, Any], init_args: dict[str, Any]) -> bool:
        """A third of the channels each view; every block's width is then a multiple of 3 too."""
        return widths["hidden"] >= 3 and widths["hidden"] % 3 == 0


def _block_taps(group: str, blocks: nn.ModuleList) -> dict[str, Tap]:
    taps = {}
    for i, block in enumerate(blocks):
        if isinstance(block.attention, MultiViewBlock):
            for view in VIEWS:
                taps[f"{group}{i}_{view}"] = Tap(f"{group}.{i}.attention.views.{view}", "b c t", group=group)
        taps[f"{group}{i}"] = Tap(f"{group}.{i}", "b c t", group=group)
    return taps


def _rescale(model: nn.Module) -> None:
    """Divides the initial weights and biases of all convolutions by ``sqrt(std(weight) / 0.1)``, as in Demucs."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
                scale = (module.weight.std() / RESCALE_REFERENCE).sqrt()
                module.weight.div_(scale)
                if module.bias is not None:
                    module.bias.div_(scale)
