"""Sweeps: files in W&B's format, run locally by `kdse sweep` or through W&B's server by `wandb agent`."""
