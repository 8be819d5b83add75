"""What a model does to signals that no benchmark scores: clean speech, noise alone, two talkers, music, other levels.

    python experiments/pretrained/behaviour.py cruse-62k cruse-30k --music FOLDER --out behaviour

reads speech/test_other, noise/test and manifest.csv of KDSE_CORPUS, any audio in FOLDER, and writes behaviour.json
and behaviour.md, the tables of kdse/pretrained/MODEL_CARD.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import kdse.pretrained
from kdse.audio.files import read
from kdse.audio.listing import audio_files
from kdse.machine.files import write_text
from kdse.metrics.registry import score as scores_of
from kdse.models.base import SpeechModel
from kdse.models.checkpoint import load_model

RATE = 16000
LEVEL_DBFS = -26.0
LEVELS_DBFS = (-70, -60, -50, -40, -30, -20, -10, -3)
SECONDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="checkpoints, or names of models in the box")
    parser.add_argument("--music", type=Path, help="folder of music")
    parser.add_argument("--out", type=Path, default=Path("behaviour"), help="file name without its ending")
    arguments = parser.parse_args()
    corpus = Path(os.environ["KDSE_CORPUS"])
    results = {}
    for name in arguments.models:
        model = load_model(kdse.pretrained.find(name))
        results[name] = behaviour(model, corpus, arguments.music)
        print(name, "done", flush=True)
    write_text(arguments.out.with_suffix(".json"), json.dumps(results, indent=2))
    write_text(arguments.out.with_suffix(".md"), tables(results))


def behaviour(model: SpeechModel, corpus: Path, music: Path | None) -> dict[str, Any]:
    """All measurements of one model."""
    rows = [row for row in csv.DictReader((corpus / "manifest.csv").open()) if row["kind"] in ("speech", "noise")]
    speech = [row for row in rows if row["path"].startswith("speech/test_other/")]
    noises = [row for row in rows if row["path"].startswith("noise/test/")]
    voices = [(row, clip(corpus / row["path"])) for row in speech]
    hiss = [(row, clip(corpus / row["path"])) for row in noises]
    result: dict[str, Any] = {"clean speech": clean(model, voices), "noise alone": attenuation(model, hiss)}
    result["two talkers"] = two_talkers(model, voices)
    result["levels"] = levels(model, voices[:24], hiss)
    result["voices"] = by_gender(model, voices, hiss)
    if music is not None:
        files = [music / name for name in audio_files(music)]
        result["music"] = {f.stem: round(gain_db(model, clip(f, 60)), 1) for f in files}
    return result


def clip(path: Path, seconds: int = SECONDS) -> Tensor:
    """The beginning of a file ``[1, N]`` at -26 dBFS."""
    return at_level(read(path, RATE)[None, : seconds * RATE], LEVEL_DBFS)


def at_level(wave: Tensor, dbfs: float) -> Tensor:
    return wave / wave.square().mean().sqrt().clamp_min(1e-9) * 10 ** (dbfs / 20)


@torch.no_grad()
def run(model: SpeechModel, wave: Tensor) -> Tensor:
    return model(wave).waveform


def gain_db(model: SpeechModel, wave: Tensor) -> float:
    """Level of the output relative to the input."""
    return float(10 * torch.log10(run(model, wave).square().sum() / wave.square().sum()))


def score(metric: str, estimate: Tensor, clean: Tensor) -> float:
    scores = scores_of(clean[0].numpy(), estimate[0].numpy(), RATE, [metric])
    return float(scores.values[metric])


def mix(speech: Tensor, noise: Tensor, snr_db: float) -> tuple[Tensor, Tensor]:
    """(mixture, speech in it), the mixture at -26 dBFS; the noise is repeated to the speech's length."""
    noise = noise.repeat(1, -(-speech.shape[1] // noise.shape[1]))[:, : speech.shape[1]]
    noise = at_level(noise, float(20 * torch.log10(speech.square().mean().sqrt())) - snr_db)
    both = speech + noise
    factor = 10 ** (LEVEL_DBFS / 20) / both.square().mean().sqrt()
    return both * factor, speech * factor


def mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 3)


def clean(model: SpeechModel, voices: list[tuple[dict[str, str], Tensor]]) -> dict[str, float]:
    """What is lost of speech without noise."""
    outs = [(run(model, wave), wave) for _, wave in voices]
    return {
        "si_sdr_db": mean([score("si_sdr", out, wave) for out, wave in outs]),
        "pesq_wb": mean([score("pesq_wb", out, wave) for out, wave in outs]),
        "gain_db": mean([float(10 * torch.log10(out.square().sum() / wave.square().sum())) for out, wave in outs]),
        "files": len(outs),
    }


def attenuation(model: SpeechModel, noises: list[tuple[dict[str, str], Tensor]]) -> dict[str, float]:
    """Gain in dB on noise alone, by kind; recordings of the DNS-Challenge kind are one kind."""
    kinds = defaultdict(list)
    for row, wave in noises:
        kind = "DNS-Challenge noise" if row["type"].startswith("DNS") else row["type"].replace("_", " ")
        kinds[kind].append(gain_db(model, wave))
    everything = [value for values in kinds.values() for value in values]
    return {kind: mean(values) for kind, values in sorted(kinds.items())} | {"all": mean(everything)}


def two_talkers(model: SpeechModel, voices: list[tuple[dict[str, str], Tensor]]) -> dict[str, float]:
    """Two voices at the same level: how much of both is kept, against the sum, and the gain."""
    outs = []
    for index, (row, first) in enumerate(voices):
        other = next(w for r, w in voices[index + 1 :] + voices if r["speaker"] != row["speaker"])
        both, _ = mix(first, other, 0.0)
        outs.append((run(model, both), both))
    return {
        "si_sdr_to_the_sum_db": mean([score("si_sdr", out, both) for out, both in outs]),
        "gain_db": mean([float(10 * torch.log10(out.square().sum() / both.square().sum())) for out, both in outs]),
    }


def levels(model: SpeechModel, voices: list[Any], noises: list[Any]) -> dict[str, float]:
    """Mean SI-SDR improvement at 5 dB SNR for mixtures of other levels (RMS in dBFS)."""
    result = {}
    for dbfs in LEVELS_DBFS:
        gains = []
        for index, (_, voice) in enumerate(voices):
            noisy, target = mix(voice, noises[index % len(noises)][1], 5.0)
            factor = 10 ** ((dbfs - LEVEL_DBFS) / 20)
            out = run(model, noisy * factor)
            gains.append(score("si_sdr", out, target) - score("si_sdr", noisy, target))
        result[str(dbfs)] = mean(gains)
    return result


def by_gender(model: SpeechModel, voices: list[Any], noises: list[Any]) -> dict[str, dict[str, float]]:
    """SI-SDR and PESQ improvement at 5 dB SNR by the readers' recorded gender, each group in the same noises."""
    groups: dict[str, list[list[float]]] = defaultdict(list)
    for row, voice in voices:
        group = groups[row["gender"] or "unknown"]
        noisy, target = mix(voice, noises[len(group) % len(noises)][1], 5.0)
        out = run(model, noisy)
        group.append([score(m, out, target) - score(m, noisy, target) for m in ("si_sdr", "pesq_wb")])
    return {
        group: {"si_sdr_db": mean([g[0] for g in gains]), "pesq_wb": mean([g[1] for g in gains]), "files": len(gains)}
        for group, gains in sorted(groups.items())
    }


def tables(results: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row a measurement, a column a model."""
    names = list(results)
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]

    def flat(entry: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], float]:
        if not isinstance(entry, dict):
            return {path: entry}
        return {p: v for key, value in entry.items() for p, v in flat(value, (*path, key)).items()}

    values = {name: flat(result) for name, result in results.items()}
    for path in values[names[0]]:
        lines.append(f"| {', '.join(path)} | " + " | ".join(f"{values[name][path]:g}" for name in names) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
