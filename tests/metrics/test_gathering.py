"""Items of several processes and batches count once, however they came to be measured."""

import math

import pytest
import torch

from kdse.metrics.gathering import ItemLosses, gather_rows, item_names
from kdse.metrics.table import Row


def test_items_without_names_are_told_apart_by_their_audio_and_not_by_their_neighbours_padding():
    torch.manual_seed(0)
    short, long = torch.randn(5), torch.randn(9)
    padded = torch.stack([torch.nn.functional.pad(short, (0, 4)), long])
    together = item_names({"noisy": padded, "samples": torch.tensor([5, 9])})
    assert item_names({"noisy": short[None]}) + item_names({"noisy": long[None]}) == together
    assert len(set(together)) == 2
    assert item_names({"noisy": padded, "name": ["a", 7]}) == ["a", "7"]


def test_the_mean_loss_counts_every_item_once_and_does_not_depend_on_order():
    values = {f"item{i}": torch.tensor(10.0**-i) for i in range(9)}
    forward, backward = ItemLosses(), ItemLosses()
    forward.add(list(values), list(values.values()))
    forward.add(["item0"], [torch.tensor(77.0)])  # a repeat, as samplers make to even out the ends
    backward.add(list(values)[::-1], list(values.values())[::-1])
    mean = forward.compute()
    assert mean == backward.compute() == pytest.approx(math.fsum(map(float, values.values())) / 9, rel=1e-15)
    assert forward.compute() is None  # an epoch ends with its mean


def test_rows_come_in_one_order_and_once_whatever_order_they_were_measured_in():
    rows = [Row(system, name, {"si_sdr": 1.0}) for system in ("student", "noisy") for name in ("b", "a")]
    again = gather_rows([*rows[::-1], rows[0]])
    assert again == gather_rows(rows) and len(again) == 4
