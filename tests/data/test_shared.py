"""Evaluation items are shared among processes: every one once, in the batches that one process would make."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, SequentialSampler

from kdse.data.position import ResumableData
from kdse.data.shared import CollateOrNothing, SharedBatches, check_shared, limit_of, same_on_every_process
from tests.toys import ToySet


@pytest.mark.parametrize("world", [1, 2, 3, 8, 64])
@pytest.mark.parametrize(("items", "size"), [(1, 1), (7, 2), (16, 4), (5, 8), (33, 4), (0, 4)])
def test_the_processes_together_have_every_item_once_in_the_batches_of_one_process(items, size, world):
    alone = list(SharedBatches(items, size))
    shared = [list(SharedBatches(items, size, rank, world)) for rank in range(world)]
    assert [item for batch in alone for item in batch] == list(range(items))
    assert sorted(batch for share in shared for batch in share if batch) == alone
    assert all(len(SharedBatches(items, size, rank, world)) == len(share) for rank, share in enumerate(shared))
    counts = [sum(bool(batch) for batch in share) for share in shared]
    assert max(counts) - min(counts) <= 1


def test_a_process_without_a_share_gets_one_batch_of_no_items_so_that_lightning_does_not_leave_it_out():
    assert list(SharedBatches(2, 2, rank=1, world=2)) == [[]]
    loader = DataLoader(ToySet(2), batch_sampler=SharedBatches(2, 2, 1, 2), collate_fn=CollateOrNothing())
    (batch,) = list(loader)
    assert len(batch["noisy"]) == len(batch["clean"]) == len(batch["name"]) == len(batch["samples"]) == 0


def test_a_limit_counts_the_batches_of_all_processes_together():
    shares = [list(SharedBatches(20, 2, rank, 3, limit=4)) for rank in range(3)]
    assert shares == [[[0, 1], [6, 7]], [[2, 3]], [[4, 5]]]


def trainer(world: int, stage: str = "val", **limits) -> SimpleNamespace:
    state = {"testing": stage == "test", "predicting": stage == "predict"}
    return SimpleNamespace(world_size=world, global_rank=0, **state, **limits)


def test_a_share_of_the_batches_is_refused_where_the_number_of_processes_would_decide_what_is_measured():
    assert limit_of(trainer(1, limit_val_batches=0.5)) is None  # (Lightning takes it)
    assert limit_of(trainer(2, limit_val_batches=1.0)) is None
    assert limit_of(trainer(2, "test", limit_val_batches=0.5, limit_test_batches=3)) == 3
    with pytest.raises(ValueError, match=r"limit_test_batches=0\.5.*give a number of batches"):
        limit_of(trainer(2, "test", limit_test_batches=0.5))


class Endless(IterableDataset):
    def __iter__(self):
        yield from ()


@pytest.mark.parametrize(
    ("loader", "same"),
    [
        (lambda d: DataLoader(d, batch_size=2), True),
        (lambda d: DataLoader(d, batch_size=2, shuffle=True), True),
        (lambda d: DataLoader(d, batch_size=None), True),
        (lambda d: DataLoader(d, batch_sampler=BatchSampler(SequentialSampler(d), 2, False)), True),
        (lambda d: DataLoader(d, sampler=DistributedSampler(d, 2, 0)), False),
        (lambda d: DataLoader(d, batch_sampler=SharedBatches(4, 2, 0, 2)), False),
        (lambda d: DataLoader(Endless()), False),
        (lambda d: [torch.zeros(1)], False),
    ],
)
def test_loaders_that_give_every_process_the_same_items_are_told_from_those_that_share_them(loader, same):
    made = loader(ToySet(4))
    assert same_on_every_process(made) == same
    check_shared(trainer(1), made, "training")
    if same:
        with pytest.raises(ValueError, match="each of the 2 processes the same items.*use_distributed_sampler=true"):
            check_shared(trainer(2), [made], "training")
    else:
        check_shared(trainer(2), made, "training")


def test_lightnings_own_sampler_is_refused_for_data_that_shares_its_items_itself():
    data = ResumableData()
    data.trainer = trainer(2)
    data.trainer._accelerator_connector = SimpleNamespace(use_distributed_sampler=True)
    with pytest.raises(ValueError, match=r"use_distributed_sampler=true.*leave the flag at false"):
        data.setup("fit")
    data.trainer._accelerator_connector.use_distributed_sampler = False
    data.setup("fit")
