"""Published weights of networks that kdse has, for `kdse.models.checkpoint` to read like a checkpoint.

The authors of GTCRN and UL-UNAS publish a torch file with the state dict under ``"model"``. Whatever reads a MODEL
takes such a file. It is recognised by its names, and `NAMES` says what they are here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdse.models.base import SpeechModel
from kdse.models.dual_path_unet import DualPathUNet
from kdse.models.gtcrn import Gtcrn
from kdse.models.ul_unas import UlUnas

#: Parts of the names in both files and what they are here, replaced in this order after those of the family.
SHARED = {
    "encoder.en_convs.": "encoder.",
    "decoder.de_convs.": "decoder.",
    ".intra_rnn.rnn1.": ".bands.grus.0.",
    ".intra_rnn.rnn2.": ".bands.grus.1.",
    ".intra_fc.": ".bands.linear.",
    ".intra_ln.": ".bands.norm.",
    ".inter_rnn.rnn1.": ".frames.grus.0.",
    ".inter_rnn.rnn2.": ".frames.grus.1.",
    ".inter_fc.": ".frames.linear.",
    ".inter_ln.": ".frames.norm.",
}
NAMES: dict[type[Gtcrn] | type[UlUnas], dict[str, str]] = {
    Gtcrn: {
        "dpgrnn1.": "dual_path.0.",
        "dpgrnn2.": "dual_path.1.",
        ".conv.": ".conv.conv.",
        ".bn.": ".norm.",
        ".act.": ".activation.",
        ".point_conv1.": ".expand.conv.",
        ".point_bn1.": ".expand_norm.",
        ".point_act.": ".expand_activation.",
        ".depth_conv.": ".depthwise.conv.",
        ".depth_bn.": ".depthwise_norm.",
        ".depth_act.": ".depthwise_activation.",
        ".point_conv2.": ".project.conv.",
        ".point_bn2.": ".project_norm.",
        ".tra.att_gru.": ".gate.gru.",
        ".tra.att_fc.": ".gate.linear.",
    },
    UlUnas: {
        "dpgrnn.": "dual_path.",
        ".ops.1.": ".conv.conv.",
        ".ops.2.": ".norm.",
        ".ops.3.": ".activation.",
        ".ops.4.": ".gate.",
        ".pconv.": ".pconv1.",  # (a separable block's only pointwise convolution)
        ".pconv1.0.": ".expand.conv.",
        ".pconv1.1.": ".expand_norm.",
        ".pconv1.2.": ".expand_activation.",
        ".dconv.1.": ".depthwise.conv.",
        ".dconv.2.": ".depthwise_norm.",
        ".dconv.3.": ".depthwise_activation.",
        ".dconv.4.": ".gate.",
        ".pconv2.0.": ".project.conv.",
        ".pconv2.1.": ".project_norm.",
        ".pconv2.2.": ".gate.",
        ".ta_gru.": ".gru.",
        ".ta_fc.": ".linear.",
        ".fa.": ".bands.",
        ".bands.fc.": ".bands.linear.",
        ".affine_": ".",
        ".slope_weight": ".slope",
    },
}
#: The fixed band filters of both files: a matrix each for merging and splitting.
FILTERS = ("erb.erb_fc.weight", "erb.ierb_fc.weight")


def recognised(content: dict[str, Any]) -> tuple[SpeechModel, dict[str, Tensor]] | None:
    """The network whose published weights a file holds (without values), and these by its names; None for others.

    A family's file has all its names, and the band filters that kdse computes.
    """
    given = content.get("model")
    if not isinstance(given, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in given.items()):
        return None
    filters = [given[name] for name in FILTERS if name in given]
    for family, names in NAMES.items():
        with torch.device("meta"):
            model = family()
        weights = {_renamed(name, names): tensor for name, tensor in given.items() if name not in FILTERS}
        ours = model.bands.filters
        if set(weights) == set(model.state_dict()) and all(map(_equal, filters, (ours.t(), ours))):
            return model, {name: _turned(model, name, tensor) for name, tensor in weights.items()}
    return None


def _equal(theirs: Tensor, ours: Tensor) -> bool:
    return theirs.shape == ours.shape and torch.allclose(theirs.float(), ours, atol=1e-6)


def _renamed(name: str, names: dict[str, str]) -> str:
    for theirs, ours in (names | SHARED).items():
        name = name.replace(theirs, ours)
    return name


def _turned(model: DualPathUNet, name: str, tensor: Tensor) -> Tensor:
    """A weight in our layout: convolutions of stride 1 are transposed ones in published decoders (in UL-UNAS only the
    depthwise), and a grouped block's first one has the three bands of a channel as channels."""
    layer, own = model.get_submodule(name.rpartition(".")[0]), model.state_dict()[name]
    if tensor.numel() != own.numel():  # (whoever loads it says so)
        return tensor
    if name.startswith("decoder") and isinstance(layer, nn.Conv2d) and tensor.ndim == 4:
        if layer.groups == layer.in_channels:
            tensor = tensor.flip(2, 3)
        elif isinstance(model, Gtcrn):
            tensor = tensor.transpose(0, 1)
    return tensor.reshape(own.shape)
