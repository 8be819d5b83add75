"""The listening part of the report page as data: what each file is, and its sound and pictures as blocks of base64.

Blocks are scripts of type text/plain, which a browser keeps but does not run; the page decodes those of the file in
view only.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kdse.errors import UserError
from kdse.metrics.table import NOISY
from kdse.report.contents import ListeningFile
from kdse.report.page import audio, spectrogram
from kdse.report.tables.table import shown
from kdse.web.embedding import embedded_json


class Signals(NamedTuple):
    """How the signals of a file are played and drawn: with one gain, on one colour scale.

    troubles: system to why it cannot be played or drawn, empty if it can. gain: of all signals. powers: system to
    spectrogram with that gain, for those without trouble. reference: the power that is 0 dB: the loudest point of the
    noisy signal's picture, or of all pictures where it has none or is silent.
    """

    troubles: dict[str, str]
    gain: float
    powers: dict[str, np.ndarray]
    reference: float


def signals_of(file: ListeningFile) -> Signals:
    """How to play and draw a file."""
    troubles = {system: audio.trouble(wave) for system, wave in file.waves.items()}
    good = {system: wave for system, wave in file.waves.items() if not troubles[system]}
    gain = audio.shared_gain(good.values())
    powers = {system: spectrogram.power(wave * np.float64(gain)) for system, wave in good.items()}
    loudest = max((float(power.max()) for power in powers.values()), default=0.0)
    return Signals(troubles, gain, powers, (float(powers[NOISY].max()) if NOISY in powers else 0.0) or loudest)


def listening_data(files: Sequence[ListeningFile], sample_rate_hz: int, metrics: Sequence[str]) -> str:
    """Script elements that do not run: the catalogue of files, and their sound and pictures; empty without files.

    The catalogue names blocks such as ``3-0``, which are the elements ``audio-3-0`` and ``picture-3-0``.

    Raises:
        UserError: naming the file, if its waves differ in length or are not mono; or naming a rate below 1.
    """
    _check(files, sample_rate_hz)
    if not files:
        return ""
    blocks: list[str] = []
    entries = [_file(index, file, sample_rate_hz, metrics, blocks) for index, file in enumerate(files)]
    catalogue = {
        "rate": sample_rate_hz,
        "floorDb": spectrogram.FLOOR_DB,
        "bins": spectrogram.BINS,
        "metrics": [
            {"key": m, "title": s.title, "factor": s.factor, "decimals": s.decimals, "higher": s.higher_is_better}
            for m, s in zip(metrics, map(shown, metrics), strict=True)
        ],
        "systems": list(dict.fromkeys(system for file in files for system in file.waves)),
        "files": entries,
        "megabytes": round(sum(map(len, blocks)) / 1e6, 1),
    }
    first = f'<script type="application/json" id="catalogue">{embedded_json(catalogue)}</script>\n'
    return first + "".join(blocks)


def _check(files: Sequence[ListeningFile], sample_rate_hz: int) -> None:
    if sample_rate_hz < 1:
        raise UserError(f"sample_rate_hz={sample_rate_hz}: give the rate of the audio, at least 1")
    for file in files:
        for system, wave in file.waves.items():
            if wave.ndim != 1:
                raise UserError(f"{file.name}: {system} has shape {list(wave.shape)}; give mono waves [N]")
        lengths = {system: len(wave) for system, wave in file.waves.items()}
        if len(set(lengths.values())) > 1:
            text = ", ".join(f"{system} {length}" for system, length in lengths.items())
            raise UserError(f"{file.name}: waves differ in length ({text} samples); cut or pad them alike")


def _file(
    index: int, file: ListeningFile, sample_rate_hz: int, metrics: Sequence[str], blocks: list[str]
) -> dict[str, Any]:
    """A file's entry in the catalogue; its sound and pictures are added to the blocks."""
    signals = signals_of(file)
    noisy = file.waves[NOISY] if NOISY in signals.powers else None
    systems = []
    for number, (system, wave) in enumerate(file.waves.items()):
        good, block = system in signals.powers, f"{index}-{number}"
        if good:
            blocks.append(_block(f"audio-{block}", audio.flac(wave, signals.gain, sample_rate_hz)))
            picture = spectrogram.picture(signals.powers[system], signals.reference)
            blocks.append(_block(f"picture-{block}", picture))
        scores = file.scores.get(system, {})
        about = {
            "name": system,
            "block": block if good else None,
            "note": signals.troubles[system] or ("silent" if not wave.any() else ""),
            "levelDb": _finite(audio.level_db(wave, noisy)) if noisy is not None and good else None,
            "scores": {metric: _finite(scores[metric]) for metric in metrics if metric in scores},
        }
        systems.append(about)
    return {
        "name": file.name,
        "group": file.group,
        "snrDb": _finite(file.snr_db),
        "seconds": max((len(wave) for wave in file.waves.values()), default=0) / sample_rate_hz,
        "gainDb": 20 * math.log10(signals.gain),
        "loudest": max(signals.powers, key=lambda system: audio.peak_of(file.waves[system]), default=""),
        "scale": NOISY if noisy is not None and noisy.any() else "all signals",
        "systems": systems,
    }


def _block(key: str, data: bytes) -> str:
    return f'<script type="text/plain" id="{key}">{base64.b64encode(data).decode("ascii")}</script>\n'


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
