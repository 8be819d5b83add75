"""Enhances a folder of 16 kHz recordings with RNNoise, the yardstick of kdse/pretrained/MODEL_CARD.md.

    python experiments/pretrained/rnnoise.py NOISY_FOLDER OUT_FOLDER
    kdse evaluate --paired NOISY_FOLDER CLEAN_FOLDER --enhanced rnnoise=OUT_FOLDER ...

RNNoise works at 48 kHz: the audio is resampled there and back, and its delay is taken out. It needs pyrnnoise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from kdse.audio.listing import audio_files
from kdse.deploy.benchmark.runners import rnnoise_runner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("noisy", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    files = [arguments.noisy / name for name in audio_files(arguments.noisy)]
    for file in files:
        wave, rate = soundfile.read(file)
        if rate != 16000 or wave.ndim != 1:
            raise SystemExit(f"{file}: not mono at 16 kHz")
        soundfile.write(arguments.out / f"{file.stem}.wav", enhance(wave), rate, subtype="FLOAT")
    print(f"{len(files)} files enhanced into {arguments.out}")


def enhance(wave: np.ndarray) -> np.ndarray:
    """Samples ``[N]`` at 16 kHz through RNNoise, aligned and as long as they were."""
    runner = rnnoise_runner()  # a fresh state for each file
    delay, hop = runner.latency_samples - runner.hop_samples, runner.hop_samples
    high = resample_poly(wave, 3, 1)
    padded = np.zeros(-(-(len(high) + delay) // hop) * hop, np.float32)
    padded[: len(high)] = high
    out = np.concatenate([runner.process(part) for part in padded.reshape(-1, hop)])
    return resample_poly(out[delay : delay + len(high)], 1, 3)[: len(wave)]


if __name__ == "__main__":
    main()
