"""Running and training costs of a system: the columns beside its scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdse.errors import UserError

if TYPE_CHECKING:
    from kdse.models.base import SpeechModel

#: Threads and clip of the real-time factor.
THREADS = 1
CLIP_SECONDS = 2.0


def running_cost(model: SpeechModel) -> dict[str, Any]:
    """Parameters, MACs, real-time factor on one thread of this machine's CPU, latency and bytes of a model on the CPU.

    Unknown is None: the latency of a model that hears the whole clip, the insides of an ONNX file. The real-time
    factor is measured now: it is as good as the machine is idle.
    """
    from kdse.deploy.cost import time_streaming, time_whole

    size = size_and_macs(model)
    streaming = time_streaming(model, threads=THREADS)
    tensors = model.state_dict().values()
    return {
        **size,
        "real_time_factor": time_whole(model, CLIP_SECONDS, threads=THREADS).real_time_factor,
        "streaming_real_time_factor": None if streaming is None else streaming.real_time_factor,
        "threads": THREADS,
        "latency_ms": model.latency_ms,
        "model_bytes": sum(t.numel() * t.element_size() for t in tensors) if size["parameters"] else None,
    }


def size_and_macs(model: SpeechModel) -> dict[str, int | None]:
    """Parameters, and MACs a second of audio; None for what is in a file and not in the module."""
    from kdse.deploy.cost import count_macs
    from kdse.models.budget import count_parameters

    parameters = count_parameters(model)
    macs = count_macs(model, CLIP_SECONDS) if parameters else None
    return {"parameters": parameters or None, "macs_per_second": round(macs.per_second) if macs else None}


def training_cost(run: Path, damaged: list[str] | None = None) -> dict[str, Any]:
    """Wall time, seconds a step, steps and seed of a run; None is unknown, ``damaged`` gets files that are not read."""
    from kdse.run.folder import seed_of, steps_of
    from kdse.run.timing import step_cost

    cost, steps = step_cost(run, damaged), None
    try:
        steps = steps_of(run)
    except UserError as error:
        if damaged is None:
            raise
        damaged.append(str(error))
    return {
        "training_seconds": None if cost is None else cost.training_seconds,
        "seconds_per_step": None if cost is None else cost.seconds_per_step,
        "steps": steps,
        "seed": seed_of(run),
    }
