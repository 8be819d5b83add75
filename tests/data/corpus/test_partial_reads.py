"""A crop costs a crop: neither the rest of the recording is decoded, nor read from the disk or a shard."""

import io

import numpy as np
import pytest
import soundfile
import torch

from kdse.audio.files import read
from kdse.data import Mixtures
from kdse.data.corpus.packing import pack
from tests.data.small_corpus import hiss, make_corpus, put, tone_and_pauses

RATE, LONG, CROP = 16000, 120, 2


@pytest.fixture
def decoded(monkeypatch):
    """Samples of every channel that were asked of the decoder, and how often a recording was opened."""
    counts = {"samples": 0, "opened": 0}
    original = soundfile.SoundFile.read
    opening = soundfile.SoundFile.__init__

    def counted(self, *args, **kwargs):
        data = original(self, *args, **kwargs)
        counts["samples"] += len(data)
        return data

    def opened(self, *args, **kwargs):
        counts["opened"] += 1
        opening(self, *args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    monkeypatch.setattr(soundfile.SoundFile, "__init__", opened)
    return counts


class CountingBytes(io.RawIOBase):
    """An encoded file that notes how much of it was taken."""

    def __init__(self, content: bytes) -> None:
        self.file, self.taken = io.BytesIO(content), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, *where: int) -> int:
        return self.file.seek(*where)

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer) -> int:
        count = self.file.readinto(buffer)
        self.taken += count
        return count


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rate", [16000, 48000])
def test_a_mixture_of_long_recordings_decodes_no_more_than_its_crops(tmp_path, decoded, packed, rate):
    root = make_corpus(tmp_path / "c", files=1)
    for kind, name, wave in (("speech", "voice0", tone_and_pauses(30, rate)), ("noise", "noise0", hiss(30, rate))):
        put(root / kind / "train" / f"{name}.flac", wave, rate)
    if packed:
        pack(root, tmp_path / "p", workers=0)
    data = Mixtures(str(tmp_path / "p" if packed else root), segment_seconds=CROP, seed=1)
    items = data.mixture_set("train", [0, 5], CROP * RATE, 0, False)
    decoded.update(samples=0, opened=0)
    for i in range(10):
        assert items[(0, i)]["noisy"].numel() == CROP * RATE
    assert decoded["opened"] >= 20
    assert decoded["samples"] <= decoded["opened"] * (CROP * rate + 200)  # 200: context of the resampling filter
    assert decoded["samples"] < decoded["opened"] * 30 * rate / 10


@pytest.mark.parametrize(("extension", "share"), [("wav", 0.02), ("flac", 0.05), ("ogg", 0.35)])
def test_seeking_reads_a_small_part_of_the_file_and_equals_that_part_of_the_whole(tmp_path, extension, share):
    """Ogg has no table of its pages: the decoder finds the place by bisection, at some 150 kB whatever the length."""
    path = put(tmp_path / f"x.{extension}", tone_and_pauses(LONG) + hiss(LONG) / 5)
    whole = read(path, RATE)
    for start in (0, 900001, (LONG - CROP) * RATE):
        source = CountingBytes(path.read_bytes())
        part = read(path, RATE, start, start + CROP * RATE, source)
        assert torch.equal(part, whole[start : start + CROP * RATE])
        assert source.taken < share * path.stat().st_size


def test_of_a_local_shard_only_the_neighbourhood_of_the_crop_is_read(tmp_path, monkeypatch):
    import kdse.data.corpus.shards as shards
    from kdse.data.corpus.corpora import scan

    for i in range(4):
        put(tmp_path / "c" / f"{i}.wav", np.full(LONG * RATE, 0.1 * i + 0.05))
    pack(tmp_path / "c", tmp_path / "p", workers=0)
    taken = []
    original = shards.Window.readinto
    monkeypatch.setattr(shards.Window, "readinto", lambda self, b: taken.append(original(self, b)) or taken[-1])
    corpus = scan(tmp_path / "p", "--x")
    for place in (3, 0, 2):
        wave = corpus.read(place, RATE, 50 * RATE, 52 * RATE)
        assert torch.allclose(wave, torch.tensor(0.1 * place + 0.05), atol=1e-4)
    assert sum(taken) < 3 * 0.1 * 2 * LONG * RATE
