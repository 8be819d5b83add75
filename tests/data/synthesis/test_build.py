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

from kdse.cli import main
from kdse.data import Mixtures, SyntheticCorpus
from kdse.data.synthesis import build as building
from kdse.data.synthesis.build import build, cache_folder
from kdse.data.synthesis.plan import Settings, plan
from tests.data.synthesis.conftest import SETTINGS


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def audio_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.flac"))}


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


def test_the_same_settings_give_the_same_bytes_whatever_the_number_of_workers(corpus, tmp_path):
    build(SETTINGS, tmp_path / "again", workers=0, progress=False)
    assert audio_bytes(tmp_path / "again") == audio_bytes(corpus)


def test_an_interrupted_build_leaves_no_corpus_and_is_finished_by_the_next(tmp_path, monkeypatch):
    settings, folder, rendered = Settings(minutes=0.05), tmp_path / "corpus", []
    real = building.render

    def dies(clip, where):
        if len(rendered) == 3:
            raise KeyboardInterrupt
        real(clip, where)
        rendered.append(clip.path)

    monkeypatch.setattr(building, "render", dies)
    with pytest.raises(KeyboardInterrupt):
        build(settings, folder, workers=0, progress=False)
    assert not folder.exists()
    kept = {path: (tmp_path / "corpus.partial" / path).stat().st_mtime_ns for path in rendered}
    monkeypatch.setattr(building, "render", real)
    assert build(settings, folder, workers=0, progress=False)
    assert all((folder / path).stat().st_mtime_ns == when for path, when in kept.items())
    assert not build(settings, folder, workers=0, progress=False) and not (tmp_path / "corpus.partial").exists()


def test_what_somebody_else_put_there_is_never_overwritten(corpus, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="not an embedded corpus"):
        build(SETTINGS, tmp_path / "mine", workers=0, progress=False)
    with pytest.raises(ValueError, match="other settings"):
        build(Settings(minutes=0.7), corpus, workers=0, progress=False)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_a_full_disk_is_one_line_that_names_the_place(tmp_path, monkeypatch):
    def full(clip, where):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(building, "render", full)
    with pytest.raises(ValueError, match=r"corpus.*No space left.*KDSE_CACHE"):
        build(Settings(minutes=0.05), tmp_path / "corpus", workers=0, progress=False)


def test_the_data_module_is_mixtures_on_the_built_folder(corpus, tmp_path):
    shutil.copytree(corpus, cache_folder(SETTINGS, tmp_path))
    common = {"segment_seconds": 0.5, "batch_size": 2, "steps_per_epoch": 2, "seed": 5}
    synthetic = SyntheticCorpus(minutes=SETTINGS.minutes, corpus_seed=SETTINGS.seed, cache_dir=str(tmp_path), **common)
    synthetic.prepare_data()
    plain = Mixtures(root=str(corpus), **common)
    for a, b in zip(synthetic.train_dataloader(), plain.train_dataloader(), strict=True):
        assert a["name"] == b["name"] and torch.equal(a["noisy"], b["noisy"]) and torch.equal(a["clean"], b["clean"])


def test_the_command_builds_once_and_reports(tmp_path, capsys):
    command = ["corpus", "build", "--out", str(tmp_path / "corpus"), "--minutes", "0.05", "--workers", "0", "--json"]
    assert main(command) == 0 and json.loads(capsys.readouterr().out)["generated"] is True
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["generated"] is False and report["parts"]["noise/test"]["types"] == ["wind", "rain", "dishes"]


@pytest.mark.parametrize("flags", [["--minutes", "0"], ["--minutes", "9999"], ["--workers", "-1"]], ids=" ".join)
def test_a_wrong_setting_is_one_line_and_exit_code_2(flags, tmp_path, capsys):
    assert main(["corpus", "build", "--out", str(tmp_path / "c"), *flags]) == 2
    assert flags[0] in capsys.readouterr().err
