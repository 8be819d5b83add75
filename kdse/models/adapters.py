"""Teachers from other toolkits: asteroid, speechbrain, facebook's denoiser and DeepFilterNet.

Each class imports its package when it is built, never before, and names the pip package if it is missing. A model is
given by a local file or folder, or by a name that the package itself downloads. All were run against the real
packages (asteroid 0.7.0, speechbrain 1.1.2, denoiser 0.1.5, deepfilternet 0.5.6 on torch 2.11) with small networks of
random weights from local files; the names that download were not, for want of a network.

The network is at ``.network``, so its modules can be tapped (``--model.teacher_taps``), e.g. "network.encoder.0".
Level and delay of these models are their own: wrap them in `kdse.models.aligned.Aligned`.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdse.errors import UserError, first_line
from kdse.internals.lean_imports import uncompiled
from kdse.machine.packages import required
from kdse.models.base import Estimate, SpeechModel
from kdse.models.foreign import run_foreign

#: Shorter audio is filled with zeros to this length: less than one frame of a network fails in most of them.
MINIMUM_SECONDS = 0.1


class Adapter(SpeechModel):
    """Base of teachers from other toolkits: subclasses set `network` and implement `speech`."""

    brings_weights = True
    channel_axis = False  # whether the network wants [B, 1, N]
    network: Any

    def forward(self, noisy: Tensor) -> Estimate:
        shortest = round(MINIMUM_SECONDS * self.sample_rate_hz)
        return Estimate(run_foreign(self.speech, noisy, type(self).__name__, self.channel_axis, shortest))

    def speech(self, noisy: Tensor) -> Any:
        """The network's answer, as `run_foreign` takes it."""
        raise NotImplementedError

    def package(self, module: str, package: str) -> Any:
        """Imports a module of the toolkit.

        Raises:
            ValueError: naming the pip package.
        """
        try:
            return importlib.import_module(module)
        except Exception as error:  # an old release can fail in any way on a new torch
            required("torchaudio")  # all four toolkits import it: if it is broken, that is the reason
            raise UserError(
                f"{type(self).__name__}: needs the package {package}, which cannot be imported "
                f"({first_line(error)}): pip install {package}"
            ) from None

    @contextlib.contextmanager
    def loading(self, source: str, hint: str = "") -> Iterator[None]:
        """Turns whatever a package raises (or its exit()) while it loads ``source`` into one sentence."""
        try:
            yield
        except (Exception, SystemExit) as error:
            foreign = re.search(r"Unsupported \w+: GLOBAL (\S+)", str(error))
            reason = "it found no weights there" if isinstance(error, SystemExit) else first_line(error)
            if foreign:
                reason = f"it holds a Python object, {foreign[1]}, and could run code"
            name = type(self).__name__
            raise UserError(
                f"{name}: path_or_name={source!r} cannot be loaded ({reason})" + (f"; {hint}" if hint else "")
            ) from None

    def chosen(self, waves: Tensor, source: int, axis: int) -> Tensor:
        """One of the separated sources of ``[B, N, sources]`` (axis 2) or ``[B, sources, N]`` (axis 1)."""
        if waves.dim() != 3 or not 0 <= source < waves.shape[axis]:
            raise UserError(
                f"{type(self).__name__}: source={source}: the network returned {list(waves.shape)}, sources on axis "
                f"{axis}"
            )
        return waves.select(axis, source)


class Asteroid(Adapter):
    """A model saved by asteroid (``torch.save(model.serialize(), path)``), e.g. ConvTasNet or DCCRNet.

    Args:
        path_or_name: the file, read as data only, or a model name of asteroid's hub.
        source: which of the separated sources is the speech.
    """

    def __init__(self, path_or_name: str, source: int = 0) -> None:
        super().__init__()
        base = self.package("asteroid.models.base_models", "asteroid").BaseModel
        self.source = source
        # its files carry torch's version, a kind of string that torch itself does not count as plain data
        with self.loading(path_or_name), torch.serialization.safe_globals([torch.torch_version.TorchVersion]):
            local = Path(path_or_name).is_file()
            given = torch.load(path_or_name, map_location="cpu", weights_only=True) if local else path_or_name
            self.network = base.from_pretrained(given).eval()
        self.sample_rate_hz = round(float(getattr(self.network, "sample_rate", None) or 16000))

    def speech(self, noisy: Tensor) -> Tensor:
        return self.chosen(self.network(noisy), self.source, axis=1)


class SpeechBrain(Adapter):
    """A speechbrain inference interface (1.0 or newer): SpectralMaskEnhancement, SepformerSeparation and others.

    The folder's hyperparams.yaml names the Python objects to build: loading one runs its code, so load only folders
    you trust. Spectral-mask models return every clip at full scale (their resynthesis divides by the peak): use
    `Aligned` with gain "each".

    Args:
        path_or_name: folder with hyperparams.yaml and the weights, or a model name of its hub.
        interface: class of speechbrain.inference.enhancement or .separation.
        source: which of the separated sources is the speech, for a separation interface.
        save_folder: where downloads are kept; None uses the package's own cache.
    """

    def __init__(
        self,
        path_or_name: str,
        interface: str = "SpectralMaskEnhancement",
        source: int = 0,
        save_folder: str | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        homes = [self.package(f"speechbrain.inference.{p}", "speechbrain") for p in ("enhancement", "separation")]
        cls = next((getattr(home, interface) for home in homes if hasattr(home, interface)), None)
        if cls is None:
            raise UserError(
                f"SpeechBrain: interface={interface!r} is not in speechbrain.inference's enhancement or separation"
            )
        with self.loading(path_or_name):
            options = {"device": "cpu"}
            self.network = cls.from_hparams(path_or_name, savedir=save_folder, run_opts=options).eval()
        if not (hasattr(self.network, "enhance_batch") or hasattr(self.network, "separate_batch")):
            raise UserError(f"SpeechBrain: interface={interface!r} neither enhances nor separates")
        self.sample_rate_hz = _speechbrain_rate(self.network)

    def speech(self, noisy: Tensor) -> Tensor:
        self.network.device = str(noisy.device)  # the interface moves its input there
        if hasattr(self.network, "separate_batch"):
            return self.chosen(self.network.separate_batch(noisy), self.source, axis=2)
        inner = getattr(self.network.mods, "enhance_model", None)
        wants_lengths = inner is not None and "lengths" in inspect.signature(inner.forward).parameters
        lengths = torch.ones(noisy.shape[0], device=noisy.device) if wants_lengths else None
        return self.network.enhance_batch(noisy, lengths=lengths)


class Denoiser(Adapter):
    """Demucs of facebook's denoiser (Défossez et al. 2020).

    It divides its input by the standard deviation of the whole clip, so it is not causal here, whatever the network.

    Args:
        path_or_name: "dns48", "dns64", "master64" or "valentini_nc" (downloaded), or a file: a state_dict, or the
            best.th that its training writes; read as data only.
        init_args: constructor arguments of denoiser.demucs.Demucs for a bare state_dict, e.g. {hidden: 64}.
    """

    channel_axis = True

    def __init__(self, path_or_name: str = "dns64", init_args: dict[str, Any] | None = None) -> None:
        super().__init__()
        demucs = self.package("denoiser.demucs", "denoiser").Demucs
        arguments = dict(init_args or {})
        with self.loading(path_or_name, "a checkpoint.th also holds Python objects: give the best.th"):
            if Path(path_or_name).is_file():
                with torch.serialization.safe_globals([demucs]):  # best.th names this class, and no other
                    content = torch.load(path_or_name, map_location="cpu", weights_only=True)
                if "state" in content:
                    arguments = {**content.get("kwargs", {}), **arguments}
                network = demucs(**{"sample_rate": 16000, **arguments})
                network.load_state_dict(content.get("state", content))
            elif path_or_name in ("dns48", "dns64", "master64", "valentini_nc"):
                network = getattr(self.package("denoiser.pretrained", "denoiser"), path_or_name)()
            else:
                raise UserError("it is no file, nor dns48, dns64, master64 or valentini_nc")
        self.network = network.eval()
        self.sample_rate_hz = int(network.sample_rate)

    def speech(self, noisy: Tensor) -> Any:
        return self.network(noisy)


class DeepFilterNet(Adapter):
    """DeepFilterNet 1 to 3 (Schröter et al. 2022, 2023), at 48 kHz; wrap it in `Aligned` for a 16 kHz student.

    Its features and STFT run on the CPU, in the package's compiled library; there is no gradient.

    Args:
        path_or_name: folder with config.ini and checkpoints/, or "DeepFilterNet", "DeepFilterNet2" or
            "DeepFilterNet3" (downloaded).
        post_filter: apply its post filter.
        attenuation_limit_db: leave noise in at this attenuation; None removes all it can.
    """

    def __init__(
        self, path_or_name: str = "DeepFilterNet3", post_filter: bool = False, attenuation_limit_db: float | None = None
    ) -> None:
        super().__init__()
        with _old_torchaudio():
            self._df = self.package("df.enhance", "deepfilternet")
        self.attenuation_limit_db = attenuation_limit_db
        with self.loading(path_or_name):
            loaded = self._df.init_df(path_or_name, post_filter=post_filter, log_level="ERROR", log_file=None)
        network, self._state, _ = loaded
        self.network = network.cpu().eval()  # init_df moves it to the first GPU it sees
        self.sample_rate_hz = int(self._state.sr())

    @uncompiled
    def speech(self, noisy: Tensor) -> Tensor:
        self._df.config.set("DEVICE", str(self.device), str, section="train")  # where enhance() puts the features
        heard = noisy.detach().float().cpu()
        wave = self._df.enhance(self.network, self._state, heard, pad=True, atten_lim_db=self.attenuation_limit_db)
        return wave.to(noisy.device)


@contextlib.contextmanager
def _old_torchaudio() -> Iterator[None]:
    """Lets deepfilternet 0.5.6, its last release, be imported beside a torchaudio without ``backend``.

    It imports torchaudio.backend.common.AudioMetaData for a type hint only; an empty class stands in meanwhile.
    """
    backend, common = types.ModuleType("torchaudio.backend"), types.ModuleType("torchaudio.backend.common")
    common.AudioMetaData = type("AudioMetaData", (), {})  # type: ignore[attr-defined]  # (a module made by hand)
    missing = {m.__name__: m for m in (backend, common)}
    try:
        importlib.import_module("torchaudio.backend.common")
        missing = {}
    except Exception:  # (a broken torchaudio fails again below, in the toolkit's import, and is named there)
        sys.modules.update(missing)
    try:
        yield
    finally:
        for name in missing:
            sys.modules.pop(name, None)


def _speechbrain_rate(network: Any) -> int:
    hparams = getattr(network, "hparams", None)
    places = (hparams, getattr(hparams, "compute_stft", None), getattr(network, "audio_normalizer", None))
    rates = [getattr(place, "sample_rate", None) for place in places]
    return round(next((float(rate) for rate in rates if isinstance(rate, (int, float))), 16000))
