"""`ExportFormat`: a kind of file that holds a student, with what it can carry and how it is written and run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kdse.deploy.export.graphs import Graph
from kdse.models.base import Estimate, SpeechModel
from kdse.models.exported import ExportedStudent


@dataclass(frozen=True)
class Options:
    """What a file shall hold.

    streaming: one hop and the states a call; False takes and gives whole signals.
    stft: "inside" the graph or "outside" of it (streaming only).
    opset: version of ONNX's operators; None for the default.
    quantize: "int8", "int8-dynamic" or "int8-weights"; the difference to PyTorch is then reported, not limited.
    calibration: folder of audio for "int8".
    delegate: who computes in an ExecuTorch file; None for its portable kernels.
    """

    streaming: bool = True
    stft: str = "inside"
    opset: int | None = None
    quantize: str | None = None
    calibration: Path | None = None
    delegate: str | None = None


class ExportFormat:
    """Base of the formats. One is a module ``NAME_file.py`` with an instance ``FORMAT``, listed in `write.FORMATS`.

    name: as --format takes it, and in the module's name.
    suffixes: that its files may have; the first is the usual one.
    whole: whether it holds whole signals besides single hops.
    stft: where the STFT of a single hop can be.
    own_options: those of "opset", "quantize" and "delegate" that it takes.
    """

    name: str
    suffixes: tuple[str, ...]
    whole: bool = True
    stft: tuple[str, ...] = ("inside", "outside")
    own_options: tuple[str, ...] = ()

    def write(self, graph: Graph, path: Path, options: Options, about: dict[str, Any]) -> None:
        """Writes the graph with its weights and the metadata, a JSON object.

        Adds to the metadata what only writing shows ("quantized").

        Raises:
            ValueError: if a package is missing, or the format cannot hold the graph.
        """
        raise NotImplementedError

    def update(self, graph: Graph, path: Path, options: Options, about: dict[str, Any]) -> bool:
        """Puts other metadata into a file; returns whether the graph was captured anew (and may differ) for that."""
        self.write(graph, path, options, about)
        return True

    def program(self, path: Path) -> Callable[..., Any]:
        """A function that runs a file: ``(signal, *states)`` to ``(enhanced signal, *next states)``.

        That of whole signals ``[batch, samples]`` returns one tensor.
        """
        raise NotImplementedError

    def load(self, path: Path, about: dict[str, Any]) -> SpeechModel:
        """The file as a model, to compare it with the student."""
        program = self.program(path)
        return _Step(program, about, str(path)) if about["kind"] == "step" else _Whole(program)

    def constant_bytes(self, path: Path) -> int | None:
        """Bytes of the weights and other constants in a file; None where that is unknown."""
        return None


class _Step(ExportedStudent):
    """A program of one hop as a model."""

    def __init__(self, program: Callable[..., Any], about: dict[str, Any], source: str) -> None:
        super().__init__(about, source)
        self._program = (program,)  # (no submodule: a torch.export program has no eval())

    def run(self, signals: Sequence[Tensor], states: dict[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        answers = []
        for signal in signals:
            answer, *after = self._program[0](signal, *states.values())
            answers.append(answer)
            states = dict(zip(states, after, strict=True))
        return answers, states


class _Whole(SpeechModel):
    """A program of whole signals as a model."""

    def __init__(self, program: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._program = (program,)

    def forward(self, noisy: Tensor) -> Estimate:
        return Estimate(self._program[0](noisy))
