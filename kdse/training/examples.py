"""`LogExamples`: audio and spectrograms of a few validation or test items in TensorBoard and W&B, every so often."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from kdse.data.batch import item_lengths
from kdse.internals.lightning import logged_step

#: Lowest level drawn, in dB below the noisy item's peak bin.
FLOOR_DB = -80.0


class LogExamples(L.Callback):
    """Logs noisy, clean and estimate of the first items: audio and log spectrograms on one colour scale.

    Keys are ``example0/noisy`` and the like, ``test/example0/noisy`` for the test set; the step is that of the scores
    logged beside them. All signals of an item share one level, so that they can be compared by ear.

    Args:
        every_n_validations: log at the first validation and every n-th after it. Tests are always logged.
        items: how many items of the first batch.
    """

    def __init__(self, every_n_validations: int = 5, items: int = 2) -> None:
        super().__init__()
        self.every_n_validations = every_n_validations
        self.items = items
        self._validations = 0

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        due = self._validations % self.every_n_validations == 0
        if batch_idx == 0 and due and not trainer.sanity_checking:
            self._log_batch(trainer, pl_module, batch, prefix="")

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0:
            self._log_batch(trainer, pl_module, batch, prefix="test/")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validations += 1

    def _log_batch(self, trainer: L.Trainer, pl_module: Any, batch: Any, prefix: str) -> None:
        if not trainer.is_global_zero or not trainer.loggers:
            return
        for item, samples in enumerate(item_lengths(batch)[: self.items]):
            noisy = batch["noisy"][item, :samples]
            with torch.no_grad():
                signals = {"noisy": noisy, "estimate": pl_module.model(noisy[None]).waveform[0]}
            if batch.get("clean") is not None:
                signals["clean"] = batch["clean"][item, :samples]
            signals = {name: signal.detach().float().cpu() for name, signal in signals.items()}
            about = _about(batch, item)
            for name, signal in signals.items():
                if not bool(signal.isfinite().all()):  # a broken model is heard as silence, not as noise nobody made
                    signals[name] = torch.zeros_like(signal)
                    about += f", {name} has NaN or infinite samples"
            self._log(trainer, f"{prefix}example{item}", signals, pl_module.model.sample_rate_hz, about)

    def _log(self, trainer: L.Trainer, key: str, signals: dict[str, Tensor], sample_rate_hz: int, about: str) -> None:
        step = logged_step(trainer)
        peak = max(float(s.abs().max()) for s in signals.values()) or 1.0
        image = torch.cat([picture(s, reference=signals["noisy"]) for s in signals.values()], dim=-1)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                writer: Any = logger.experiment
                for name, signal in signals.items():
                    writer.add_audio(f"{key}/{name}", signal / peak, step, sample_rate_hz)
                writer.add_image(f"{key}/{'_'.join(signals)}", image, step)
            elif isinstance(logger, WandbLogger):
                import wandb

                content: dict[str, Any] = {
                    f"{key}/{name}": wandb.Audio(
                        (signal / peak).numpy(), sample_rate=sample_rate_hz, caption=f"{name}, {about}, step {step}"
                    )
                    for name, signal in signals.items()
                }
                grey = (255 * image[0]).round().byte().numpy()  # W&B takes 0 to 255, and 0 to 1 for black
                content[f"{key}/spectrograms"] = wandb.Image(grey, caption=f"{', '.join(signals)}: {about}")
                logger.log_metrics(content, step=step)


def picture(signal: Tensor, reference: Tensor) -> Tensor:
    """Grey-level log spectrogram ``[1, F, T]`` in 0..1, scaled by the reference signal's peak bin."""
    window = torch.hann_window(512)

    def magnitude(x: Tensor) -> Tensor:
        return torch.stft(x, 512, 256, window=window, return_complex=True, pad_mode="constant").abs()

    top = magnitude(reference).max().clamp_min(1e-8)
    level_db = 20 * torch.log10((magnitude(signal) / top).clamp_min(1e-8))
    return ((level_db - FLOOR_DB) / -FLOOR_DB).clamp(0, 1).flip(0).unsqueeze(0)


def _about(batch: Any, item: int) -> str:
    name = str(batch["name"][item]) if batch.get("name") is not None else f"item {item}"
    snr_db = float(batch["snr_db"][item]) if batch.get("snr_db") is not None else math.nan
    return name if math.isnan(snr_db) else f"{name} at {snr_db:.3g} dB"
