"""SQUIM: STOI, wide-band PESQ and SI-SDR that a network estimates from the estimate alone, without clean speech.

Kumar et al. 2023, "TorchAudio-Squim: reference-less speech quality and intelligibility measures in TorchAudio". The
network is torchaudio's ``squim_objective_base`` at 16 kHz; its weights (``squim_objective_dns2020.pth``) are the
user's file, or the copy in torch hub's cache if torchaudio has put one there before; nothing is downloaded. The network
divides the signal by its RMS, so that the level does not matter. One thread, float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdse.errors import UserError, shortened
from kdse.machine.packages import required
from kdse.metrics.clean_and_estimate import Pair, one_thread
from kdse.metrics.dnsmos import heard, loaded

FLAG = "--squim"
WEIGHTS = "squim_objective_dns2020.pth"


def estimates(pair: Pair) -> dict[str, float]:
    """STOI (a fraction of 1), PESQ (wide band, MOS-LQO) and SI-SDR (dB), as SQUIM estimates them at 16 kHz."""
    return pair.once("squim", lambda: _estimate(heard(pair), model(pair.files)))


def _estimate(estimate: np.ndarray, network: Any) -> dict[str, float]:
    import torch

    with one_thread(), torch.inference_mode():
        values = network(torch.from_numpy(estimate)[None].float())
    return dict(zip(("STOI", "PESQ", "SI-SDR"), map(float, values), strict=True))


def model(files: Mapping[str, str]) -> Any:
    """The network with its weights; ValueError if they are missing or another model's."""
    return loaded(files.get("squim") or cached_weights(), _load, FLAG)


def cached_weights() -> str:
    """The weights in torch hub's cache; ValueError if there are none."""
    import torch

    # where torchaudio.pipelines keeps it; asking torchaudio itself would start a download
    path = Path(torch.hub.get_dir()) / "torchaudio" / "models" / WEIGHTS
    if not path.is_file():
        raise UserError(
            f"the SQUIM metrics need torchaudio's weights {WEIGHTS}, which are not in torch's cache: give them by "
            f"{FLAG} FILE or leave these metrics out"
        )
    return str(path)


def _load(path: str) -> Any:
    import torch

    squim_objective_base = required("torchaudio.models", "squim_objective_base")
    wrong = f"{FLAG} {path}: is not a state dict of torchaudio.models.squim_objective_base()"
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # unpickling fails in many ways; torch's advice to load anything is not for this file
        raise UserError(f"{wrong}: torch cannot read it; give {WEIGHTS}") from None
    network = squim_objective_base()
    try:
        network.load_state_dict(weights)
    except Exception as error:
        raise UserError(f"{wrong} ({shortened(error)}); give {WEIGHTS}") from None
    return network.eval()
