"""Small things that several tests share: a tiny pair, a tiny data set, a quiet trainer."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from kdse.data.position import Batches, move_to, position
from kdse.models import Cruse
from kdse.training.checkpoint_files import SafeCheckpointIO

TEACHER_CHANNELS = [4, 8, 8, 12]
STUDENT_CHANNELS = [2, 4, 4, 4]


def make_teacher() -> Cruse:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        return Cruse(channels=TEACHER_CHANNELS)


def make_student() -> Cruse:
    return Cruse(channels=STUDENT_CHANNELS)


class ToySet(Dataset):
    """Item i is a pure function of i: a tone as speech and white noise."""

    def __init__(self, items: int, samples: int = 4096) -> None:
        self.items = items
        self.samples = samples

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        index = key[1] if isinstance(key, tuple) else key
        generator = torch.Generator().manual_seed(1000 + index)
        time = torch.arange(self.samples) / 16000
        frequency = 200 + 1800 * torch.rand((), generator=generator)
        clean = 0.1 * torch.sin(2 * torch.pi * frequency * time)
        noise = 0.05 * torch.randn(self.samples, generator=generator)
        return {
            "noisy": clean + noise,
            "clean": clean,
            "snr_db": torch.tensor(3.0),
            "samples": torch.tensor(self.samples),
            "name": f"toy{index:04d}",
            "index": torch.tensor(index),
        }


class ToyData(L.LightningDataModule):
    """Batches in index order, every epoch the same; a resumed run goes on where it stopped."""

    sample_rate_hz = 16000

    def __init__(self, items: int = 24, batch_size: int = 4, validation_items: int = 4) -> None:
        super().__init__()
        self.items, self.batch_size, self.validation_items = items, batch_size, validation_items
        self.restored: dict | None = None

    def train_dataloader(self) -> DataLoader:
        world = self.trainer.world_size
        steps = self.items // (self.batch_size * world)
        batches = Batches(steps, self.batch_size, self.trainer.global_rank, world)
        if self.restored is not None:
            move_to(batches, self.restored)
        return DataLoader(ToySet(self.items), batch_sampler=batches)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(ToySet(self.validation_items), batch_size=2)

    def test_dataloader(self) -> DataLoader:
        return self.val_dataloader()

    def state_dict(self) -> dict:
        return position(self.trainer)

    def load_state_dict(self, state_dict: dict) -> None:
        self.restored = state_dict


def make_trainer(folder: str | Path, callbacks: list | None = None, **settings) -> L.Trainer:
    """A CPU trainer that prints nothing and writes only under ``folder``."""
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "max_steps": 8,
        "default_root_dir": str(folder),
        "plugins": [SafeCheckpointIO()],
        "use_distributed_sampler": False,
    }
    return L.Trainer(callbacks=callbacks or [], **{**defaults, **settings})
