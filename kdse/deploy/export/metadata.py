"""What an exported file says of itself: one JSON object, the same in every format."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import kdse
from kdse.deploy.export.graphs import Graph
from kdse.models.base import UNBOUNDED, SpeechModel
from kdse.models.exported import FORMAT_VERSION


def describe_export(graph: Graph, checkpoint: Path | None) -> dict[str, Any]:
    """The metadata of a file; `parity` and `quantized` are null until they are known.

    Args:
        graph: what the file holds.
        checkpoint: where the student came from: its run folder knows its config and validation scores.
    """
    from kdse.models.budget import count_parameters
    from kdse.models.checkpoint import describe, fingerprint

    model = graph.model
    return {
        "format_version": FORMAT_VERSION,
        "kind": graph.kind,
        "stft": graph.stft,
        "kdse_version": kdse.__version__,
        "sample_rate_hz": int(model.sample_rate_hz),
        "hop_samples": int(model.hop_samples),
        "latency_samples": _bounded(model.latency_samples),
        "lookahead_samples": _bounded(model.lookahead_samples),
        "causal": bool(model.causal),
        "minimum_samples": model.shortest_samples if graph.kind == "whole" else None,
        "states": [
            {"name": name, "shape": list(state.shape), "dtype": str(state.dtype).removeprefix("torch.")}
            for name, state in graph.first_states(1).items()
        ],
        "front_end": _front_end(model),
        "model": describe(model)["model"],
        "parameters": count_parameters(model),
        "weights_sha256": fingerprint(model),
        **_origin(checkpoint),
        "quantized": None,
        "parity": None,
    }


def _bounded(samples: int) -> int | None:
    return None if samples >= UNBOUNDED else int(samples)


def _front_end(model: SpeechModel) -> dict[str, Any] | None:
    """The STFT that a host has to compute; `limit` is the clipping of the waveform that comes after it."""
    stft = model.front_end
    if stft is None:
        return None
    return {
        "n_fft": stft.n_fft,
        "hop_samples": stft.hop,
        "window_samples": stft.window_samples,
        "window_offset": stft.window_offset,
        "window": stft.window_name,
        "limit": 1.0 if model.clip else None,
    }


def _origin(checkpoint: Path | None) -> dict[str, Any]:
    """SHA-256 of the run's config and the last validation scores up to the checkpoint; null where unknown."""
    from kdse.models.checkpoint import read_checkpoint
    from kdse.run.folder import CONFIG, run_folder_of

    if checkpoint is None:
        return {"config_sha256": None, "scores": None}
    content = read_checkpoint(checkpoint)
    told = content.get("kdse") or {}
    run = run_folder_of(checkpoint)
    if run is None:
        return {"config_sha256": told.get("config_sha256"), "scores": told.get("scores")}
    digest = hashlib.sha256((run / CONFIG).read_bytes()).hexdigest()
    return {"config_sha256": digest, "scores": _validation_scores(run, content.get("global_step"))}


def _validation_scores(run: Path, step: Any) -> dict[str, float] | None:
    """The last row of validation scores that the run logged up to ``step``, with the step; None without one."""
    from kdse.run.log import training_log

    log = training_log(run)
    parts = ("_failed", "_snr")
    scores = [name for name in log.columns if name.startswith("val/") and not any(part in name for part in parts)]
    if not isinstance(step, int) or not scores:
        return None
    kept = log[log["step"] <= step].dropna(subset=scores, how="all")
    if kept.empty:
        return None
    last = {name: float(kept.iloc[-1][name]) for name in ["step", *scores]}
    return {name: value for name, value in last.items() if math.isfinite(value)}
