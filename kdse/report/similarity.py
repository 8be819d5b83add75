"""Similarity of teacher and student: linear CKA between their blocks, before and after training.

The measure of the two-step paper's figure 2 (arXiv 2309.08144). It does not say what a sample and what a feature is.
Our choice: every frame of every item is a sample, and channels and frequencies of the block at that frame, flattened,
are its features. Frames of networks that differ in hop are those nearest in time, as both cover the same seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdse.errors import UserError
from kdse.models.base import SpeechModel, Tap
from kdse.models.checkpoint import load_weights, read_checkpoint
from kdse.models.probing import undisturbed
from kdse.report.rebuilt_run import rebuild
from kdse.run.folder import SWITCH, last_checkpoint
from kdse.run.switches import switch_steps
from kdse.taps import probe, record, resolve_taps

#: Samples (item, frame) compared at most: Grams are square in it. Our choice.
FRAMES = 2000
#: Features whose energy around their mean is below this share of their energy count as constant.
CONSTANT = 1e-20

Batches = Sequence[Tensor]
Taps = Mapping[str, Tap]


@dataclass(frozen=True)
class Similarity:
    """Linear CKA of every student block with every teacher block.

    matrix: ``[S, T]``, from 0 to 1; NaN where a block is constant. student, teacher: names of the taps.
    diagonal: each student block with its counterpart in the teacher, NaN if it has none: the block of the same name if
        all student names are among the teacher's, else the one in the same place if there are as many.
    samples: how many (item, frame) it is from.
    """

    matrix: np.ndarray
    student: tuple[str, ...]
    teacher: tuple[str, ...]
    diagonal: tuple[float, ...]
    samples: int

    @property
    def mean_diagonal(self) -> float:
        """Mean over the blocks that have a counterpart, constant ones left out; NaN if there are none."""
        return _mean(np.asarray(self.diagonal))

    @property
    def mean_all(self) -> float:
        """Mean over all pairs of blocks, constant ones left out; NaN if there are none."""
        return _mean(self.matrix)


def linear_cka(x: Any, y: Any) -> float:
    """Linear centred kernel alignment of features ``[n, p]`` and ``[n, q]`` (Kornblith et al. 2019, section 3).

    ``||Yc' Xc||^2 / (||Xc' Xc|| ||Yc' Yc||)`` with Frobenius norms and columns centred, in float64. 1 for features that
    are equal up to rotation, scale and offset; for unrelated ones it is near 0 only if samples far outnumber features.
    Features that do not change over the samples (silence) have no similarity: NaN.

    Raises:
        ValueError: if these are not two matrices with as many rows.
    """
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"linear_cka: needs [n, p] and [n, q], not {[*x.shape]} and {[*y.shape]}")
    return _alignment(_gram(x), _gram(y))


def block_similarity(
    teacher: SpeechModel,
    student: SpeechModel,
    batches: Batches,
    teacher_taps: Taps | None = None,
    student_taps: Taps | None = None,
    frames: int = FRAMES,
) -> Similarity:
    """Linear CKA of every student tap with every teacher tap on the same noisy audio.

    Args:
        teacher, student: networks; left as they are. Their own taps are compared, if no others are given.
        batches: noisy audio, each ``[B, N]``; lengths may differ between batches.
        frames: samples (item, frame) at most. Where there are more, frames are taken at even spacing from every item.

    Raises:
        UserError: if a network has no taps or there is no audio.
    """
    taps = _taps(teacher, teacher_taps, "teacher"), _taps(student, student_taps, "student")
    counts = _frames_an_item(student, taps[1], batches, frames)
    return _compare(_grams(teacher, taps[0], batches, counts), _grams(student, taps[1], batches, counts))


def similarity_of_run(
    run_folder: str | Path,
    batches: Batches,
    trust_code: bool = False,
    teacher_checkpoint: str | Path | None = None,
) -> dict[str, Similarity]:
    """Similarity of a run's student to its teacher ``before`` training, ``at the switch`` (if kept) and ``after``.

    Arguments are those of `block_similarity` and `kdse.report.rebuilt_run.rebuild`.

    Raises:
        UserError: as these two, and if the run has no last.ckpt.
    """
    folder = Path(run_folder)
    pair = rebuild(folder, teacher_checkpoint, trust_code)
    teacher_taps = _taps(pair.teacher, pair.teacher_taps, "teacher")
    student_taps = _taps(pair.student, pair.student_taps, "student")
    counts = _frames_an_item(pair.student, student_taps, batches, FRAMES)
    expected = _grams(pair.teacher, teacher_taps, batches, counts)
    found = {"before": _compare(expected, _grams(pair.student, student_taps, batches, counts))}
    last = last_checkpoint(folder)
    for moment, path in {"at the switch": last.with_name(SWITCH), "after": last}.items():
        if moment == "at the switch" and not path.is_file():
            continue
        content = read_checkpoint(path)
        if moment == "at the switch" and content.get("global_step") not in switch_steps(folder):
            continue  # of an older run in this folder
        load_weights(pair.student, content["state_dict"], source=str(path))
        found[moment] = _compare(expected, _grams(pair.student, student_taps, batches, counts))
    return found


def _compare(teacher: dict[str, Tensor], student: dict[str, Tensor]) -> Similarity:
    matrix = np.array([[_alignment(k, expected) for expected in teacher.values()] for k in student.values()])
    ours, theirs = tuple(student), tuple(teacher)
    if set(ours) <= set(theirs):
        diagonal = [float(row[theirs.index(name)]) for name, row in zip(ours, matrix, strict=True)]
    elif len(ours) == len(theirs):
        diagonal = np.diag(matrix).tolist()
    else:
        diagonal = [float("nan")] * len(ours)
    return Similarity(matrix, ours, theirs, tuple(diagonal), samples=len(next(iter(student.values()))))


def _grams(model: SpeechModel, taps: Taps, batches: Batches, counts: Sequence[int]) -> dict[str, Tensor]:
    """By tap: inner products ``[n, n]`` of the centred features of n samples; any number of features fits."""
    parts: dict[str, list[Tensor]] = {name: [] for name in taps}
    for noisy, count in zip(batches, counts, strict=True):
        with undisturbed(model):
            activations = record(model, taps, noisy.to(model.device))[1]
        for name, activation in activations.items():
            t = activation.shape[2]
            nearest = ((torch.arange(count, device=activation.device) + 0.5) * (t / count)).long().clamp_max(t - 1)
            frames = activation[:, :, nearest].permute(0, 2, 1, 3)
            parts[name].append(frames.flatten(2).flatten(0, 1).float().cpu())
    return {name: _gram(torch.cat(parts.pop(name))) for name in taps}


def _frames_an_item(student: SpeechModel, taps: Taps, batches: Batches, frames: int) -> list[int]:
    """By batch: frames to take of each item, the student's finest tap having as many at most."""
    if not batches:
        raise UserError("similarity: no audio to compare the networks on; give at least one batch")
    lengths = {noisy.shape[-1] for noisy in batches}
    finest = {n: max(shape[2] for shape in probe(student, taps, n).values()) for n in lengths}
    total = sum(len(noisy) * finest[noisy.shape[-1]] for noisy in batches)
    share = min(1.0, frames / total)
    return [max(1, int(share * finest[noisy.shape[-1]])) for noisy in batches]


def _taps(model: SpeechModel, given: Taps | None, role: str) -> Taps:
    taps = resolve_taps(model) if given is None else given
    if not taps:
        raise UserError(
            f"similarity: the {role} {type(model).__name__} has no taps, so its blocks cannot be compared; name some "
            f"with --model.{role}_taps (`kdse taps` lists modules)"
        )
    return taps


def _gram(features: Tensor) -> Tensor:
    """Inner products of centred samples in float64; NaN if nothing but rounding is left of them."""
    x = features.to(torch.float64)
    energy = x.square().sum()
    x = x - x.mean(dim=0)
    if x.square().sum() <= CONSTANT * energy:
        x = torch.full_like(x, torch.nan)
    return x @ x.T


def _alignment(gram_x: Tensor, gram_y: Tensor) -> float:
    return float((gram_x * gram_y).sum() / (torch.linalg.norm(gram_x) * torch.linalg.norm(gram_y)))


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
