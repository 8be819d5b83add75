"""Results are written in the source's format, whole or not at all, and failures are errors, not noise."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from kdse.deploy.writing import write_like


def record(path: Path, rate: int = 48000, channels: int = 2, **settings: str) -> Path:
    soundfile.write(path, np.zeros((1000, channels)), rate, **settings)
    return path


@pytest.fixture
def almost_full_disk():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))  # a write beyond it fails, as on a full disk
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("name", "subtype"), [("a.wav", "PCM_24"), ("a.wav", "FLOAT"), ("a.flac", "PCM_16"), ("a.ogg", "VORBIS")]
)
def test_what_is_written_has_the_format_of_the_source(tmp_path, name, subtype):
    wave = 0.1 * torch.randn(2, 40_000, generator=torch.Generator().manual_seed(0))
    target = tmp_path / "new" / name
    with soundfile.SoundFile(record(tmp_path / name, subtype=subtype)) as reader, write_like(reader, target) as write:
        for piece in wave.split([1, 0, 30_000, 9_999], dim=1):
            write(piece)
    written, rate = soundfile.read(target, dtype="float32")
    assert soundfile.info(target).subtype == subtype and rate == 48000 and written.shape == (40_000, 2)
    if subtype != "VORBIS":
        np.testing.assert_allclose(written.T, wave, atol=2**-14)


def test_a_minute_of_vorbis_in_one_piece_does_not_crash_libsndfile(tmp_path):
    source, target = record(tmp_path / "a.ogg"), tmp_path / "new.ogg"
    with soundfile.SoundFile(source) as reader, write_like(reader, target) as write:
        write(torch.zeros(2, 60 * 48000))
    assert soundfile.info(target).frames == 60 * 48000


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path, name, almost_full_disk, capfd):
    source, target = record(tmp_path / name), tmp_path / "new" / name
    with soundfile.SoundFile(source) as reader:  # noqa: SIM117
        with pytest.raises(OSError, match="File too large"), write_like(reader, target) as write:
            write(0.1 * torch.randn(2, 200_000))
    assert not list(target.parent.iterdir()) and capfd.readouterr().err == ""


def test_an_interruption_leaves_the_previous_result(tmp_path):
    source, target = record(tmp_path / "a.wav"), tmp_path / "new.wav"
    target.write_text("the previous result")
    with soundfile.SoundFile(source) as reader, pytest.raises(KeyboardInterrupt), write_like(reader, target) as write:
        write(torch.zeros(2, 5000))
        raise KeyboardInterrupt
    assert target.read_text() == "the previous result"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.wav", "new.wav"]
