"""Distillation objectives: each turns two sets of activations (or outputs) into one scalar."""

from kdse.objectives.base import Exchange, Objective
from kdse.objectives.output import OutputDistillation
from kdse.objectives.similarity import SimilarityPreserving

__all__ = ["Exchange", "Objective", "OutputDistillation", "SimilarityPreserving"]
