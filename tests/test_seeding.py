"""Random streams depend on (seed, name) and nothing else."""

import torch

from kdse.seeding import derive_seed, seeded


def test_a_named_stream_ignores_what_was_drawn_before():
    torch.manual_seed(3)
    with seeded("student"):
        first = torch.rand(5)
    torch.manual_seed(3)
    torch.rand(1000)
    with seeded("student"):
        second = torch.rand(5)
    assert torch.equal(first, second)


def test_the_outer_stream_goes_on_as_if_nothing_had_happened():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with seeded("teacher"):
        torch.rand(100)
    assert torch.equal(torch.rand(4), expected)
    assert torch.initial_seed() == 3


def test_names_and_seeds_give_different_streams():
    values = {derive_seed(s, n) for s in range(50) for n in ("student", "teacher", "heads/gram")}
    assert len(values) == 150 and all(0 <= v < 2**63 for v in values)
