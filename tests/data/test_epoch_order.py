"""Whatever the number of ranks, an epoch is the same items, each once: shown on a manifest of a million files."""

import numpy as np
import pytest

from kdse.audio.listing import Measured
from kdse.data import Mixtures, NoisyFolder
from kdse.data.corpus.manifest import NAME, write, write_columns
from kdse.data.crops import crop_at
from kdse.seeding import derive_seed
from tests.data.test_position import on_rank

MILLION, GLOBAL_BATCH = 1_000_000, 1600
WORLDS = (1, 8, 64)


@pytest.fixture(scope="module")
def million(tmp_path_factory):
    """A folder whose manifest lists a million recordings; none of them is there."""
    folder = tmp_path_factory.mktemp("million")
    names = "".join(f"{i:07d}.flac" for i in range(MILLION)).encode()
    ones = np.ones(MILLION, np.int64)
    columns = {"frames": 64000 * ones, "rates": 16000 * ones, "channels": ones, "sizes": 99 * ones, "mtimes": ones}
    write_columns(folder / NAME, str(folder), "header", {**columns, "ends": np.arange(1, MILLION + 1) * 12}, names)
    return folder


def indices(make, world: int) -> list[np.ndarray]:
    """Of each rank, what its training loader asks for in its first epoch, ``[steps, batch]``."""
    found = []
    for rank in range(world):
        batches = list(on_rank(make(GLOBAL_BATCH // world), rank, world).train_dataloader().batch_sampler)
        assert {epoch for epoch, _ in batches[0]} == {0}
        found.append(np.array([[index for _, index in batch] for batch in batches]))
    return found


def test_an_epoch_over_a_million_recordings_is_disjoint_and_complete_for_1_8_and_64_ranks(million):
    def make(batch_size):
        return NoisyFolder(str(million), batch_size=batch_size, seed=1)

    alone = None
    for world in WORLDS:
        ranks = indices(make, world)
        assert all(rank.shape == (MILLION // GLOBAL_BATCH, GLOBAL_BATCH // world) for rank in ranks)
        together = np.concatenate(ranks, axis=1)  # the global batches, step by step
        assert np.array_equal(np.sort(together.ravel()), np.arange(MILLION))
        alone = together if alone is None else alone
        assert np.array_equal(np.sort(together, axis=1), np.sort(alone, axis=1))


def test_mixtures_of_1_8_and_64_ranks_are_the_same_global_batches(million):
    (million / "speech" / "train").mkdir(parents=True, exist_ok=True)
    (million / "noise" / "train").mkdir(parents=True, exist_ok=True)
    for kind in ("speech", "noise"):
        write(million / kind / "train" / NAME, "", "header", [Measured("a.wav", 32000, 16000, 1, 9, 1, "")])

    def make(batch_size):
        return Mixtures(str(million), batch_size=batch_size, steps_per_epoch=625, seed=1)

    one, *others = (np.concatenate(indices(make, world), axis=1) for world in WORLDS)
    assert np.array_equal(np.sort(one.ravel()), np.arange(MILLION))
    for other in others:
        assert np.array_equal(np.sort(other, axis=1), np.sort(one, axis=1))


def test_a_million_indices_are_a_million_recordings_and_every_epoch_orders_them_anew():
    lengths = np.full(MILLION, 64000)
    seed = derive_seed(1, "noisy")
    some = [[crop_at((epoch, i), lengths, 32000, seed).place for i in range(0, MILLION, 997)] for epoch in (0, 1)]
    assert all(len(set(places)) == len(places) for places in some) and some[0] != some[1]
    few = [crop_at((3, i), lengths[:3200], 32000, seed).place for i in range(6400)]
    assert sorted(few[:3200]) == sorted(few[3200:]) == list(range(3200)) and few[:3200] != few[3200:]
