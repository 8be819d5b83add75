"""Distillation objectives: each turns two sets of activations (or outputs) into one scalar. One family a file.

Output: `output`, `taught_loss`, `frequency_adaptive`, `selective`. Tap with tap: `hint`, `attention_transfer`,
`attention_kl`, `multi_view`, `cosine`, `flow_of_solution`, `variational`, `latent_mix`. Items of a batch together:
`similarity`, `relational`, `correlation`, `probabilistic`. Across layers: `cross_layer`, `review`, `jeffreys`,
`semantic`, `calibrated`, `compression`.
"""

from kdse.objectives.attention_kl import AttentionKl
from kdse.objectives.attention_transfer import AttentionTransfer
from kdse.objectives.base import Exchange, Objective
from kdse.objectives.calibrated import TimeFrequencyCalibrated
from kdse.objectives.compression import AttentionCompression
from kdse.objectives.correlation import CorrelationCongruence
from kdse.objectives.cosine import CosineAlignment
from kdse.objectives.cross_layer import CrossLayerSimilarity
from kdse.objectives.flow_of_solution import FlowOfSolution
from kdse.objectives.frequency_adaptive import FrequencyAdaptive
from kdse.objectives.hint import Hint
from kdse.objectives.jeffreys import FrameWeightedJeffreys
from kdse.objectives.latent_mix import LatentMix
from kdse.objectives.multi_view import MultiViewAttention
from kdse.objectives.output import OutputDistillation, SiSdrDistillation
from kdse.objectives.probabilistic import ProbabilisticTransfer
from kdse.objectives.relational import RelationalAngle, RelationalDistance
from kdse.objectives.review import KnowledgeReview
from kdse.objectives.selective import SelectivePatches
from kdse.objectives.semantic import SemanticCalibration
from kdse.objectives.similarity import SimilarityPreserving
from kdse.objectives.taught_loss import TaughtLoss
from kdse.objectives.variational import VariationalInformation

__all__ = [
    "AttentionCompression",
    "AttentionKl",
    "AttentionTransfer",
    "CorrelationCongruence",
    "CosineAlignment",
    "CrossLayerSimilarity",
    "Exchange",
    "FlowOfSolution",
    "FrameWeightedJeffreys",
    "FrequencyAdaptive",
    "Hint",
    "KnowledgeReview",
    "LatentMix",
    "MultiViewAttention",
    "Objective",
    "OutputDistillation",
    "ProbabilisticTransfer",
    "RelationalAngle",
    "RelationalDistance",
    "SelectivePatches",
    "SemanticCalibration",
    "SiSdrDistillation",
    "SimilarityPreserving",
    "TaughtLoss",
    "TimeFrequencyCalibrated",
    "VariationalInformation",
]
