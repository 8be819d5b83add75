"""A batch is mixed at once: with the values of a plain loop, whatever else is in it, and on any device."""

import math

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import fftconvolve

from kdse.data import Mixtures
from kdse.seeding import derive_seed
from tests.data.small_corpus import RATE, make_corpus, put, tone_and_pauses

SAMPLES = 8000
SETTINGS = {"segment_seconds": 0.5, "batch_size": 6, "steps_per_epoch": 2, "seed": 7}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Files of half a second to two, one of them 24 bits, one stereo, one that is mostly silent."""
    root = make_corpus(tmp_path_factory.mktemp("corpus"), files=2, seconds=0.4)
    speech = root / "speech" / "train"
    put(speech / "deep.flac", tone_and_pauses(2.0, seed=5), subtype="PCM_24")
    put(speech / "stereo.wav", np.stack([tone_and_pauses(1.5, seed=6), tone_and_pauses(1.5, seed=7)], 1))
    put(speech / "quiet.wav", np.concatenate([np.zeros(2 * RATE), tone_and_pauses(1.0, seed=8), np.zeros(2 * RATE)]))
    return root


def mixtures(root, **settings) -> Mixtures:
    return Mixtures(root=str(root), **{**SETTINGS, **settings})


def training_set(root, **settings):
    module = mixtures(root, **settings)
    return module.mixture_set("train", module.snr_db, SAMPLES, 0, False)


def mean_square(wave: np.ndarray) -> float:
    return float(np.mean(np.square(wave)))


def active_power(wave: np.ndarray) -> float:
    powers = [mean_square(wave[i : i + 320]) for i in range(0, len(wave) - 319, 320)]
    return float(np.mean([power for power in powers if power >= 1e-4 * max(powers)]))


def plain_item(root, index: int, definition: str, rooms: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Noisy and clean audio and SNR in dB of item (3, index), drawn and mixed one by one in float64."""
    seed = derive_seed(7, "mixtures", "train")
    rng = np.random.Generator(np.random.Philox(derive_seed(seed, "item", 3, index)))
    snr_db = rng.uniform(-5, 15)

    def crop(kind: str) -> np.ndarray:
        files = sorted((root / kind / "train").iterdir())
        wave = np.zeros(0)
        while len(wave) < SAMPLES:
            whole, _ = soundfile.read(str(files[rng.integers(len(files))]), always_2d=True)
            missing = SAMPLES - len(wave)
            start = rng.integers(len(whole) - missing + 1) if len(whole) > missing else 0
            wave = np.concatenate([wave, whole[start : start + missing].mean(1)])
        return wave

    drawn: list[np.ndarray] = []
    while len(drawn) < 8:
        drawn.append(crop("speech"))
        if active_power(drawn[-1]) >= 1e-6:  # -60 dBFS
            break
    speech = max(drawn, key=active_power)
    noise, early = crop("noise"), None
    if rooms and rng.random() < 0.5:
        rng.integers(1)
        response, _ = soundfile.read(str(root / "rir" / "train" / "room.wav"))
        direct = int(np.abs(response).argmax())
        response = response[direct:] / abs(response[direct])
        speech, early = (fftconvolve(speech, part)[:SAMPLES] for part in (response, response[: 1 + 50 * 16]))
    level_db = rng.uniform(-36, -20)
    power = active_power(speech) if definition == "active" else mean_square(speech)
    noise = noise * math.sqrt(power / mean_square(noise) / 10 ** (snr_db / 10))
    noisy = speech + noise
    gain = 10 ** (level_db / 20) / math.sqrt(mean_square(noisy))
    gain = min(gain, 0.99 / max(np.abs(noisy).max(), 0 if early is None else np.abs(early).max()))
    return gain * noisy, gain * (speech if early is None else early), snr_db


@pytest.mark.parametrize(("definition", "rooms"), [("rms", False), ("active", True)])
def test_a_batch_has_the_values_of_a_plain_loop_in_float64(corpus, definition, rooms):
    items = training_set(corpus, snr_definition=definition, reverb_share=0.5 if rooms else 0.0)
    for index, item in enumerate(items.__getitems__([(3, i) for i in range(24)])):
        noisy, clean, snr_db = plain_item(corpus, index, definition, rooms)
        for got, wanted in ((item["noisy"], noisy), (item["clean"], clean)):
            np.testing.assert_allclose(got.double().numpy(), wanted, atol=2e-6 * np.abs(wanted).max(), rtol=0)
        assert float(item["snr_db"]) == pytest.approx(snr_db, abs=1e-5)


@pytest.mark.parametrize("definition", ["rms", "active", "lufs"])
def test_an_item_is_the_same_bit_for_bit_alone_in_any_batch_and_with_any_number_of_threads(corpus, definition):
    items = training_set(corpus, snr_definition=definition, reverb_share=0.5, labelled_share=0.5)
    batch = items.__getitems__([(1, i) for i in range(12)])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        parts = [*items.__getitems__([(1, i) for i in range(5)]), *(items[(1, i)] for i in range(5, 12))]
    finally:
        torch.set_num_threads(before)
    for one, other in zip(batch, parts, strict=True):
        assert one.keys() == other.keys() and one["name"] == other["name"]
        for key in one.keys() - {"name"}:
            torch.testing.assert_close(one[key], other[key], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_batches_are_mixed_on_the_device_without_being_read_there(corpus, device):
    """The meta device has no values: whoever asked for one would fail."""
    settings = {"reverb_share": 0.5, "snr_definition": "active", "labelled_share": 0.5}
    here = mixtures(corpus, **settings)
    there = mixtures(corpus, on_accelerator=True, **settings)
    for batch, plan in zip(here.train_dataloader(), there.train_dataloader(), strict=True):
        moved = there.transfer_batch_to_device(plan, torch.device(device), 0)
        assert moved.keys() == batch.keys() and moved["name"] == batch["name"]
        for key in batch.keys() - {"name"}:
            assert (moved[key].shape, moved[key].dtype) == (batch[key].shape, batch[key].dtype)
            assert moved[key].device.type == ("cpu" if key == "labelled" else device)
            if device == "cpu":
                torch.testing.assert_close(moved[key], batch[key], equal_nan=True)


@pytest.mark.parametrize("settings", [{"cache_gb": 0}, {"snr_definition": "lufs"}])
def test_what_cannot_be_done_on_the_accelerator_is_refused_by_name(corpus, settings):
    with pytest.raises(ValueError, match=r"--data.on_accelerator: .*leave one of them out"):
        mixtures(corpus, on_accelerator=True, **settings)


def test_recordings_that_do_not_fit_are_refused_in_one_line(corpus, monkeypatch, capsys):
    data = mixtures(corpus, on_accelerator=True)
    (plan, *_) = data.train_dataloader()

    def full(*_):
        raise torch.OutOfMemoryError("out of memory. Tried to allocate")

    monkeypatch.setattr("kdse.data.corpus.decoded.Decoded.to", full)
    with pytest.raises(ValueError, match=r"^--data.on_accelerator: 0.00 GB of recordings do not fit on cpu .*leave it"):
        data.transfer_batch_to_device(plan, torch.device("cpu"), 0)
    with pytest.raises(ValueError, match=r"^--data.on_accelerator: .*speech/train is not decoded"):
        mixtures(corpus, on_accelerator=True, cache_gb=1e-9).train_dataloader()
    assert "speech/train: decoded it takes" in capsys.readouterr().err
