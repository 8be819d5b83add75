"""The listening part of the report page as data: what each file is, and its sound and pictures as blocks of base64.

Blocks are scripts of type text/plain, which a browser keeps but does not run; the page decodes those of the file in
view only.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kdse.metrics.registry import METRICS
from kdse.metrics.table import NOISY
from kdse.report.contents import ListeningFile
from kdse.report.page import audio as page_audio
from kdse.report.page import spectrogram

#: Decimals and direction of a metric that the registry does not know (our choice).
_UNKNOWN = {"factor": 1, "decimals": 3, "higher": True}


def check(files: Sequence[ListeningFile], sample_rate_hz: int) -> None:
    """Refuses what cannot be compared.

    Raises:
        ValueError: naming the file, if its waves differ in length or are not mono; or naming a rate below 1.
    """
    if sample_rate_hz < 1:
        raise ValueError(f"sample_rate_hz={sample_rate_hz}: give the rate of the audio, at least 1")
    for file in files:
        for system, wave in file.waves.items():
            if wave.ndim != 1:
                raise ValueError(f"{file.name}: {system} has shape {list(wave.shape)}; give mono waves [N]")
        lengths = {system: len(wave) for system, wave in file.waves.items()}
        if len(set(lengths.values())) > 1:
            text = ", ".join(f"{system} {length}" for system, length in lengths.items())
            raise ValueError(f"{file.name}: waves differ in length ({text} samples); cut or pad them alike")


def catalogue(files: Sequence[ListeningFile], sample_rate_hz: int, metrics: Sequence[str]) -> dict[str, Any]:
    """What the page's script needs to know before it decodes anything, without the parts that `parts` adds a file."""
    systems = dict.fromkeys(system for file in files for system in file.waves)
    return {
        "rate": sample_rate_hz,
        "floorDb": spectrogram.FLOOR_DB,
        "bins": spectrogram.BINS,
        "metrics": [_about_metric(name) for name in metrics],
        "systems": list(systems),
        "files": [],
    }


def parts(
    index: int, file: ListeningFile, sample_rate_hz: int, metrics: Sequence[str]
) -> tuple[dict[str, Any], Iterator[str]]:
    """A file's entry in the catalogue, and its blocks ``<script type="text/plain" id="audio-3-0">``, made when asked.

    All signals have one gain and their pictures one colour scale: 0 dB is the loudest point of the noisy signal's
    picture, or of all pictures where it has none or is silent.
    """
    good = {system: wave for system, wave in file.waves.items() if not page_audio.trouble(wave)}
    gain = page_audio.shared_gain(good.values())
    loudest = max(good, key=lambda system: page_audio.peak_of(good[system]), default="")
    noisy = good.get(NOISY)
    systems = []
    for number, (system, wave) in enumerate(file.waves.items()):
        scores = file.scores.get(system, {})
        systems.append(
            {
                "name": system,
                "block": f"{index}-{number}" if system in good else None,
                "note": page_audio.trouble(wave) or ("silent" if not wave.any() else ""),
                "levelDb": _finite(page_audio.level_db(wave, noisy)) if noisy is not None and system in good else None,
                "scores": {metric: _finite(scores[metric]) for metric in metrics if metric in scores},
            }
        )
    about = {
        "name": file.name,
        "group": file.group,
        "snrDb": _finite(file.snr_db),
        "seconds": max((len(wave) for wave in file.waves.values()), default=0) / sample_rate_hz,
        "gainDb": 20 * math.log10(gain),
        "loudest": loudest,
        "scale": NOISY if noisy is not None and noisy.any() else "all signals",
        "systems": systems,
    }
    return about, _blocks(index, file, good, gain, sample_rate_hz)


def to_json(data: Any) -> str:
    """JSON that may stand inside a script element: no character in it can end the element or start a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _blocks(
    index: int, file: ListeningFile, good: dict[str, np.ndarray], gain: float, sample_rate_hz: int
) -> Iterator[str]:
    powers = {system: spectrogram.power(wave * np.float64(gain)) for system, wave in good.items()}
    reference = float(powers[NOISY].max()) if NOISY in powers else 0.0
    reference = reference or max((float(power.max()) for power in powers.values()), default=0.0)
    for number, system in enumerate(file.waves):
        if system in good:
            sound = page_audio.flac(good[system], gain, sample_rate_hz)
            yield _block(f"audio-{index}-{number}", sound)
            yield _block(f"picture-{index}-{number}", spectrogram.picture(powers[system], reference))


def _block(key: str, data: bytes) -> str:
    return f'<script type="text/plain" id="{key}">{base64.b64encode(data).decode("ascii")}</script>\n'


def _about_metric(name: str) -> dict[str, Any]:
    known = METRICS.get(name)
    if known is None:
        return {"key": name, "title": name, **_UNKNOWN}
    about = {"factor": known.factor, "decimals": known.decimals, "higher": known.higher_is_better}
    return {"key": name, "title": known.title, **about}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
