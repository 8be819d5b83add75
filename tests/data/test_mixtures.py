import math

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import fftconvolve

from kdse.audio.levels import active_db, measured_snr_db, rms_db
from kdse.data import Mixtures, SyntheticCorpus
from tests.data.small_corpus import hiss, make_corpus, put, real_corpus, room, tone_and_pauses

SMALL = {"segment_seconds": 0.5, "validation_seconds": 0.5, "batch_size": 2, "steps_per_epoch": 3, "seed": 7}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def mixtures(root, **settings) -> Mixtures:
    return Mixtures(root=str(root), **{**SMALL, **settings})


def training_items(root, count=8, epoch=0, **settings):
    module = mixtures(root, **settings)
    items = module.mixture_set("train", module.snr_db, round(module.segment_seconds * 16000), 0, False)
    return [items[(epoch, i)] for i in range(count)]


def same(a: dict, b: dict) -> bool:
    def equal(x, y):
        return torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y

    return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)


def test_an_item_keeps_the_batch_contract(corpus):
    item = training_items(corpus, 1)[0]
    assert set(item) == {"noisy", "clean", "snr_db", "samples", "name", "index"}
    assert item["noisy"].shape == item["clean"].shape == (8000,)
    assert item["noisy"].dtype == item["clean"].dtype == item["snr_db"].dtype == torch.float32
    assert int(item["samples"]) == 8000 and item["samples"].dtype == item["index"].dtype == torch.int64


@pytest.mark.parametrize("settings", [{}, {"reverb_share": 0.5}, {"snr_definition": "lufs"}])
def test_an_item_is_a_pure_function_of_seed_epoch_and_index(corpus, settings):
    one = training_items(corpus, 6, **settings)
    torch.manual_seed(12345)
    np.random.seed(5)
    module = mixtures(corpus, **settings)
    again = module.mixture_set("train", module.snr_db, 8000, 0, False)
    assert all(same(one[i], again[(0, i)]) for i in (5, 0, 3, 3))


def test_other_seeds_epochs_indices_and_splits_give_other_items(corpus):
    module = mixtures(corpus)
    items = [*training_items(corpus, 4), *training_items(corpus, 4, epoch=1), *training_items(corpus, 4, seed=8)]
    items += [module.mixture_set("valid", [0, 5], 8000, 4, False)[i] for i in range(4)]
    assert len({item["noisy"].numpy().tobytes() for item in items}) == 16


def test_the_seed_of_the_run_is_the_default(corpus):
    torch.manual_seed(7)
    assert same(training_items(corpus, 1, seed=None)[0], training_items(corpus, 1, seed=7)[0])


@pytest.mark.parametrize("definition", ["rms", "active", "lufs"])
def test_items_have_the_snr_they_state(corpus, definition):
    for item in training_items(corpus, 8, snr_definition=definition):
        assert -5 <= float(item["snr_db"]) <= 15
        got = measured_snr_db(item["clean"], item["noisy"] - item["clean"], definition)
        assert got == pytest.approx(float(item["snr_db"]), abs=0.01)


def test_snr_and_level_are_spread_over_their_ranges(corpus):
    items = training_items(corpus, 200)
    snr = sorted(float(item["snr_db"]) for item in items)
    level = sorted(rms_db(item["noisy"]) for item in items)
    for values, low, high in ((snr, -5, 15), (level, -36, -20)):
        assert low - 1e-3 <= values[0] < low + 1 and high - 1 < values[-1] <= high + 1e-3
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=1.5)


def test_a_list_of_snrs_is_drawn_from(corpus):
    assert {float(i["snr_db"]) for i in training_items(corpus, 40, snr_db=[0, 3, 9])} == {0, 3, 9}
    assert {float(i["snr_db"]) for i in training_items(corpus, 3, snr_db=[4])} == {4}


def test_the_test_set_holds_as_many_items_at_each_snr(corpus):
    loader = mixtures(corpus, test_snr_db=[-5, 5], test_items=3).test_dataloader()
    batches = list(loader)
    assert torch.cat([b["snr_db"] for b in batches]).tolist() == [-5, 5] * 3
    names = [name for b in batches for name in b["name"]]
    assert len(set(names)) == 6


def test_nothing_clips(tmp_path):
    loud = make_corpus(tmp_path)
    for item in training_items(loud, 12, level_dbfs=[-3, 0]):
        assert item["noisy"].abs().max() <= 0.9901 and item["clean"].abs().max() <= 0.9901


def test_with_a_room_the_target_keeps_only_early_reflections(tmp_path):
    corpus = make_corpus(tmp_path, files=1, seconds=0.5)  # crops are the whole file: the dry signal is known
    dry = soundfile.read(str(corpus / "speech/train/voice0.flac"))[0]
    response = room()[80:] / 0.9
    for early_ms in (0.0, 20.0, 50.0):
        early = fftconvolve(dry, response[: 1 + round(early_ms * 16)])[:8000]
        reverberant = fftconvolve(dry, response)[:8000]
        item = training_items(corpus, 1, reverb_share=1.0, early_ms=early_ms)[0]
        clean = item["clean"].double().numpy()
        gain = (clean @ early) / (early @ early)
        np.testing.assert_allclose(clean, gain * early, atol=1e-5 * np.abs(clean).max())
        noise = item["noisy"].double().numpy() - gain * reverberant
        snr = 10 * math.log10(np.mean((gain * reverberant) ** 2) / np.mean(noise**2))
        assert snr == pytest.approx(float(item["snr_db"]), abs=0.02)


def test_the_direct_path_of_a_room_is_not_delayed(tmp_path):
    corpus = make_corpus(tmp_path, files=1, seconds=0.5)
    item = training_items(corpus, 1, reverb_share=1.0, early_ms=0.0)[0]
    dry = tone_and_pauses(0.5)
    correlation = fftconvolve(item["clean"].numpy(), dry[::-1])
    assert int(correlation.argmax()) == len(dry) - 1


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_share_of_rooms_is_kept(corpus, share):
    items = training_items(corpus, 60, reverb_share=share, snr_db=[60])
    dry = sum(measured_snr_db(i["clean"], i["noisy"] - i["clean"]) > 55 for i in items)
    assert dry == 60 if share == 0 else 18 <= dry <= 42


def test_clips_shorter_than_the_segment_are_filled_with_further_clips(corpus):
    for item in training_items(corpus, 4, segment_seconds=3.0):
        assert int(item["samples"]) == 48000
        assert all(active_db(part, 16000) > -70 for part in item["clean"].split(16000))


@pytest.mark.parametrize("rate", [8000, 48000])
def test_stereo_files_of_other_rates_are_mixed_like_any(tmp_path, rate):
    corpus = make_corpus(tmp_path, files=1)
    speech = tone_and_pauses(1.0, rate)
    put(corpus / "speech/train/voice0.flac", np.stack([speech, speech], 1), rate)
    item = training_items(corpus, 1)[0]
    assert item["noisy"].shape == (8000,)
    got = measured_snr_db(item["clean"], item["noisy"] - item["clean"])
    assert got == pytest.approx(float(item["snr_db"]), abs=0.01)


def test_silent_crops_are_drawn_again(tmp_path):
    corpus = make_corpus(tmp_path, files=1)
    put(corpus / "speech/train/voice0.flac", np.concatenate([tone_and_pauses(2.0), np.zeros(2 * 16000)]))
    assert all(active_db(item["clean"], 16000) > -60 for item in training_items(corpus, 30, level_dbfs=[-30, -30]))


def test_a_silent_corpus_gives_finite_items_with_unknown_snr(tmp_path):
    corpus = make_corpus(tmp_path, files=1)
    put(corpus / "speech/train/voice0.flac", np.zeros(16000))
    item = training_items(corpus, 1)[0]
    assert torch.isfinite(item["noisy"]).all() and not item["clean"].any()
    assert math.isnan(float(item["snr_db"]))


def scored_items(root, **settings):
    module = mixtures(root, **settings)
    items = module.mixture_set("test", [0.0], 8000, 24, True)
    return [items[i] for i in range(24)]


@pytest.mark.parametrize("silent", ["noise", "rir", "most of every noise", "most of every speech"])
def test_digital_silence_in_a_corpus_is_drawn_again_and_named_once(tmp_path, caplog, silent):
    corpus = make_corpus(tmp_path, files=2)
    kind = silent.split()[-1]
    if silent == kind:
        put(corpus / kind / "test" / "zeros.flac", np.zeros(16000))
    else:
        for path in (corpus / kind / "test").iterdir():
            wave, _ = soundfile.read(str(path))
            put(path, np.concatenate([np.zeros(15 * len(wave)), wave]))
    settings = {"reverb_share": 1.0} if kind == "rir" else {}
    items = scored_items(corpus, **settings)
    assert all(item["clean"].any() and math.isfinite(item["snr_db"]) for item in items)
    assert all((item["noisy"] - item["clean"]).any() for item in items)
    assert all(same(a, b) for a, b in zip(items, scored_items(corpus, **settings), strict=True))
    named = [record.getMessage().split(": ")[0] for record in caplog.records]
    assert named and len(named) == len(set(named)) and all(f"/{kind}/test/" in name for name in named)
    if silent == kind:
        assert named == [str(corpus / kind / "test" / "zeros.flac")]


def test_what_is_drawn_beside_silence_does_not_change(tmp_path):
    corpus = make_corpus(tmp_path, files=3)
    before = scored_items(corpus)
    put(corpus / "noise" / "test" / "noise1.flac", np.zeros(len(hiss(2.0))))
    after = scored_items(corpus)
    kept = [same(a, b) for a, b in zip(before, after, strict=True)]
    speech = [
        torch.allclose(a["clean"] / a["clean"].abs().max(), b["clean"] / b["clean"].abs().max(), atol=1e-5)
        for a, b in zip(before, after, strict=True)
    ]
    assert 0 < sum(kept) < 24 and all(speech)


def test_a_training_item_may_fall_into_a_pause_of_its_noise_but_not_on_a_file_of_zeros(tmp_path):
    corpus = make_corpus(tmp_path, files=1)
    put(corpus / "noise/train/noise0.flac", np.concatenate([np.zeros(12 * 16000), hiss(2.0)]))
    pauses = [not math.isfinite(item["snr_db"]) for item in training_items(corpus, 24)]
    assert 6 < sum(pauses) < 24
    put(corpus / "noise/train/zeros.flac", np.zeros(14 * 16000))
    more = [math.isfinite(item["snr_db"]) for item in training_items(corpus, 24)]
    assert any(more)


@pytest.mark.parametrize("kind", ["noise", "rir"])
def test_a_corpus_without_any_sound_is_named(tmp_path, kind):
    corpus = make_corpus(tmp_path, files=1)
    for path in (corpus / kind / "test").iterdir():
        put(path, np.zeros(16000))
    with pytest.raises(ValueError, match=f"^[^\\n]*/{kind}/test: .*draws in a row were silent"):
        scored_items(corpus, reverb_share=1.0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_is_named_in_one_line_from_a_data_process_too(tmp_path, workers):
    corpus = make_corpus(tmp_path, files=1)
    wave = hiss(1.0)
    wave[::100] = np.nan
    put(corpus / "noise/train/noise0.flac", hiss(1.0)).unlink()
    put(corpus / "noise/train/broken.wav", wave, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"^[^\n]*broken\.wav: holds NaN[^\n]*$"):
        next(iter(mixtures(corpus, num_workers=workers).train_dataloader()))


@pytest.mark.parametrize("missing", ["speech/train", "noise/valid", "rir/test"])
def test_a_missing_or_empty_folder_is_named(tmp_path, missing):
    corpus = make_corpus(tmp_path, files=1)
    for path in (corpus / missing).iterdir():
        path.unlink()
    module = mixtures(corpus, reverb_share=0.5)
    load = getattr(module, {"train": "train", "valid": "val", "test": "test"}[missing.split("/")[1]] + "_dataloader")
    with pytest.raises(ValueError, match=f"--data.root .*{missing}: holds no audio"):
        load()
    (corpus / missing).rmdir()
    with pytest.raises(ValueError, match=f"--data.root .*{missing}: no such folder"):
        load()


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"snr_definition": "loud"}, "snr_definition"),
        ({"snr_db": [5, -5]}, "snr_db"),
        ({"snr_db": []}, "snr_db"),
        ({"batch_size": 0}, "batch_size"),
        ({"segment_seconds": 0}, "segment_seconds"),
        ({"validation_seconds": 0}, "validation_seconds"),
        ({"validation_items": 0}, "validation_items"),
        ({"test_snr_db": []}, "test_snr_db"),
        ({"test_items": 0}, "test_items"),
        ({"level_dbfs": [-20, -30]}, "level_dbfs"),
        ({"level_dbfs": [-20]}, "level_dbfs"),
        ({"reverb_share": 1.5}, "reverb_share"),
        ({"early_ms": -1}, "early_ms"),
        ({"sample_rate_hz": 0}, "sample_rate_hz"),
        ({"num_workers": -1}, "num_workers"),
        ({"snr_definition": "lufs", "segment_seconds": 0.3}, "snr_definition"),
    ],
)
def test_impossible_settings_are_refused_by_name(corpus, settings, flag):
    with pytest.raises(ValueError, match=f"--data.{flag}"):
        mixtures(corpus, **settings)


def test_the_embedded_corpus_takes_what_mixtures_takes():
    module = SyntheticCorpus(minutes=1.0, snr_db=[0, 5], seed=3)
    assert isinstance(module, Mixtures)
    assert (module.snr_db, module.seed) == ([0, 5], 3)


def test_real_recordings_mix_at_the_stated_snr():
    items = training_items(real_corpus(), 6, segment_seconds=2.0)
    for item in items:
        got = measured_snr_db(item["clean"], item["noisy"] - item["clean"])
        assert got == pytest.approx(float(item["snr_db"]), abs=0.02)
        assert item["noisy"].abs().max() <= 0.9901
        assert active_db(item["clean"], 16000) > -70
