"""Data modules give the keys of `Batch` and no others, with the shapes and types that it states."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from kdse.data import Mixtures, NoisyFolder, PairedFolders
from kdse.data.batch import Batch, empty_batch
from kdse.data.taught_set import TaughtItems, TaughtSet, imprint
from tests.data.small_corpus import hiss, make_corpus, put, tone_and_pauses

COMMON = {"segment_seconds": 0.2, "batch_size": 2, "steps_per_epoch": 1, "seed": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = make_corpus(tmp_path_factory.mktemp("corpus"), files=2, seconds=0.4)
    for i in range(4):
        clean = tone_and_pauses(0.3 + 0.1 * i, seed=i)
        put(root / "clean" / f"{i}.wav", clean, subtype="FLOAT")
        put(root / "noisy" / f"{i}.wav", clean + hiss(0.3 + 0.1 * i, seed=i), subtype="FLOAT")
    return root


def loaders(folder) -> dict[str, object]:
    train = {"train_noisy": str(folder / "noisy"), "train_clean": str(folder / "clean")}
    paired = PairedFolders(**train, labelled_share=0.5, teacher_folder=str(folder / "noisy"), **COMMON)
    mixtures = Mixtures(str(folder), labelled_share=0.5, validation_items=2, validation_seconds=0.2, **COMMON)
    clips = [{**mixtures.train_dataloader().dataset[0, 0], "name": "0"}]
    clips[0].pop("labelled")
    about = {"settings": {}, "sample_rate_hz": 16000, "items": 1, "epochs": 1, "samples": 3200,
             "teachers": [{"name": "one"}], "taps": {"deep": {"shape": [2, 3, 4]}}}  # fmt: skip
    taught = TaughtSet(folder / "set", about)
    heard = clips[0]["noisy"]
    taught.write(0, [heard[None].numpy()], [imprint(heard)], [np.zeros((1, 2, 3, 4), dtype=np.float16)])
    noisy = NoisyFolder(str(folder / "noisy"), teacher_folder=str(folder / "noisy"), **COMMON)
    return {
        "paired": paired.train_dataloader(), "whole files": paired.val_dataloader(), "noisy": noisy.train_dataloader(),
        "taught set": DataLoader(TaughtItems({(0, 0): clips[0]}, taught), batch_sampler=[[(0, 0)]]),
        "mixtures": mixtures.train_dataloader(), "fixed mixtures": mixtures.val_dataloader(),
    }  # fmt: skip


def test_every_batch_has_the_keys_shapes_and_types_that_are_written_down(folder):
    seen = set()
    for which, loader in loaders(folder).items():
        batch = next(iter(loader))
        count, length = batch["noisy"].shape
        assert set(batch) <= set(Batch.__annotations__), which
        for key in ("noisy", "clean", "taught"):
            if key in batch:
                assert batch[key].shape == (count, length) and batch[key].dtype == torch.float32, (which, key)
        for key, kind in (("snr_db", torch.float32), ("samples", torch.int64), ("index", torch.int64)):
            assert batch[key].shape == (count,) and batch[key].dtype == kind, (which, key)
        assert "labelled" not in batch or batch["labelled"].dtype == torch.bool
        assert len(set(batch["name"])) == count and batch["samples"].max() == length
        seen |= set(batch)
    assert seen == set(Batch.__annotations__)


def test_a_batch_of_no_items_has_the_keys_of_a_batch_of_pairs(folder):
    pairs = next(iter(PairedFolders(noisy=str(folder / "noisy"), clean=str(folder / "clean")).test_dataloader()))
    empty = empty_batch()
    assert set(empty) == set(pairs)
    assert all(
        empty[key].dtype == pairs[key].dtype and empty[key].ndim == pairs[key].ndim for key in pairs if key != "name"
    )
