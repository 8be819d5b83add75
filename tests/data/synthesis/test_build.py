"""The embedded corpus is complete or absent, the same everywhere, and its splits share nothing."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.stats import linregress

from kdse.cli import main
from kdse.data import Mixtures, SyntheticCorpus
from kdse.data.synthesis.build import build, cache_folder
from kdse.data.synthesis.plan import Settings, plan
from tests.data.synthesis.conftest import SETTINGS, audio_bytes


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.integration
def test_splits_share_no_voice_sentence_noise_kind_or_room(corpus):
    for kind, column in (("speech", "voice"), ("speech", "text"), ("noise", "type"), ("rir", "room")):
        seen = [
            {r[column] for r in rows(corpus) if r["kind"] == kind and r["split"] == s}
            for s in ("train", "valid", "test")
        ]
        assert all(seen) and not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2]), column


def test_a_corpus_of_default_size_has_many_voices_languages_rates_and_pitches():
    speakers = {c.speaker for c in plan(Settings()) if hasattr(c, "speaker") and c.split == "train"}
    assert len({s.variant for s in speakers}) >= 30 and len({s.language for s in speakers}) >= 6
    assert len({s.rate_wpm for s in speakers}) >= 15 and len({s.pitch for s in speakers}) >= 15


def test_every_file_is_in_the_manifest_and_is_sound(corpus):
    listed = {r["path"]: r for r in rows(corpus)}
    assert set(listed) == set(audio_bytes(corpus))
    for path, row in listed.items():
        wave, rate = soundfile.read(corpus / path)
        assert rate == 16000 and wave.ndim == 1 and np.isfinite(wave).all()
        assert 0.01 < np.abs(wave).max() <= 0.95 and len(wave) / rate == pytest.approx(float(row["seconds"]), abs=1e-3)
        if row["kind"] != "rir":
            assert -45 < 20 * np.log10(wave.std()) < -15


def test_the_manifest_states_each_rooms_reverberation_time(corpus):
    """Schroeder's integral and T20 of ISO 3382: 60 dB at the regression slope between -5 and -25 dB."""
    for row in (r for r in rows(corpus) if r["kind"] == "rir"):
        wave, _ = soundfile.read(corpus / row["path"])
        decay_db = 10 * np.log10(
            np.array([np.sum(wave[i:] ** 2) for i in range(0, len(wave), 8)]) / np.sum(wave**2) + 1e-12
        )
        fitted = (decay_db <= -5) & (decay_db > -25)
        slope = linregress(np.flatnonzero(fitted) * 8 / 16000, decay_db[fitted]).slope
        assert float(row["t60_seconds"]) == pytest.approx(-60 / slope, rel=0.02)


@pytest.mark.integration
def test_the_same_settings_give_the_same_bytes_whatever_the_number_of_workers(corpus, tmp_path):
    build(SETTINGS, tmp_path / "again", workers=0, progress=False)
    assert audio_bytes(tmp_path / "again") == audio_bytes(corpus)


def test_the_data_module_is_mixtures_on_the_built_folder(corpus, tmp_path):
    shutil.copytree(corpus, cache_folder(SETTINGS, tmp_path))
    common = {"segment_seconds": 0.5, "batch_size": 2, "steps_per_epoch": 2, "seed": 5}
    synthetic = SyntheticCorpus(minutes=SETTINGS.minutes, corpus_seed=SETTINGS.seed, cache_dir=str(tmp_path), **common)
    synthetic.prepare_data()
    plain = Mixtures(root=str(corpus), **common)
    for a, b in zip(synthetic.train_dataloader(), plain.train_dataloader(), strict=True):
        assert a["name"] == b["name"] and torch.equal(a["noisy"], b["noisy"]) and torch.equal(a["clean"], b["clean"])


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_data_workers_gives_the_same_items(workers, corpus, tmp_path):
    shutil.copytree(corpus, cache_folder(SETTINGS, tmp_path))

    def batches(num_workers: int) -> list[dict]:
        data = SyntheticCorpus(
            SETTINGS.minutes, SETTINGS.seed, str(tmp_path), snr_db=[0, 5, 10], segment_seconds=0.5, batch_size=2,
            steps_per_epoch=3, seed=5, num_workers=num_workers,
        )  # fmt: skip
        return list(data.train_dataloader())

    for a, b in zip(batches(workers), batches(0), strict=True):
        assert a["name"] == b["name"] and torch.equal(a["noisy"], b["noisy"]) and torch.equal(a["clean"], b["clean"])


def test_reverberant_items_stay_aligned_with_their_clean_target(corpus):
    common = {"segment_seconds": 1.0, "batch_size": 4, "steps_per_epoch": 1, "seed": 5, "snr_db": [40, 40]}
    (batch,) = Mixtures(root=str(corpus), reverb_share=1.0, **common).train_dataloader()
    spectra = torch.fft.rfft(batch["noisy"], 32000) * torch.fft.rfft(batch["clean"], 32000).conj()
    assert torch.equal(torch.fft.irfft(spectra).argmax(-1), torch.zeros(4, dtype=torch.int64))
    assert not torch.allclose(batch["noisy"], batch["clean"], atol=1e-2)


def test_the_command_builds_once_and_reports(tmp_path, capsys):
    command = ["corpus", "build", "--out", str(tmp_path / "corpus"), "--minutes", "0.05", "--workers", "0", "--json"]
    assert main(command) == 0 and json.loads(capsys.readouterr().out)["generated"] is True
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["generated"] is False and report["parts"]["noise/test"]["types"] == ["wind", "rain", "dishes"]


@pytest.mark.parametrize(
    "flags", [["--minutes", "0"], ["--minutes", "nan"], ["--minutes", "9999"], ["--workers", "-1"]], ids=" ".join
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(flags, tmp_path, capsys):
    assert main(["corpus", "build", "--out", str(tmp_path / "c"), *flags]) == 2
    error = capsys.readouterr().err
    assert flags[0] in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags", [["--minutes", "many"], ["--seed", "1.5"], ["--voices", "3"]], ids=" ".join)
def test_what_the_parser_refuses_ends_with_exit_code_2_and_names_the_flag(flags, capsys):
    try:
        code = main(["corpus", "build", *flags])
    except SystemExit as stopped:  # argparse
        code = stopped.code
    assert code == 2 and flags[0] in capsys.readouterr().err


def test_the_working_directory_can_be_the_corpus(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["corpus", "build", "--out", ".", "--minutes", "0.05", "--workers", "0"]) == 0
    assert "noise/test" in capsys.readouterr().out and (tmp_path / "here" / "manifest.csv").is_file()
