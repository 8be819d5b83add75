"""Learning with little clean speech: which files are labelled, and that nothing shows the others'."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import correlate

from kdse.audio.files import read
from kdse.data import Mixtures, PairedFolders, SyntheticCorpus
from kdse.data.labelled import labelled_places
from tests.data.small_corpus import hiss, make_corpus, put, tone_and_pauses
from tests.data.test_position import on_rank

NAMES = [f"speaker{i % 7}/utterance{i}.flac" for i in range(97)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus to mix, and 20 pairs."""
    root = make_corpus(tmp_path_factory.mktemp("corpus"), files=6, seconds=0.5)
    for i in range(20):
        clean = tone_and_pauses(0.3, seed=i)
        put(root / "clean" / f"{i}.wav", clean, subtype="FLOAT")
        put(root / "noisy" / f"{i}.wav", clean + hiss(0.3, seed=i), subtype="FLOAT")
    return root


def mixtures(folder, **settings) -> Mixtures:
    common = {"segment_seconds": 0.3, "batch_size": 8, "steps_per_epoch": 5, "validation_items": 2, "seed": 7}
    return Mixtures(root=str(folder), **{**common, "validation_seconds": 0.3, **settings})


def paired(folder, **settings) -> PairedFolders:
    common = {"segment_seconds": 0.2, "batch_size": 4, "seed": 7}
    train = {"train_noisy": str(folder / "noisy"), "train_clean": str(folder / "clean")}
    return PairedFolders(**{**train, **common, **settings})


def epoch(module) -> list[dict]:
    return list(module.train_dataloader())


def test_the_labelled_files_of_a_share_are_among_those_of_every_larger_one():
    shares = [0, 0.001, 0.1, 0.25, 0.5, 0.9, 1]
    found = [labelled_places(NAMES, share, 3) for share in shares]
    assert all(small <= large for small, large in zip(found, found[1:], strict=False))
    assert [len(places) for places in found] == [0, 1, 10, 24, 48, 87, 97]


def test_which_files_are_labelled_depends_on_their_names_and_the_seed_alone():
    some = {NAMES[place] for place in labelled_places(NAMES, 0.3, 0)}
    mirrored = NAMES[::-1]
    assert some == {mirrored[place] for place in labelled_places(mirrored, 0.3, 0)}
    assert some != {NAMES[place] for place in labelled_places(NAMES, 0.3, 1)}


@pytest.mark.parametrize("make", [mixtures, paired])
def test_a_share_of_one_leaves_the_batch_as_it_is(folder, make):
    (one, *_), (plain, *_) = epoch(make(folder, labelled_share=1.0)), epoch(make(folder))
    assert set(one) == set(plain) == {"noisy", "clean", "snr_db", "samples", "name", "index"}
    assert torch.equal(one["noisy"], plain["noisy"]) and torch.equal(one["clean"], plain["clean"])


@pytest.mark.parametrize("make", [mixtures, paired])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_only_unlabelled_clean_speech_is_gone_and_the_noisy_audio_stays(folder, make, share):
    seen = []
    for batch, whole in zip(epoch(make(folder, labelled_share=share)), epoch(make(folder)), strict=True):
        assert batch["labelled"].dtype == torch.bool and batch["labelled"].shape == (len(batch["noisy"]),)
        assert batch["name"] == whole["name"] and torch.equal(batch["noisy"], whole["noisy"])
        wanted = torch.where(batch["labelled"][:, None], whole["clean"], 0.0)
        assert torch.equal(batch["clean"], wanted) and whole["clean"].abs().sum(1).min() > 0
        seen.append(batch["labelled"])
    labelled = torch.cat(seen)
    assert labelled.any() == (share > 0) and not labelled.all()


def test_a_mixture_is_labelled_by_its_speech_file(folder):
    """Crops are looked up in the training files: exactly those from labelled files are labelled."""
    module = mixtures(folder, labelled_share=0.5, snr_db=[0])
    files = sorted((folder / "speech" / "train").iterdir())
    mine = {files[place] for place in labelled_places([f.name for f in files], 0.5, 0)}
    assert len(mine) == 3
    whole = epoch(mixtures(folder, snr_db=[0]))
    for batch, full in zip(epoch(module), whole, strict=True):
        for clean, labelled in zip(full["clean"], batch["labelled"].tolist(), strict=True):
            from_file = [f for f in files if _holds(read(f, 16000), clean)]
            assert len(from_file) == 1 and labelled == (from_file[0] in mine)


def _holds(whole: torch.Tensor, part: torch.Tensor) -> bool:
    """Whether a scaled copy of ``part`` is somewhere in ``whole``, by normalised correlation."""
    x, y = whole.double().numpy(), part.double().numpy()
    match = correlate(x, y, "valid", "fft") ** 2
    energy = correlate(x**2, np.ones(len(y)), "valid", "fft") * (y**2).sum()
    return bool((match / energy).max() > 0.9999)


def test_an_item_joined_from_several_files_is_labelled_only_if_all_are(tmp_path):
    root = make_corpus(tmp_path, files=2, seconds=0.2)
    module = mixtures(root, labelled_share=0.5, segment_seconds=1.0, batch_size=40, steps_per_epoch=2)
    labelled = torch.cat([batch["labelled"] for batch in epoch(module)])
    assert labelled.float().mean() < 0.3  # three or more draws of one file among two


def test_the_snr_of_an_unlabelled_mixture_is_unknown(folder):
    for batch in epoch(mixtures(folder, labelled_share=0.5)):
        assert torch.equal(batch["snr_db"].isnan(), ~batch["labelled"])


@pytest.mark.parametrize("make", [mixtures, paired])
def test_validation_and_test_stay_labelled(folder, make):
    test = {} if make is mixtures else {"noisy": str(folder / "noisy"), "clean": str(folder / "clean")}
    module = make(folder, labelled_share=0.0, **test)
    for loader in (module.val_dataloader(), module.test_dataloader()):
        for batch in loader:
            assert "labelled" not in batch and batch["clean"].abs().sum(1).min() > 0


def test_pairs_of_a_smaller_share_are_among_those_of_a_larger(folder):
    def labelled(share: float) -> set[str]:
        batches = epoch(paired(folder, labelled_share=share))
        rows = [row for b in batches for row in zip(b["name"], b["labelled"].tolist(), strict=True)]
        return {name.split("-", 2)[2] for name, yes in rows if yes}

    few, many = labelled(0.2), labelled(0.6)
    assert few < many and (len(few), len(many)) == (4, 11)  # of 19 training pairs


@pytest.mark.parametrize("make", [mixtures, paired])
def test_runs_of_any_seed_and_every_rank_agree_which_files_are_labelled(folder, make):
    alone = make(folder, labelled_share=0.5, batch_size=4, steps_per_epoch=3)
    ranks = [on_rank(make(folder, labelled_share=0.5, batch_size=2, steps_per_epoch=3), rank, 2) for rank in range(2)]
    parts = [epoch(module) for module in ranks]
    together = [torch.cat([a["labelled"], b["labelled"]]) for a, b in zip(*parts, strict=True)]
    assert all(torch.equal(a, b["labelled"]) for a, b in zip(together, epoch(alone), strict=True))
    if make is paired:
        found = []
        for seed in (1, 2):
            batches = epoch(make(folder, labelled_share=0.5, seed=seed, steps_per_epoch=4))
            rows = [row for b in batches for row in zip(b["name"], b["labelled"].tolist(), strict=True)]
            found.append({name.split("-", 2)[2]: yes for name, yes in rows})
        shared = found[0].keys() & found[1].keys()
        assert len(shared) > 8 and all(found[0][name] == found[1][name] for name in shared)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_an_impossible_share_is_refused_by_name(share):
    for make in (Mixtures, SyntheticCorpus):
        with pytest.raises(ValueError, match=r"--data\.labelled_share"):
            make(labelled_share=share)
    with pytest.raises(ValueError, match=r"--data\.labelled_share"):
        PairedFolders(root="x", labelled_share=share)


def test_the_embedded_corpus_takes_the_share_too():
    module = SyntheticCorpus(minutes=1.0, labelled_share=0.25, labelled_seed=4)
    assert (module.labelled_share, module.labelled_seed) == (0.25, 4)
