"""`LogExamples`: audio and spectrograms of a few validation items in TensorBoard and W&B, every so often."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

#: Lowest level drawn, in dB below the noisy item's peak bin.
FLOOR_DB = -80.0


class LogExamples(L.Callback):
    """Logs noisy, clean and estimate of the first validation items: audio and log spectrograms on one colour scale.

    Args:
        every_n_validations: log at the first validation and every n-th after it.
        items: how many items of the first validation batch.
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
        if batch_idx != 0 or trainer.sanity_checking or not due or not trainer.is_global_zero:
            return
        with torch.no_grad():
            estimate = pl_module.model(batch["noisy"][: self.items]).waveform
        for item in range(min(self.items, len(batch["noisy"]))):
            signals = {"noisy": batch["noisy"][item], "estimate": estimate[item]}
            if batch.get("clean") is not None:
                signals["clean"] = batch["clean"][item]
            signals = {name: signal.detach().float().cpu() for name, signal in signals.items()}
            self._log(trainer, item, signals, pl_module.model.sample_rate_hz)

    def _log(self, trainer: L.Trainer, item: int, signals: dict[str, Tensor], sample_rate_hz: int) -> None:
        peak = max(float(s.abs().max()) for s in signals.values()) or 1.0
        image = torch.cat([_picture(s, reference=signals["noisy"]) for s in signals.values()], dim=-1)
        logger: Any
        for logger in trainer.loggers:
            kind = type(logger).__name__
            if kind == "TensorBoardLogger":
                writer = logger.experiment
                for name, signal in signals.items():
                    writer.add_audio(f"example{item}/{name}", signal / peak, trainer.global_step, sample_rate_hz)
                writer.add_image(f"example{item}/{'_'.join(signals)}", image, trainer.global_step)
            elif kind == "WandbLogger":
                import wandb

                content: dict[str, Any] = {
                    f"example{item}/{name}": wandb.Audio((signal / peak).numpy(), sample_rate=sample_rate_hz)
                    for name, signal in signals.items()
                }
                content[f"example{item}/spectrograms"] = wandb.Image(image.numpy().transpose(1, 2, 0))
                logger.experiment.log(content)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validations += 1


def _picture(signal: Tensor, reference: Tensor) -> Tensor:
    """Grey-level log spectrogram ``[1, F, T]`` in 0..1, scaled by the reference signal's peak bin."""
    window = torch.hann_window(512)

    def magnitude(x: Tensor) -> Tensor:
        return torch.stft(x, 512, 256, window=window, return_complex=True, pad_mode="constant").abs()

    top = magnitude(reference).max().clamp_min(1e-8)
    level_db = 20 * torch.log10((magnitude(signal) / top).clamp_min(1e-8))
    return ((level_db - FLOOR_DB) / -FLOOR_DB).clamp(0, 1).flip(0).unsqueeze(0)
