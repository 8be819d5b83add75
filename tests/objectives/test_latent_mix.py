"""Latent augmentation mixes two views of one clean clip, alike in teacher and student."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from kdse.models.base import Estimate
from kdse.objectives.base import Exchange
from kdse.objectives.latent_mix import LatentMix
from kdse.seeding import seeded


def latent(wave, scale):
    """A stand-in network: [B, N] to latents [B, 2, 4, 3], not linear in the wave."""
    features = (scale * wave).tanh()[:, :24].reshape(len(wave), 2, 4, 3)
    return Estimate(wave), {"z": features}


def make_exchange(student_scale=0.5, labelled=None, step=7):
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 30, dtype=torch.float64, generator=generator) for _ in range(2))
    noisy = clean + noise
    teacher, student = latent(noisy, 1.0), latent(noisy, student_scale)
    return Exchange(
        noisy=noisy,
        clean=clean,
        teacher=teacher[0],
        student=student[0],
        teacher_taps=teacher[1],
        student_taps=student[1],
        step=step,
        labelled=labelled,
        run_teacher=lambda x: latent(x, 1.0),
        run_student=lambda x: latent(x, student_scale),
    )


def objective(**arguments):
    made = LatentMix(head="none", pairs=[["z", "z"]], **arguments)
    made.bound_pairs = [("z", "z")]
    return made


def scaled(noise, like):
    return noise * float((like @ like) / (noise @ noise)) ** 0.5


@pytest.mark.parametrize("student_mix", ["latents", "audio"])
def test_it_equals_a_loop_over_items(student_mix):
    exchange, made = make_exchange(), objective(student_mix=student_mix)
    value = made.loss(exchange)
    shares = made.shares(3, exchange.step).double()
    noise = exchange.noisy - exchange.clean
    total = 0.0
    for i in range(3):
        share = shares[i]
        first, second = exchange.noisy[i : i + 1], (exchange.clean[i] + scaled(noise[(i - 1) % 3], noise[i]))[None]
        target = share * latent(first, 1.0)[1]["z"] + (1 - share) * latent(second, 1.0)[1]["z"]
        if student_mix == "latents":
            own = share * latent(first, 0.5)[1]["z"] + (1 - share) * latent(second, 0.5)[1]["z"]
        else:
            own = latent(share * first + (1 - share) * second, 0.5)[1]["z"]
        total += float((own - target).square().mean())
    assert value.item() == pytest.approx(total / 3, rel=1e-9)


@pytest.mark.parametrize("distance", ["l1", "l2", "cosine"])
def test_a_student_that_is_the_teacher_has_no_loss(distance):
    assert objective(distance=distance).loss(make_exchange(student_scale=1.0)).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("concentration", [0.2, 1.0, 4.0])
def test_shares_follow_the_beta_distribution_and_the_step_alone(concentration):
    made = objective(concentration=concentration)
    shares = made.shares(4000, 5)
    assert torch.equal(shares, made.shares(4000, 5)) and not torch.equal(shares, made.shares(4000, 6))
    assert stats.kstest(shares.numpy(), stats.beta(concentration, concentration).cdf).pvalue > 0.01


def test_heads_bring_the_students_channels_to_the_teachers():
    made = LatentMix(pairs=[["a", "b"]], match_axes=True)
    made.bound_pairs = [("a", "b")]
    with seeded("heads/test", seed=0):
        heads = made.build_heads({"a": torch.Size([1, 6, 8, 5])}, {"b": torch.Size([1, 2, 4, 3])})
    teacher = [torch.randn(3, 6, 8, 5) for _ in range(2)]
    student = [torch.randn(3, 2, 4, 3, requires_grad=True) for _ in range(2)]
    wave = torch.randn(3, 30)
    exchange = Exchange(
        noisy=wave,
        clean=wave,
        student=Estimate(wave),
        teacher_taps={"a": teacher[0]},
        student_taps={"b": student[0]},
        heads=heads,
        run_teacher=lambda x: (Estimate(x), {"a": teacher[1]}),
        run_student=lambda x: (Estimate(x), {"b": student[1]}),
    )
    made.loss(exchange).backward()
    assert all(torch.any(x.grad != 0) for x in student) and torch.any(heads["0"].weight.grad != 0)


def test_shapes_that_differ_are_refused_when_heads_are_built():
    made = LatentMix(pairs=[["a", "b"]])
    made.bound_pairs = [("a", "b")]
    with pytest.raises(ValueError, match=r"'a' \[1, 6, 8, 5\].*'b' \[1, 2, 4, 5\].*frames"):
        made.build_heads({"a": torch.Size([1, 6, 8, 5])}, {"b": torch.Size([1, 2, 4, 5])})


def test_fewer_than_two_labelled_items_are_zero():
    exchange = make_exchange(labelled=torch.tensor([True, False, False]))
    exchange.heads["0"] = torch.nn.Conv2d(2, 2, 1)
    value = objective().loss(exchange)
    assert value.item() == 0
    value.backward()  # (the heads stay connected: DDP needs that, and so does the next batch)
    assert torch.all(exchange.heads["0"].weight.grad == 0)
