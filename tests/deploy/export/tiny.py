"""The smallest model of each family that still has all its parts, in eval mode, and where it comes from."""

from __future__ import annotations

import torch

import kdse.models
from kdse.models import Cruse, Dccrn, Gtcrn, Manner, SpeechModel, Uformer, UlUnas, UNet
from kdse.trust import harmless

UNET = {"channels": [2, 4], "n_fft": 64, "hop": 32}
DCCRN = {"channels": [2, 4], "lstm_units": 4, "n_fft": 64, "hop": 20, "window_samples": 50}
UFORMER = {"channels": [2, 2], "attention_channels": 2, "ff_channels": 2, "dilated_channels": 2, "dilated_layers": 1}
BANDS = {"n_fft": 64, "hop": 32, "linear_bins": 9, "erb_bands": 8}
MODELS = {
    "cruse": (Cruse, {"channels": [2, 2, 2, 2], "mel_bands": 16, "gru_groups": 2}),
    "unet": (UNet, UNET),
    "unet, cumulative and gru": (UNet, {**UNET, "norm": "cumulative", "gru_groups": 2, "block_type": "plain"}),
    "dccrn": (Dccrn, DCCRN),
    "dccrn, complex": (Dccrn, {**DCCRN, "complex_lstm": True, "complex_norm": True, "mask_mode": "R"}),
    "dccrn, causal": (Dccrn, {**DCCRN, "look_ahead": False, "mask_mode": "C"}),
    "gtcrn": (Gtcrn, {"channels": 4, "hidden": 4, **BANDS}),
    "ul-unas": (UlUnas, {"channels": [2, 2, 2, 2, 4], **BANDS}),
    "uformer": (Uformer, {**UFORMER, "n_fft": 64, "window_samples": 50, "hop_samples": 20}),
    "manner": (Manner, {"hidden": 3, "depth": 2, "chunk": 16}),
}
STREAMING = [name for name in MODELS if name not in ("uformer", "manner")]


def networks() -> set[type[SpeechModel]]:
    """The classes of `kdse.models` that are networks of kdse: lists of them in tests must have each."""
    found = {cls for cls in vars(kdse.models).values() if isinstance(cls, type) and issubclass(cls, SpeechModel)}
    return {cls for cls in found if harmless(f"kdse.models.{cls.__name__}") and not cls.brings_weights}


def built(name: str) -> SpeechModel:
    """The model, its batch norms not at their first values."""
    torch.manual_seed(0)
    cls, settings = MODELS[name]
    model = cls(**settings)
    with torch.no_grad():
        for _ in range(3):
            model(0.3 * torch.randn(2, 3000) + 0.05)
    return model.eval()
