"""The teacher: frozen, in eval mode, without gradient, and in no checkpoint."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from kdse.compiling import CompiledNetwork
from kdse.data.batch import Batch
from kdse.errors import PackageError, UserError, require_one_of
from kdse.models.base import Estimate, SpeechModel, Tap
from kdse.models.build import ModelOrFactory, build
from kdse.models.checkpoint import load_model, load_weights, read_checkpoint
from kdse.models.recorded import Recorded
from kdse.models.teachers import Teachers
from kdse.pretrained.teachers import TeacherName
from kdse.taps import record

log = logging.getLogger(__name__)


class Teacher:
    """A frozen network and how it is run: in a lower precision ("bfloat16", "float16"), or `compiled`.

    Not a module: what holds one neither trains nor saves it.
    """

    compiled: CompiledNetwork | None = None  # set while it teaches a run with --model.compile

    def __init__(self, network: SpeechModel, taps: Mapping[str, Tap], autocast: str | None = None) -> None:
        require_one_of("teacher_autocast", autocast, None, "bfloat16", "float16")
        self.network = network.requires_grad_(False).eval()
        self.taps = dict(taps)
        members = network.members if isinstance(network, Teachers) else [network]
        self.comes_with_data = any(isinstance(member, Recorded) for member in members)  # or a part of it
        self.has_activations = bool(self.taps) or not isinstance(network, Recorded | Teachers)
        self._dtype = None if autocast is None else getattr(torch, autocast)

    def teach(
        self, noisy: Tensor, names: Iterable[str] = (), batch: Batch | None = None
    ) -> tuple[Estimate, Mapping[str, Tensor]]:
        """The teacher's estimate for ``[B, N]`` and the named taps ``[B, C, T, F]``.

        ``batch`` is what ``noisy`` is from: a `Recorded` teacher's output, and clean speech to choose among several by.
        """
        data: Mapping[str, Any] = batch or {}
        if isinstance(self.network, Recorded):
            taps = self.network.activations(data.get("taught_taps"), set(names))
            return self.network.estimate(data.get("taught")), taps
        self.network.eval()
        lowered = None if self._dtype is None else torch.autocast(noisy.device.type, dtype=self._dtype)
        with torch.no_grad(), lowered or contextlib.nullcontext():
            if isinstance(self.network, Teachers):
                given = data.get("taught"), data.get("clean"), data.get("labelled")
                return self.network.estimate(noisy, *given), {}
            return record(self.network, {name: self.taps[name] for name in names}, noisy, self.compiled)


def load_teacher(teacher: TeacherName | ModelOrFactory | None, checkpoint: str | None, trust_code: bool) -> SpeechModel:
    """The teacher network: given, or rebuilt from its checkpoint, with the checkpoint's weights if there is one."""
    if teacher is None:
        if checkpoint is None:
            raise UserError(
                "give --model.teacher_checkpoint (a checkpoint of kdse fit, or cruse-62k) or --model.teacher"
            )
        try:
            return load_model(checkpoint, trust_code=trust_code)
        except PackageError:
            raise
        except UserError as error:
            raise UserError(f"--model.teacher_checkpoint: {error}") from error
    if isinstance(teacher, str) and checkpoint is not None:
        raise UserError(
            f"--model.teacher_checkpoint {checkpoint}: --model.teacher {teacher} brings its own weights; give one of "
            "them, and null for the other"
        )
    loaded = load_model(teacher) if isinstance(teacher, str) else build(teacher, "teacher")
    if checkpoint is not None:
        source = f"--model.teacher_checkpoint {checkpoint}"
        load_weights(loaded, read_checkpoint(checkpoint)["state_dict"], source=source)
    elif not isinstance(teacher, SpeechModel) and not loaded.brings_weights:
        log.warning("the teacher has random weights: no --model.teacher_checkpoint was given")
    return loaded
