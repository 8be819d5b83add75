from types import SimpleNamespace

import lightning as L
import pytest
import torch

from kdse.data import Mixtures, PairedFolders
from kdse.data.position import Batches, move_to
from tests.data.small_corpus import hiss, make_corpus, put, tone_and_pauses

STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = make_corpus(tmp_path_factory.mktemp("corpus"), seconds=0.4)
    for i in range(13):
        clean = tone_and_pauses(0.4, seed=i)
        put(root / "clean" / f"{i}.flac", clean)
        put(root / "noisy" / f"{i}.flac", clean + hiss(0.4, seed=i))
    return root


def make_data(kind, folder, **settings) -> L.LightningDataModule:
    common = {"segment_seconds": 0.2, "batch_size": 2, "steps_per_epoch": STEPS, "seed": 1, **settings}
    if kind is Mixtures:
        return Mixtures(root=str(folder), validation_items=2, validation_seconds=0.2, **common)
    return PairedFolders(train_noisy=str(folder / "noisy"), train_clean=str(folder / "clean"), **common)


class Recorder(L.LightningModule):
    """Notes what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple] = []

    def training_step(self, batch, _):
        self.seen.append((tuple(batch["name"]), float(batch["noisy"].double().sum())))
        return self.weight * batch["noisy"].mean()

    def validation_step(self, batch, _):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveEveryStep(L.Callback):
    def __init__(self, folder) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer, *_):
        path = self.folder / f"{trainer.global_step}.ckpt"
        if not path.exists():  # later batches of an accumulated step have the same number
            trainer.save_checkpoint(path)


class FailsIn(Recorder):
    """Dies in the middle of a batch."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def training_step(self, batch, index):
        loss = super().training_step(batch, index)
        if len(self.seen) > self.batch:
            raise RuntimeError("killed")
        return loss


class SaveOnException(L.Callback):
    def __init__(self, path) -> None:
        self.path = path

    def on_exception(self, trainer, *_):
        trainer.save_checkpoint(self.path)


def fit(data, path, ckpt=None, callbacks=(), model=None, **settings) -> list[tuple]:
    model = model or Recorder()
    settings = {"max_steps": 10, "limit_val_batches": 0, "num_sanity_val_steps": 0, **settings}
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=str(path),
        callbacks=list(callbacks),
        **settings,
    )
    trainer.fit(model, data, ckpt_path=ckpt, weights_only=None if ckpt is None else True)
    return model.seen


def on_rank(data, rank, world):
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, current_epoch=0, state=SimpleNamespace(fn="fit"))
    return data


def names(batches) -> list[str]:
    return [name for batch in batches for name in batch["name"]]


def test_batches_are_a_pure_function_of_epoch_rank_and_position():
    whole = Batches(STEPS, 3)
    first, second = list(whole), list(whole)
    assert first == [[(0, 3 * s + i) for i in range(3)] for s in range(STEPS)]
    assert second == [[(1, index) for _, index in batch] for batch in first]
    moved = Batches(STEPS, 3)
    move_to(moved, {"batches_seen": STEPS + 3, "batches_per_epoch": STEPS})
    assert list(moved) == second[3:]
    assert [epoch for batch in moved for epoch, _ in batch] == [2] * 12


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_out_the_global_batches(world):
    alone = list(Batches(STEPS, 2 * world))
    ranks = [list(Batches(STEPS, 2, rank, world)) for rank in range(world)]
    assert [sum((rank[step] for rank in ranks), []) for step in range(STEPS)] == alone


@pytest.mark.parametrize("kind", [Mixtures, PairedFolders])
def test_a_resumed_run_skips_and_repeats_nothing(tmp_path, folder, kind):
    whole = fit(make_data(kind, folder), tmp_path, callbacks=[SaveEveryStep(tmp_path)])
    assert len(set(whole)) == 10
    for step in (1, 3, 4, 5, 8):
        rest = fit(make_data(kind, folder), tmp_path, ckpt=str(tmp_path / f"{step}.ckpt"))
        assert rest == whole[step:], f"resumed after step {step}"


def test_prefetched_batches_do_not_count_as_seen(tmp_path, folder):
    whole = fit(make_data(Mixtures, folder, num_workers=2), tmp_path, callbacks=[SaveEveryStep(tmp_path)])
    for workers in (0, 2):
        rest = fit(make_data(Mixtures, folder, num_workers=workers), tmp_path, ckpt=str(tmp_path / "6.ckpt"))
        assert rest == whole[6:]


def test_mixing_on_the_accelerator_gives_the_same_run_and_resumes(tmp_path, folder):
    whole = fit(make_data(Mixtures, folder), tmp_path)
    there = {"on_accelerator": True}
    assert fit(make_data(Mixtures, folder, **there), tmp_path, callbacks=[SaveEveryStep(tmp_path)]) == whole
    for workers in (0, 1):
        data = make_data(Mixtures, folder, num_workers=workers, **there)
        assert fit(data, tmp_path, ckpt=str(tmp_path / "6.ckpt")) == whole[6:]


def test_a_batch_that_was_begun_and_not_finished_is_seen_again(tmp_path, folder):
    whole = fit(make_data(Mixtures, folder), tmp_path)
    with pytest.raises(RuntimeError, match="killed"):
        fit(make_data(Mixtures, folder), tmp_path, callbacks=[SaveOnException(tmp_path / "x.ckpt")], model=FailsIn(6))
    assert fit(make_data(Mixtures, folder), tmp_path, ckpt=str(tmp_path / "x.ckpt")) == whole[6:]


def test_a_resume_counts_the_batches_that_an_epoch_is_limited_to(tmp_path, folder):
    settings = {"limit_train_batches": 3}
    whole = fit(make_data(Mixtures, folder), tmp_path, callbacks=[SaveEveryStep(tmp_path)], **settings)
    rest = fit(make_data(Mixtures, folder), tmp_path, ckpt=str(tmp_path / "5.ckpt"), **settings)
    assert rest == whole[5:]


def test_a_resume_between_validations_inside_an_epoch_goes_on_where_it_was(tmp_path, folder):
    settings = {"val_check_interval": 2, "limit_val_batches": 1}
    whole = fit(make_data(Mixtures, folder), tmp_path, callbacks=[SaveEveryStep(tmp_path)], **settings)
    for step in (2, 3):
        rest = fit(make_data(Mixtures, folder), tmp_path, ckpt=str(tmp_path / f"{step}.ckpt"), **settings)
        assert rest == whole[step:]


def test_accumulated_batches_are_counted_one_by_one(tmp_path, folder):
    settings = {"accumulate_grad_batches": 2, "max_steps": 4}
    whole = fit(make_data(Mixtures, folder), tmp_path, callbacks=[SaveEveryStep(tmp_path)], **settings)
    assert fit(make_data(Mixtures, folder), tmp_path, ckpt=str(tmp_path / "3.ckpt"), **settings) == whole[6:]


def test_epochs_differ_when_the_loader_is_built_anew_every_epoch(tmp_path, folder):
    whole = fit(make_data(Mixtures, folder), tmp_path)
    assert fit(make_data(Mixtures, folder), tmp_path, reload_dataloaders_every_n_epochs=1) == whole


@pytest.mark.parametrize("kind", [Mixtures, PairedFolders])
@pytest.mark.parametrize("seen", [0, 3])
def test_two_ranks_see_what_one_process_with_the_global_batch_sees(folder, kind, seen):
    state = {"batches_seen": seen, "batches_per_epoch": STEPS}
    alone = make_data(kind, folder, batch_size=4)
    alone.load_state_dict(state)
    ranks = [on_rank(make_data(kind, folder), rank, 2) for rank in range(2)]
    for module in ranks:
        module.load_state_dict(state)
    parts = [list(module.train_dataloader()) for module in ranks]
    together = [name for pair in zip(*parts, strict=True) for batch in pair for name in batch["name"]]
    assert together == names(alone.train_dataloader())
    assert len(together) == len(set(together)) == 4 * (STEPS - seen)


def test_batches_are_the_same_for_any_number_of_workers(folder):
    for kind in (Mixtures, PairedFolders):
        runs = []
        for workers in (0, 1, 2):
            loader = make_data(kind, folder, num_workers=workers, steps_per_epoch=5).train_dataloader()
            runs.append([batch for _ in range(2) for batch in loader])
        for other in runs[1:]:
            for a, b in zip(runs[0], other, strict=True):
                assert a["name"] == b["name"]
                assert torch.equal(a["noisy"], b["noisy"]) and torch.equal(a["clean"], b["clean"])


def test_another_number_of_processes_is_said_and_refused_where_the_same_run_is_meant(tmp_path, caplog):
    data = Mixtures(root=str(make_corpus(tmp_path)))
    data.trainer = SimpleNamespace(global_rank=0, world_size=4, state=SimpleNamespace(fn="fit"))
    stored = {"batches_seen": 1, "batches_per_epoch": 2, "processes": 2, "recordings": data.fingerprint()}
    data.load_state_dict({**stored, "processes": 4})
    data.load_state_dict(stored)
    assert "trained by 2 processes and not 4" in caplog.text
    data.same_data_only = True
    with pytest.raises(ValueError, match="trained by 2 processes and not 4"):
        data.load_state_dict(stored)
