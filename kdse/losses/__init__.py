"""Supervised losses: pure functions and a module each."""

from kdse.losses.phase_sensitive import PhaseSensitive, phase_sensitive_loss

__all__ = ["PhaseSensitive", "phase_sensitive_loss"]
