"""A loss or gradient that is not finite never reaches the weights, and a run with no other ends."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader, TensorDataset

from kdse.cli import main
from kdse.enhancer import Enhancer
from kdse.errors import Diverged
from kdse.losses import SiSdr
from kdse.machine.processes import DIVERGED
from kdse.models.checkpoint import read_checkpoint
from kdse.run.folder import result, state
from kdse.training.checkpoint_files import SafeCheckpointIO
from kdse.training.divergence import SkipNonFinite
from tests.ddp_launch import torchrun
from tests.tiny_run import write_config
from tests.toys import ToyData, make_student, make_trainer


class Breaks(SiSdr):
    """Is not finite in these calls, counted from 0."""

    def __init__(self, calls, value: float = math.nan) -> None:
        super().__init__()
        self.calls, self.value, self.seen = set(calls), value, -1

    def forward(self, *arguments):
        self.seen += 1
        loss = super().forward(*arguments)
        return loss * self.value if self.seen in self.calls else loss


class InfiniteGradient(Breaks):
    """The loss is finite there, its gradient not."""

    def forward(self, *arguments):
        loss = super().forward(*arguments)
        if self.seen in self.calls:
            loss.register_hook(lambda gradient: gradient * math.inf)
        return loss


class Seen(SkipNonFinite):
    """Notes weights and statistics after every batch."""

    def on_train_start(self, trainer, pl_module):
        super().on_train_start(trainer, pl_module)
        self.states = [self.now(pl_module)]

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.states.append(self.now(pl_module))

    @staticmethod
    def now(pl_module):
        return {name: value.clone() for name, value in pl_module.model.state_dict().items()}


def train(folder, loss, max_steps: int = 10, **settings) -> Seen:
    torch.manual_seed(0)
    guard = Seen(folder, max_steps)
    model = Enhancer(make_student, loss, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2), metrics=["si_sdr"])
    try:
        make_trainer(folder, [guard], gradient_clip_val=5.0, max_steps=6, **settings).fit(model, ToyData())
    finally:
        guard.optimizer = model.optimizers(use_pl_optimizer=False)
    return guard


def same(a, b) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a if not name.endswith("num_batches_tracked"))


def weights_of(states) -> dict:
    return {name: value for name, value in states.items() if "running" not in name}


@pytest.mark.parametrize("loss", [Breaks([2]), Breaks([2], math.inf), InfiniteGradient([2], 1.0)],
                         ids=["nan", "inf", "gradient"])  # fmt: skip
def test_the_step_changes_no_weight_and_no_moment_and_training_goes_on(loss, tmp_path, caplog):
    guard = train(tmp_path, loss)
    changed = [not same(weights_of(a), weights_of(b)) for a, b in pairwise(guard.states)]
    assert changed == [True, True, False, True, True, True]
    assert (guard.skipped, guard.in_a_row) == (1, 0)
    assert {int(state["step"]) for state in guard.optimizer.state.values()} == {5}
    assert all(bool(value.isfinite().all()) for value in guard.states[-1].values())
    assert caplog.text.count("optimizer step 3 is skipped") == 1


def test_an_optimizer_that_skips_by_itself_leaves_the_weights_that_one_does_that_is_looked_at(
    tmp_path, monkeypatch, caplog
):
    """As on an accelerator, where nobody looks at the gradients of a step before it is taken."""
    seen = train(tmp_path, Breaks([1, 2, 4]))
    monkeypatch.setattr("kdse.training.divergence.reading_is_free", lambda device: False)
    late = train(tmp_path, Breaks([1, 2, 4]))
    assert late.optimizer.param_groups[0]["fused"] and late._counts is not None
    for one, other in zip(seen.states, late.states, strict=True):
        for name in one:
            torch.testing.assert_close(other[name], one[name], rtol=1e-5, atol=1e-6)
    changed = [not same(weights_of(a), weights_of(b)) for a, b in pairwise(late.states)]
    assert changed == [True, False, False, True, False, True]
    assert late.state_dict() == seen.state_dict() == {"skipped": 3, "in_a_row": 0}
    assert {int(state["step"]) for state in late.optimizer.state.values()} == {3}
    with pytest.raises(Diverged, match="last 3 of 6 optimizer steps"):  # read once the six steps are through
        train(tmp_path, Breaks([3, 4, 5]), 2)


class Normalised(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))

    def training_step(self, batch, batch_idx):
        return self.model(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("free", [True, False], ids=["looked at", "on the device"])
def test_statistics_that_a_batch_made_nan_are_those_before_it(free, tmp_path, monkeypatch):
    monkeypatch.setattr("kdse.training.divergence.reading_is_free", lambda device: free)
    items = torch.randn(8, 3)
    items[4] = math.nan  # of the third batch
    guard = Seen(tmp_path)
    data = DataLoader(TensorDataset(items), batch_size=2)
    make_trainer(tmp_path, [guard], max_steps=4).fit(Normalised(), data)
    assert same(guard.states[2], guard.states[3]) and not same(guard.states[3], guard.states[4])
    assert not torch.equal(guard.states[3]["0.running_mean"], guard.states[4]["0.running_mean"])


def test_finite_training_is_bit_for_bit_that_without_the_guard(tmp_path, monkeypatch):
    guarded = train(tmp_path, SiSdr(), accumulate_grad_batches=2).states[-1]
    for hook in ("on_before_backward", "on_before_optimizer_step"):
        monkeypatch.setattr(SkipNonFinite, hook, lambda *_: None)
    assert same(guarded, train(tmp_path, SiSdr(), accumulate_grad_batches=2).states[-1])


@pytest.mark.parametrize(("allowed", "broken", "steps"), [(0, [1], 1), (2, [0, 1, 3, 4, 5], 5)])
def test_more_steps_in_a_row_than_allowed_end_training_and_a_finite_one_between_starts_anew(
    allowed, broken, steps, tmp_path
):
    with pytest.raises(Diverged, match=rf"last {allowed + 1} of {steps + 1} optimizer steps"):
        train(tmp_path, Breaks(broken), allowed)


def test_one_broken_batch_of_several_costs_the_step_they_share(tmp_path):
    guard = train(tmp_path, Breaks([2]), accumulate_grad_batches=2)
    unchanged = [same(weights_of(a), weights_of(b)) for a, b in pairwise(guard.states)]
    assert unchanged[:8] == [True, False, True, True, True, False, True, False] and guard.skipped == 1


def test_a_gradient_scaler_that_looks_for_its_scale_is_no_divergence_until_it_finds_none(tmp_path):
    def plugins(scale):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler), SafeCheckpointIO()]}

    overflowing = train(tmp_path, Breaks(range(4)), 0, **plugins(2.0**10))  # as too large a scale does
    assert overflowing.skipped == 0 and not same(overflowing.states[4], overflowing.states[-1])
    with pytest.raises(Diverged, match="last 2 of"):  # 4, 2, and then without any help of the scale
        train(tmp_path, Breaks(range(9)), 1, **plugins(4.0))


def test_no_checkpoint_gets_weights_that_are_not_finite(tmp_path):
    content = {"state_dict": {"model.good": torch.ones(2), "model.bad": torch.tensor([1.0, math.inf])}}
    with pytest.raises(Diverged, match=r"model\.bad is not finite after optimizer step 7"):
        SkipNonFinite(tmp_path).on_save_checkpoint(SimpleNamespace(global_step=7), None, content)


@pytest.mark.integration
@pytest.mark.parametrize("allowed", [1, 10], ids=["in the middle", "to its end"])
def test_a_run_that_diverges_ends_with_a_line_and_its_own_code_and_counts_as_unfinished(allowed, tmp_path, capsys):
    flags = [f"--max_nonfinite_steps={allowed}", "--model.optimizer=torch.optim.Adam", "--model.optimizer.lr=1e25"]
    assert main(["fit", "--config", str(write_config(tmp_path)), *flags, "--trainer.max_steps=6"]) == DIVERGED
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kdse fit: ")]
    assert len(said) == 1 and "diverged" in said[0] and "learning rate" in said[0]
    run = tmp_path / "run"
    assert result(run) is None and state(run) == "unfinished"
    for path in (run / "checkpoints").glob("*.ckpt"):
        assert all(bool(value.isfinite().all()) for value in read_checkpoint(path)["state_dict"].values())


@pytest.mark.integration
def test_all_processes_skip_and_stop_alike_though_the_loss_breaks_in_one(tmp_path):
    torchrun(2, "tests/ddp_divergence_run.py", tmp_path)
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == other and one["skipped"] == 3 and "in the last 2 of 5 optimizer steps" in one["message"]
    assert [a == b for a, b in pairwise(one["sums"])] == [False, True, False, True]
