"""Published weights of networks that kdse has, read as if they were kdse checkpoints.

The authors of GTCRN and UL-UNAS publish a torch file with the state dict under ``"model"``. Whatever reads a MODEL
takes such a file: `kdse.models.checkpoint.read_checkpoint` recognises it by its names, which are those here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdse.models.base import SpeechModel
from kdse.models.gtcrn import Gtcrn
from kdse.models.ul_unas import UlUnas

#: Names in both files, as patterns, and what they are here.
SHARED = (
    (r"^(en|de)coder\.(?:en|de)_convs", r"\1coder"),
    (r"\bintra_(rnn|fc|ln)", r"bands.\1"),
    (r"\binter_(rnn|fc|ln)", r"frames.\1"),
    (r"\brnn\.rnn1", "grus.0"),
    (r"\brnn\.rnn2", "grus.1"),
    (r"(bands|frames)\.fc", r"\1.linear"),
    (r"(bands|frames)\.ln", r"\1.norm"),
)
#: The same of each family alone, tried first. Convolutions lie in a causal one: hence the ``.conv``.
NAMES: dict[type[SpeechModel], tuple[tuple[str, str], ...]] = {
    Gtcrn: (
        (r"^dpgrnn1", "dual_path.0"),
        (r"^dpgrnn2", "dual_path.1"),
        (r"\.conv\.", ".conv.conv."),
        (r"\.bn\.", ".norm."),
        (r"\.act\.", ".activation."),
        (r"\.point_conv1", ".expand.conv"),
        (r"\.depth_conv", ".depthwise.conv"),
        (r"\.point_conv2", ".project.conv"),
        (r"\.point_(bn|act)1?\b", r".expand_\1"),
        (r"\.depth_(bn|act)", r".depthwise_\1"),
        (r"\.point_bn2", ".project_bn"),
        (r"_bn\.", "_norm."),
        (r"_act\.", "_activation."),
        (r"\.tra\.att_gru", ".gate.gru"),
        (r"\.tra\.att_fc", ".gate.linear"),
    ),
    UlUnas: (
        (r"^dpgrnn\.", "dual_path."),
        (r"\.ops\.1\.", ".conv.conv."),
        (r"\.ops\.2\.", ".norm."),
        (r"\.ops\.3\.", ".activation."),
        (r"\.pconv1?\.0\.", ".expand.conv."),
        (r"\.pconv1?\.1\.", ".expand_norm."),
        (r"\.pconv1?\.2\.", ".expand_activation."),
        (r"\.dconv\.1\.", ".depthwise.conv."),
        (r"\.dconv\.2\.", ".depthwise_norm."),
        (r"\.dconv\.3\.", ".depthwise_activation."),
        (r"\.pconv2\.0\.", ".project.conv."),
        (r"\.pconv2\.1\.", ".project_norm."),
        (r"\.(ops\.4|dconv\.4|pconv2\.2)\.", ".gate."),
        (r"\.ta_gru", ".gru"),
        (r"\.ta_fc", ".linear"),
        (r"\.fa\.gru", ".bands.gru"),
        (r"\.fa\.fc", ".bands.linear"),
        (r"\.affine_(weight|bias)", r".\1"),
        (r"\.slope_weight", ".slope"),
    ),
}
