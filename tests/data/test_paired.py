import math

import numpy as np
import pytest
import torch

from kdse.audio.files import read
from kdse.data import PairedFolders
from kdse.data.file_pairs import find_pairs, snr_in_name
from kdse.data.paired import CropSet
from kdse.evaluation.held_out import paired
from tests.data.small_corpus import hiss, put, real_corpus, tone_and_pauses

FLAGS = ("--data.noisy", "--data.clean")


def put_pair(noisy, clean, seconds=0.5, rate=16000, seed=0):
    speech = tone_and_pauses(seconds, rate, seed)
    put(clean, speech, rate)
    put(noisy, speech + hiss(seconds, rate, seed), rate)


def two_folders(root, names=("a", "b", "c"), **settings):
    for i, name in enumerate(names):
        put_pair(root / "noisy" / f"{name}.wav", root / "clean" / f"{name}.wav", seed=i, **settings)
    return root / "noisy", root / "clean"


@pytest.fixture(scope="module")
def voicebank(tmp_path_factory):
    """VoiceBank-DEMAND as distributed, with 4 speakers and 3 utterances each, at 48 kHz."""
    root = tmp_path_factory.mktemp("voicebank")
    for s, who in enumerate(("p226", "p228", "p230", "p287")):
        for u in range(3):
            name = f"{who}_{u:03d}.wav"
            folders = root / "noisy_trainset_28spk_wav", root / "clean_trainset_28spk_wav"
            put_pair(folders[0] / name, folders[1] / name, 0.3 + 0.1 * u, 48000, 10 * s + u)
    for u in range(3):
        name = f"p232_{u:03d}.wav"
        put_pair(root / "noisy_testset_wav" / name, root / "clean_testset_wav" / name, 0.3 + 0.1 * u, 48000, 90 + u)
    return root


def names(loader) -> list[str]:
    return [name for batch in loader for name in batch["name"]]


def test_voicebank_as_distributed_is_found_resampled_and_split_by_speaker(voicebank):
    module = PairedFolders(root=str(voicebank), batch_size=2, segment_seconds=0.25, seed=0)
    assert names(module.test_dataloader()) == ["p232_000", "p232_001", "p232_002"]
    assert names(module.val_dataloader()) == [f"{who}_{u:03d}" for who in ("p226", "p287") for u in range(3)]
    batches = list(module.train_dataloader())
    assert len(batches) == 3  # 6 pairs, once through them
    trained = sorted(name.split("-")[-1] for name in names(batches))
    assert trained == [f"{who}_{u:03d}" for who in ("p228", "p230") for u in range(3)]
    assert batches[0]["noisy"].shape == batches[0]["clean"].shape == (2, 4000)
    item = next(iter(module.test_dataloader()))
    assert torch.equal(item["clean"][0, :4800], read(voicebank / "clean_testset_wav" / "p232_000.wav", 16000))


def test_validation_speakers_are_held_out_by_a_flag(voicebank):
    module = PairedFolders(root=str(voicebank), valid_speakers=["p228"])
    assert {p.name[:4] for p in module.pairs("valid")} == {"p228"}
    assert {p.name[:4] for p in module.pairs("train")} == {"p226", "p230", "p287"}
    with pytest.raises(ValueError, match=r"--data\.valid_speakers p999: not in .*it has p226, p228, p230, p287"):
        PairedFolders(root=str(voicebank), valid_speakers=["p228", "p999"]).pairs("train")


def test_dns_files_are_matched_by_file_id_and_state_their_snr(tmp_path):
    stated = {0: "snr15", 1: "snr-3", 17: "snr0"}
    for number, snr in stated.items():
        noisy = tmp_path / "noisy" / f"clnsp{number}_fan_19_{snr}_tl-21_fileid_{number}.wav"
        put_pair(noisy, tmp_path / "clean" / f"clean_fileid_{number}.wav", seed=number)
    module = PairedFolders(root=str(tmp_path), batch_size=3)
    found = {pair.name.rsplit("_", 1)[1]: pair for pair in module.pairs("test")}
    assert {int(key): pair.snr_db for key, pair in found.items()} == {0: 15, 1: -3, 17: 0}
    assert all(pair.clean.endswith(f"clean_fileid_{key}.wav") for key, pair in found.items())
    batch = next(iter(module.test_dataloader()))
    assert sorted(batch["snr_db"].tolist()) == [-3, 0, 15]


@pytest.mark.parametrize(
    ("name", "snr_db"), [("x_snr7_tl-20_fileid_3", 7), ("a/x_SNR-2.5", -2.5), ("snr40", 40), ("snrub_7", math.nan)]
)
def test_the_snr_is_read_from_a_name(name, snr_db):
    assert snr_in_name(name) == pytest.approx(snr_db, nan_ok=True)


def test_two_folders_are_matched_by_relative_name_whatever_the_format(tmp_path):
    put_pair(tmp_path / "noisy" / "x" / "1.flac", tmp_path / "clean" / "x" / "1.wav")
    put_pair(tmp_path / "noisy" / "y" / "1.wav", tmp_path / "clean" / "y" / "1.wav", rate=48000)
    pairs = find_pairs(tmp_path / "noisy", tmp_path / "clean", 16000, FLAGS)
    assert [(p.name, p.samples) for p in pairs] == [("x/1", 8000), ("y/1", 8000)]
    assert all(math.isnan(p.snr_db) for p in pairs)


def test_whole_files_are_padded_on_the_right_and_state_their_length(tmp_path):
    for i, seconds in enumerate((0.3, 0.5, 0.4)):
        put_pair(tmp_path / "noisy" / f"{i}.wav", tmp_path / "clean" / f"{i}.wav", seconds, seed=i)
    module = PairedFolders(noisy=str(tmp_path / "noisy"), clean=str(tmp_path / "clean"), batch_size=3)
    (batch,) = list(module.test_dataloader())
    assert batch["samples"].tolist() == [4800, 8000, 6400]
    assert batch["noisy"].shape == batch["clean"].shape == (3, 8000)
    for i, n in enumerate(batch["samples"].tolist()):
        assert torch.equal(batch["noisy"][i, :n], read(tmp_path / "noisy" / f"{i}.wav", 16000))
        assert not batch["noisy"][i, n:].any() and not batch["clean"][i, n:].any()


def test_evaluate_pairs_the_same_files(tmp_path):
    noisy, clean = two_folders(tmp_path)
    module = PairedFolders(noisy=str(noisy), clean=str(clean))
    items = list(paired(noisy, clean, 16000))
    assert [item.name for item in items] == [pair.name for pair in module.pairs("test")]
    assert all(torch.equal(item.clean, read(clean / f"{item.name}.wav", 16000)) for item in items)


def test_a_crop_is_the_same_part_of_both_files(voicebank):
    module = PairedFolders(root=str(voicebank), segment_seconds=0.1, batch_size=2, seed=0)
    for batch in module.train_dataloader():
        for name, noisy, clean in zip(batch["name"], batch["noisy"], batch["clean"], strict=True):
            file = f"{name.split('-')[-1]}.wav"
            whole = read(voicebank / "noisy_trainset_28spk_wav" / file, 16000)
            starts = [float((whole[s : s + 1600] - noisy).abs().max()) for s in range(len(whole) - 1599)]
            start = int(np.argmin(starts))
            assert starts[start] < 1e-5
            whole = read(voicebank / "clean_trainset_28spk_wav" / file, 16000)
            torch.testing.assert_close(whole[start : start + 1600], clean, atol=1e-5, rtol=0)


def test_every_epoch_and_index_crops_anew(voicebank):
    pairs = PairedFolders(root=str(voicebank)).pairs("train")[2:3]
    crops = CropSet(pairs, 16000, 1600, seed=0)
    assert len({crops[(epoch, i)]["noisy"].numpy().tobytes() for epoch in range(3) for i in range(6)}) > 15


def test_crops_and_order_depend_on_seed_and_epoch_only(voicebank):
    def run(seed):
        loader = PairedFolders(root=str(voicebank), segment_seconds=0.1, batch_size=2, seed=seed).train_dataloader()
        return [(b["name"], b["noisy"]) for _ in range(2) for b in loader]

    one, again, other = run(3), run(3), run(4)
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(one, again, strict=True))
    files = [[name.split("-")[-1] for batch, _ in part for name in batch] for part in (one[:3], one[3:], other[:3])]
    assert files[0] != files[1] and files[0] != files[2]
    assert sorted(files[0]) == sorted(files[1]) == sorted(files[2])


def test_an_epoch_longer_than_the_set_goes_through_it_again(voicebank):
    module = PairedFolders(root=str(voicebank), segment_seconds=0.1, batch_size=3, steps_per_epoch=4, seed=0)
    files = [name.split("-")[-1] for name in names(module.train_dataloader())]
    assert sorted(files[:6]) == sorted(files[6:]) and files[:6] != files[6:]


def test_a_pair_shorter_than_the_crop_is_repeated(tmp_path):
    noisy, clean = two_folders(tmp_path, seconds=0.2)
    module = PairedFolders(train_noisy=str(noisy), train_clean=str(clean), segment_seconds=0.5, batch_size=1)
    batch = next(iter(module.train_dataloader()))
    assert batch["samples"].tolist() == [8000]
    for key in ("noisy", "clean"):
        assert torch.equal(batch[key][0, :4800], batch[key][0, 3200:])


def test_without_speakers_a_share_of_the_pairs_is_held_out_whatever_the_seed(tmp_path):
    noisy, clean = two_folders(tmp_path, [f"{i:02d}" for i in range(20)], seconds=0.1)
    folders = {"train_noisy": str(noisy), "train_clean": str(clean)}
    splits = []
    for seed in (0, 1):
        module = PairedFolders(**folders, valid_share=0.2, seed=seed)
        splits.append([{p.name for p in module.pairs(split)} for split in ("train", "valid")])
    assert splits[0] == splits[1]
    train, valid = splits[0]
    assert len(valid) == 4 and len(train) == 16 and not train & valid


def test_training_without_training_folders_says_what_to_give(tmp_path):
    noisy, clean = two_folders(tmp_path)
    module = PairedFolders(noisy=str(noisy), clean=str(clean))
    assert len(names(module.val_dataloader())) == 3
    with pytest.raises(ValueError, match=r"no training pairs: .*--data\.train_noisy and --data\.train_clean"):
        module.train_dataloader()
    with pytest.raises(ValueError, match=r"no test pairs: .*--data\.noisy and --data\.clean"):
        PairedFolders(train_noisy=str(noisy), train_clean=str(clean)).test_dataloader()


def test_missing_and_empty_folders_are_named(tmp_path):
    noisy, clean = two_folders(tmp_path)
    (tmp_path / "empty").mkdir()
    for folders, message in (
        ((tmp_path / "nowhere", clean), "--data.noisy .*nowhere: no such folder"),
        ((noisy, tmp_path / "empty"), "--data.clean .*empty: holds no audio"),
    ):
        with pytest.raises(ValueError, match=message):
            find_pairs(*folders, 16000, FLAGS)
    with pytest.raises(ValueError, match="--data.root .*nowhere: no such folder"):
        PairedFolders(root=str(tmp_path / "nowhere")).test_dataloader()
    with pytest.raises(ValueError, match="--data.root .*empty: holds neither noisy_testset_wav"):
        PairedFolders(root=str(tmp_path / "empty")).test_dataloader()
    with pytest.raises(ValueError, match="--paired .*nowhere: no such folder"):
        paired(tmp_path / "nowhere", clean, 16000)


def test_files_without_a_partner_are_named(tmp_path):
    noisy, clean = two_folders(tmp_path, [f"{i}" for i in range(9)], seconds=0.1)
    (clean / "2.wav").unlink()
    with pytest.raises(ValueError, match=r"no partner in .*clean for 2\.wav of .*noisy \(matched by equal relative"):
        find_pairs(noisy, clean, 16000, FLAGS)
    for i in range(5):
        (clean / f"{i}.wav").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"for 0\.wav, 1\.wav, 2\.wav, 3\.wav, 4\.wav of"):
        find_pairs(noisy, clean, 16000, FLAGS)
    with pytest.raises(ValueError, match=r"for 0\.wav, 1\.wav, 2\.wav, 3\.wav, 4\.wav of"):
        find_pairs(clean, noisy, 16000, FLAGS)


def test_files_that_cannot_be_told_apart_are_named(tmp_path):
    noisy, clean = two_folders(tmp_path)
    put(noisy / "a.flac", hiss(0.5))
    with pytest.raises(ValueError, match=r"--data\.noisy .*a\.flac and a\.wav cannot be told apart"):
        find_pairs(noisy, clean, 16000, FLAGS)


def test_a_small_difference_in_length_is_cut_and_a_larger_one_is_refused(tmp_path):
    noisy, clean = two_folders(tmp_path, ["a"])
    put(clean / "a.wav", tone_and_pauses(0.51))
    (batch,) = list(PairedFolders(noisy=str(noisy), clean=str(clean)).test_dataloader())
    assert batch["samples"].tolist() == [8000] and batch["clean"].shape == (1, 8000)
    put(clean / "a.wav", tone_and_pauses(0.53))
    with pytest.raises(ValueError, match=r"noisy.a\.wav lasts 0\.500 s and .*clean.a\.wav 0\.530 s"):
        find_pairs(noisy, clean, 16000, FLAGS)


def test_an_unreadable_file_is_named(tmp_path):
    noisy, clean = two_folders(tmp_path)
    (noisy / "b.wav").write_bytes(b"not audio")
    with pytest.raises(ValueError, match=r"^[^\n]*noisy.b\.wav: not readable as audio[^\n]*$"):
        find_pairs(noisy, clean, 16000, FLAGS)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({}, "--data.root"),
        ({"noisy": "x"}, "--data.noisy and --data.clean go together"),
        ({"train_clean": "x"}, "--data.train_noisy and --data.train_clean go together"),
        ({"root": "x", "batch_size": 0}, "--data.batch_size"),
        ({"root": "x", "steps_per_epoch": 0}, "--data.steps_per_epoch"),
        ({"root": "x", "segment_seconds": 0}, "--data.segment_seconds"),
        ({"root": "x", "valid_share": 1.0}, "--data.valid_share"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, flag):
    with pytest.raises(ValueError, match=flag):
        PairedFolders(**settings)


def test_the_real_pairs_have_the_published_noisy_si_sdr():
    """6.043 dB (plain SI-SDR over the 110 pairs) is the corpus README's number."""
    folder = real_corpus() / "pairs" / "vbdmd_test"
    module = PairedFolders(root=str(folder), batch_size=8)
    assert len(module.pairs("test")) == 110
    values = []
    for batch in module.test_dataloader():
        for noisy, clean in zip(batch["noisy"].double(), batch["clean"].double(), strict=True):
            target = (noisy @ clean) / (clean @ clean) * clean
            values.append(10 * math.log10(float(target.square().sum() / (noisy - target).square().sum())))
    assert np.mean(values) == pytest.approx(6.043, abs=0.002)
