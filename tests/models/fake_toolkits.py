"""Stand-ins for asteroid, speechbrain, denoiser and deepfilternet where they are not installed.

Each offers what kdse's adapters call and what the tests build with, with the signatures, shapes and manners of the real
package (asteroid 0.7.0, speechbrain 1.1.2, denoiser 0.1.5, deepfilternet 0.5.6); the networks are toys.
"""

from __future__ import annotations

import configparser
import re
import types
from pathlib import Path

import torch
from torch import nn


class BaseModel(nn.Module):
    def __init__(self, sample_rate):
        super().__init__()
        self.sample_rate = sample_rate

    @classmethod
    def from_pretrained(cls, conf):
        if isinstance(conf, str):
            raise OSError("no network")
        model = {"ConvTasNet": ConvTasNet}[conf["model_name"]](**conf["model_args"])
        model.load_state_dict(conf["state_dict"])
        return model

    def serialize(self):
        return {
            "model_name": type(self).__name__,
            "state_dict": self.state_dict(),
            "model_args": self.arguments,
            "infos": {"software_versions": {"torch_version": torch.__version__}},
        }


class ConvTasNet(BaseModel):
    """``[B, N]`` to ``[B, sources, N]``; fails on less than one kernel of audio."""

    def __init__(self, n_src, n_filters=8, kernel_size=16, stride=8, sample_rate=8000.0, **_):
        super().__init__(sample_rate)
        self.arguments = dict(n_src=n_src, n_filters=n_filters, kernel_size=kernel_size, stride=stride)
        self.arguments["sample_rate"] = sample_rate
        self.encoder = nn.Conv1d(1, n_filters, kernel_size, stride)
        self.decoder = nn.ConvTranspose1d(n_filters, n_src, kernel_size, stride)

    def forward(self, wav):
        out = self.decoder(self.encoder(wav[:, None]).relu())
        return nn.functional.pad(out, (0, wav.shape[-1] - out.shape[-1]))


class Demucs(nn.Module):
    """``[B, 1, N]`` to ``[B, 1, N]``, divided by its standard deviation on the way."""

    def __init__(self, hidden=48, depth=5, sample_rate=16000, floor=1e-3, **_):
        super().__init__()
        self._init_args_kwargs = ((), {"hidden": hidden, "depth": depth, "sample_rate": sample_rate})
        self.sample_rate, self.floor = sample_rate, floor
        self.encoder = nn.ModuleList([nn.Sequential(nn.Conv1d(1, hidden, 8, 4), nn.ReLU())])
        self.decoder = nn.ModuleList([nn.ConvTranspose1d(hidden, 1, 8, 4)])

    def forward(self, mix):
        std = mix.std(dim=-1, keepdim=True)
        out = self.decoder[0](self.encoder[0](nn.functional.pad(mix / (self.floor + std), (0, 8))))
        return std * out[..., : mix.shape[-1]]


def serialize_model(model):
    args, kwargs = model._init_args_kwargs
    return {"class": model.__class__, "args": args, "kwargs": kwargs, "state": model.state_dict()}


class EnhancementGenerator(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(257, 257)

    def forward(self, features, lengths):
        return self.linear(features).sigmoid() * lengths[:, None, None]


class SpectralMaskEnhancement(nn.Module):
    """Moves its input to ``self.device``, and returns every clip with a peak of 1."""

    def __init__(self, mods, hparams, device):
        super().__init__()
        self.mods, self.hparams, self.device = nn.ModuleDict(mods), hparams, device
        for parameter in self.parameters():
            parameter.requires_grad = False

    @classmethod
    def from_hparams(cls, source, savedir=None, run_opts=None):
        text = (Path(source) / "hyperparams.yaml").read_text()
        mods = {"enhance_model": EnhancementGenerator()}
        mods["enhance_model"].load_state_dict(torch.load(Path(source) / "enhance_model.ckpt"))
        rate = int(re.search(r"sample_rate: (\d+)", text)[1])
        return cls(mods, types.SimpleNamespace(sample_rate=rate), run_opts["device"])

    def enhance_batch(self, noisy, lengths=None):
        noisy = noisy.to(self.device)
        window = torch.hann_window(512, device=noisy.device)
        spectrum = torch.stft(noisy, 512, 256, window=window, return_complex=True)
        mask = self.mods.enhance_model(spectrum.abs().sqrt().mT, lengths=lengths)
        wave = torch.istft(mask.mT * spectrum, 512, 256, window=window, length=noisy.shape[1])
        return wave / wave.abs().amax(1, keepdim=True).clamp(min=1e-14)


class DF:
    def sr(self):
        return 48000


class DfNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, spec):
        return self.gain * spec


class Config:
    def __init__(self):
        self.parser = configparser.ConfigParser()

    def set(self, option, value, cast, section=None):
        if not self.parser.has_section(section):
            self.parser.add_section(section)
        self.parser.set(section, option, str(value))


CONFIG = Config()


def init_df(model_base_dir=None, post_filter=False, log_level="INFO", log_file="enhance.log", epoch="best"):
    if not Path(model_base_dir).is_dir():
        raise NotADirectoryError(f"Base directory not found at {model_base_dir}")
    CONFIG.parser.read(Path(model_base_dir) / "config.ini")
    found = sorted((Path(model_base_dir) / "checkpoints").glob("model*.ckpt*"))
    if not found:
        exit(1)
    model = DfNet()
    model.load_state_dict(torch.load(found[-1]))
    return model, DF(), "suffix"


@torch.no_grad()
def enhance(model, df_state, audio, pad=True, atten_lim_db=None):
    assert audio.device.type == "cpu" and CONFIG.parser.get("train", "DEVICE")
    enhanced = model(audio)
    if atten_lim_db:
        limit = 10 ** (-abs(atten_lim_db) / 20)
        enhanced = audio * limit + enhanced * (1 - limit)
    return enhanced if pad else enhanced[:, :-480]


def modules() -> dict[str, types.ModuleType]:
    """What to put into ``sys.modules``, by name."""
    contents = {
        "asteroid.models": {"ConvTasNet": ConvTasNet},
        "asteroid.models.base_models": {"BaseModel": BaseModel},
        "denoiser.demucs": {"Demucs": Demucs},
        "denoiser.utils": {"serialize_model": serialize_model},
        "denoiser.pretrained": {"dns48": lambda: Demucs(48)},
        "speechbrain.inference.enhancement": {"SpectralMaskEnhancement": SpectralMaskEnhancement},
        "speechbrain.inference.separation": {},
        "speechbrain.lobes.models.MetricGAN": {"EnhancementGenerator": EnhancementGenerator},
        "df.enhance": {"init_df": init_df, "enhance": enhance, "config": CONFIG},
    }
    made: dict[str, types.ModuleType] = {}
    for path, content in contents.items():
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            made.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        made[path].__dict__.update(content)
    Demucs.__module__ = "denoiser.demucs"  # a pickle names the class by where it says it lives
    return made
