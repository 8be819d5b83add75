"""Students in exported files: what the files say of themselves, and one hop of them as a `SpeechModel`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kdse.errors import UserError
from kdse.models.base import UNBOUNDED, Estimate, SpeechModel
from kdse.models.stft import Stft
from kdse.models.streaming import streamed
from kdse.trust import LARGEST_STATE_BYTES, check_numbers

FORMAT_VERSION = 1


class ExportedStudent(SpeechModel):
    """A file that `kdse export --streaming` wrote, run hop by hop. Its formats differ in `run` alone.

    It has no parameters, gradients or taps and runs on the CPU. A file without the STFT is framed, overlapped and
    added here, with the front end that its metadata, ``about``, states. Files hold one stream each; the items of a
    batch follow one another.
    """

    many_hops = True

    def __init__(self, about: dict[str, Any], source: str) -> None:
        super().__init__()
        if about["kind"] != "step":
            raise UserError(f"{source}: holds a graph for whole signals; a student that streams is wanted")
        self.about = about
        self.sample_rate_hz, self.hop_samples = about["sample_rate_hz"], about["hop_samples"]
        self.causal = about["causal"]
        self.latency_samples, self.lookahead_samples = delays(about)
        self.parameter_count = about.get("parameters")
        outside = about["stft"] == "outside"
        front_end, limit = _front_end(about["front_end"], source) if outside else (None, None)
        self._limit: float | None = limit
        self._front_end = (front_end,)  # (no submodule: it stays on the CPU, where the file runs)

    @property
    def stft(self) -> Stft | None:
        """The STFT that is left to this side."""
        return self._front_end[0]

    def run(self, signals: Sequence[Tensor], states: dict[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Hops of one stream: audio ``[1, hop]`` each (or frames ``[1, F, 2]``) and all states in, the same out."""
        raise NotImplementedError

    def forward(self, noisy: Tensor) -> Estimate:
        return Estimate(streamed(self, noisy.detach()).to(noisy))

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        host = {} if self.stft is None else self.stft.initial_state(batch, torch.device("cpu"))
        return host | self.file_states(batch)

    def file_states(self, batch: int) -> dict[str, Tensor]:
        """The states that the file knows, before the first hop."""
        return {
            entry["name"]: torch.zeros(batch, *entry["shape"][1:], dtype=getattr(torch, entry["dtype"]))
            for entry in self.about["states"]
        }

    @torch.no_grad()
    def step(self, noisy_hop: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        hops = noisy_hop.to("cpu", torch.float32)
        if self.stft is None:
            waves, new = self._rows(hops.split(self.hop_samples, dim=1), state)
            return torch.cat(waves, dim=1), new
        wave, new = self.stft.step(hops, state, self.step_spectrum)
        return (wave if self._limit is None else wave.clamp(-self._limit, self._limit)), new

    def step_spectrum(self, spectrum: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        enhanced, new = self._rows(torch.view_as_real(spectrum).unbind(2), state)
        return torch.view_as_complex(torch.stack(enhanced, dim=2)), new

    def _rows(self, signals: Sequence[Tensor], state: dict[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        names = [entry["name"] for entry in self.about["states"]]
        rows = [
            self.run([signal[i : i + 1] for signal in signals], {n: state[n][i : i + 1] for n in names})
            for i in range(signals[0].shape[0])
        ]
        if len(rows) == 1:
            return rows[0]
        waves = [torch.cat(hop) for hop in zip(*(row[0] for row in rows), strict=True)]
        return waves, {name: torch.cat([row[1][name] for row in rows]) for name in names}


def delays(about: dict[str, Any]) -> tuple[int, int]:
    """Latency and look-ahead in samples that a file's metadata state, as a `SpeechModel` states them."""
    latency, lookahead = (about[name] for name in ("latency_samples", "lookahead_samples"))
    return UNBOUNDED if latency is None else latency, UNBOUNDED if lookahead is None else lookahead


def _front_end(about: dict[str, Any], source: str) -> tuple[Stft, float | None]:
    names = ("n_fft", "hop_samples", "window", "window_samples", "window_offset")
    try:
        return Stft(*(about[name] for name in names)), about.get("limit")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source}: its kdse metadata is damaged (front_end: {error}); export it again") from None


def parse(text: str, source: str) -> dict[str, Any]:
    """The JSON of a file, checked; a ValueError names a file that is damaged or of another version."""
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise UserError(f"{source}: its kdse metadata is damaged (not a JSON object); export it again")
    if about.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{source}: its kdse metadata has format {about.get('format_version')}, this kdse reads {FORMAT_VERSION}; "
            "update kdse or export it again"
        )
    check_numbers({name: about.get(name) for name in _RULES if name != "states"}, source)
    wrong = [name for name, fits in _RULES.items() if not fits(about.get(name))]
    if not wrong and about["stft"] == "outside" and about["front_end"] is None:
        wrong = ["front_end"]
    if wrong:
        raise UserError(f"{source}: its kdse metadata is damaged ({', '.join(wrong)}); export it again")
    if sum(8 * math.prod(entry["shape"]) for entry in about["states"]) > LARGEST_STATE_BYTES:
        raise UserError(f"{source}: its states ask for more than {LARGEST_STATE_BYTES >> 20} MiB; export it again")
    return about


def _positive(value: object) -> bool:
    return type(value) is int and value > 0


def _is_state(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and entry.get("dtype") in ("float32", "float64")
        and isinstance(entry.get("shape"), list)
        and bool(entry["shape"])
        and all(_positive(size) for size in entry["shape"])
    )


_RULES = {
    "kind": lambda v: v in ("step", "whole"),
    "stft": lambda v: v in ("inside", "outside"),
    "sample_rate_hz": _positive,
    "hop_samples": _positive,
    "latency_samples": lambda v: v in (None, 0) or _positive(v),
    "lookahead_samples": lambda v: v in (None, 0) or _positive(v),
    "minimum_samples": lambda v: v is None or _positive(v),
    "causal": lambda v: isinstance(v, bool),
    "states": lambda v: isinstance(v, list) and all(_is_state(entry) for entry in v),
    "front_end": lambda v: v is None or isinstance(v, dict),
}
