"""Training maps a decoded copy of its recordings: it changes no value, and no fault of it is worse than having none."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from kdse.data import Mixtures, PairedFolders
from kdse.data.corpus import decoded
from tests.data.small_corpus import hiss, make_corpus, put, tone_and_pauses

SETTINGS = {"segment_seconds": 0.5, "batch_size": 8, "steps_per_epoch": 1, "seed": 7}


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(tmp_path / "corpus", files=2)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


def batch(root, **settings) -> dict:
    return next(iter(Mixtures(root=str(root), **{**SETTINGS, **settings}).train_dataloader()))


def same(one: dict, other: dict, **tolerance) -> None:
    assert one["name"] == other["name"]
    for key in ("noisy", "clean", "snr_db"):
        torch.testing.assert_close(one[key], other[key], **(tolerance or {"rtol": 0, "atol": 0}))


def copies(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if path.suffix != ".lock")


def test_mixtures_from_the_copy_are_bit_for_bit_those_from_files_and_it_is_made_once(corpus, cache, capsys):
    put(corpus / "speech/train/float.wav", 1.5 * tone_and_pauses(1.0, seed=9) / 0.05, subtype="FLOAT")  # beyond 1
    put(corpus / "noise/train/deep.flac", hiss(1.0, seed=9), subtype="PCM_24")
    files = batch(corpus, cache_gb=0)
    assert not cache.exists()
    for _ in range(2):
        same(batch(corpus), files)
    said = capsys.readouterr().err
    assert said.count("are decoded once, into") == 2 == len(copies(cache)) and "--data.cache_gb=0" in said


def test_resampled_recordings_agree_to_float_precision(corpus):
    put(corpus / "speech/train/fast.wav", np.stack([tone_and_pauses(1.0, 44100)] * 2, 1), 44100)
    same(batch(corpus), batch(corpus, cache_gb=0), rtol=1e-4, atol=1e-6)


def test_training_crops_of_pairs_and_their_taught_files_are_the_same_from_the_copy(tmp_path):
    for i in range(3):
        clean = tone_and_pauses(1.0, 48000, seed=i)
        for kind, rate, wave in (
            ("clean", 48000, clean),
            ("noisy", 48000, clean + hiss(1.0, 48000, i)),
            ("taught", 16000, tone_and_pauses(1.0, seed=i)),
        ):
            put(tmp_path / kind / f"{i}.wav", wave, rate)
    settings = {"train_noisy": str(tmp_path / "noisy"), "train_clean": str(tmp_path / "clean"), "valid_share": 0.3}
    settings |= {"teacher_folder": str(tmp_path / "taught"), "teacher_delay_samples": 3, "teacher_gain": 2.0}
    one, other = (
        next(iter(PairedFolders(**settings, **{**SETTINGS, "batch_size": 4}, cache_gb=gb).train_dataloader()))
        for gb in (0, 1)
    )
    assert one["name"] == other["name"] and one["taught"].any()
    for key in ("noisy", "clean", "taught"):
        torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-6)


def test_a_changed_recording_is_decoded_again_and_the_old_copy_is_left_to_who_uses_it(corpus, cache):
    before = batch(corpus)
    made = copies(cache)
    path = corpus / "noise/train/noise0.flac"
    put(path, 0.5 * hiss(1.0, seed=77))
    os.utime(path, (1, 1))
    changed = batch(corpus)
    same(changed, batch(corpus, cache_gb=0))
    assert not torch.equal(before["noisy"], changed["noisy"])
    assert set(made) < set(copies(cache))


def test_copies_that_nobody_used_for_a_month_are_removed(corpus, cache):
    batch(corpus)
    old, used = copies(cache)
    others = [cache / "speech.wav", cache / ".notes"]  # the user's, in a folder that happens to have this name
    for file in (cache / old, *others):
        file.touch()
        os.utime(file, (1, 1))
    put(corpus / "speech/train/more.flac", tone_and_pauses(1.0, seed=40))
    put(corpus / "noise/train/more.flac", hiss(1.0, seed=40))
    batch(corpus)
    assert old not in copies(cache) and used in copies(cache) and len(copies(cache)) == 3 + len(others)
    assert all(file.exists() for file in others)


@pytest.mark.parametrize("fault", ["full", "fills up", "too large", "a file is there"])
def test_where_the_copy_cannot_be_kept_the_files_are_read_and_a_line_says_why(
    corpus, cache, monkeypatch, capsys, fault
):
    def fills_up(_):
        raise OSError(28, "No space left on device")

    gb = 1.0
    if fault == "full":
        monkeypatch.setattr(decoded.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    elif fault == "fills up":
        monkeypatch.setattr(decoded.os, "fsync", fills_up)
    elif fault == "too large":
        gb = 1e-5
    else:
        cache.parent.mkdir()
        cache.write_text("mine")
    same(batch(corpus, cache_gb=gb), batch(corpus, cache_gb=0))
    said = capsys.readouterr().err
    reasons = {"full": "are free", "fills up": "No space left", "too large": "--data.cache_gb=1e-05"}
    assert said.count("files are read") == 2 and said.count(reasons.get(fault, "exists")) >= 2
    assert not cache.is_dir() or copies(cache) == []


def test_a_damaged_copy_is_made_again(corpus, cache):
    whole = batch(corpus)
    for name, damage in zip(copies(cache), (lambda raw: raw[:-100], lambda raw: b"x" * len(raw)), strict=True):
        (cache / name).write_bytes(damage((cache / name).read_bytes()))
    same(batch(corpus), whole)


def test_a_data_process_that_finds_no_copy_reads_the_files(corpus, cache):
    items = Mixtures(root=str(corpus), **SETTINGS).train_dataloader().dataset
    sent = pickle.dumps(items)
    for there in (True, False):
        arrived = pickle.loads(sent)
        assert (arrived.speech.decoded is not None) == there
        same(arrived[(2, 5)], items[(2, 5)])
        for name in copies(cache):
            (cache / name).unlink()


MAKE = """
import os, signal, sys
from kdse.data import Mixtures
from kdse.data.corpus import decoded

if sys.argv[2] == "killed":
    decoded.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
(batch,) = Mixtures(sys.argv[1], segment_seconds=0.5, batch_size=8, steps_per_epoch=1, seed=7).train_dataloader()
print(batch["noisy"].numpy().tobytes().hex())
"""


@pytest.mark.integration
def test_a_killed_process_leaves_nothing_that_counts_and_of_two_at_once_one_decodes(corpus, cache):
    def start(how: str) -> subprocess.Popen:
        command = [sys.executable, "-c", MAKE, str(corpus), how]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    killed = start("killed")
    killed.communicate(timeout=100)
    assert killed.returncode == -9 and [name[0] for name in copies(cache)] == ["."]
    two = [start("as usual") for _ in range(2)]
    outputs = [process.communicate(timeout=100) for process in two]
    wanted = batch(corpus, cache_gb=0)["noisy"].numpy().tobytes().hex()
    assert [out.strip() for out, _ in outputs] == [wanted, wanted]
    assert sum(err.count("are decoded once") for _, err in outputs) == 2  # speech and noise
    assert len(copies(cache)) == 2 and not any(name.startswith(".") for name in copies(cache))
