"""`kdse profile`: what a model costs to run."""

from __future__ import annotations

import json
import platform
from typing import TYPE_CHECKING, Any

from kdse.commands.model import add_model, failures_explained, named_model, open_model
from kdse.commands.parser import Parser, at_least, positive

if TYPE_CHECKING:
    from kdse.models.base import SpeechModel

EPILOG = """\
MACs are multiply-accumulates: those of convolutions, linear and recurrent layers and attention, per second of audio.
Transposed convolutions are counted at their input positions.
Norms, activations, FFTs and other element-wise work are not counted; they are listed.
The real-time factor is computing time over audio time (0.1: ten times faster than real time) and depends on this
machine and what else runs on it; parameters, MACs and latency do not.

examples:
  kdse profile kdse.models.Cruse --init channels='[8,16,32,32]'
  kdse profile runs/student --json
"""


def make_parser() -> Parser:
    description = "Measure what a model costs: parameters, MACs per second of audio, latency, real-time factor."
    parser = Parser("kdse profile", description, EPILOG)
    add_model(parser, "model")
    parser.add_argument("--seconds", type=positive, default=2.0, help="length of the timed clip (default: 2)")
    parser.add_argument("--runs", type=at_least(1), default=7, help="timed runs; the median counts (default: 7)")
    parser.add_argument("--no-timing", action="store_true", help="leave the real-time factor out")
    parser.add_json()
    return parser


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    arguments = make_parser().parse_args(argv)
    model = open_model(named_model(arguments), arguments)
    with failures_explained(model, arguments.seconds):
        result = profile(model, arguments.seconds, arguments.runs, timing=not arguments.no_timing)
    print(json.dumps(result, indent=2, default=str) if arguments.json else describe(result))
    return 0


def profile(model: SpeechModel, seconds: float = 2.0, runs: int = 7, timing: bool = True) -> dict[str, Any]:
    """Everything the command reports, as plain data (the keys carry the units)."""
    from kdse.deploy.cost import count_macs, time_streaming, time_whole
    from kdse.models.budget import count_parameters

    macs = count_macs(model, seconds)
    rate = model.sample_rate_hz
    lookahead = None if model.latency_ms is None else model.lookahead_samples
    result: dict[str, Any] = {
        "model": type(model).__name__,
        "init_args": model.init_args,
        "sample_rate_hz": rate,
        "hop_samples": model.hop_samples,
        "parameters_trainable": count_parameters(model, trainable_only=True),
        "parameters_total": count_parameters(model),
        "macs_per_second": round(macs.per_second),
        "macs_per_hop": round(macs.per_second * model.hop_samples / rate),
        "macs_linear_in_length": macs.linear,
        "macs_clip_seconds": macs.clip_seconds,
        "macs_counted": {name: round(value) for name, value in macs.counted.items()},
        "operators_not_counted": macs.uncounted,
        "causal": model.causal,
        "latency_ms": model.latency_ms,
        "lookahead_samples": lookahead,
        "lookahead_ms": None if lookahead is None else 1000 * lookahead / rate,
    }
    if timing:
        whole, streaming = time_whole(model, seconds, runs), time_streaming(model)
        result |= {
            "real_time_factor": whole.real_time_factor,
            "real_time_factor_range": [whole.fastest, whole.slowest],
            "real_time_factor_runs": whole.runs,
            "real_time_factor_clip_seconds": seconds,
            "streaming_real_time_factor": None if streaming is None else streaming.real_time_factor,
            "streaming_real_time_factor_range": None if streaming is None else [streaming.fastest, streaming.slowest],
            "threads": 1,
            "machine": f"{platform.machine()} {platform.system()}, {model.device.type}",
        }
    return result


def describe(result: dict[str, Any]) -> str:
    """The profile as text."""
    init = ", ".join(f"{name}={value}" for name, value in result["init_args"].items())
    slope = f"; grows faster than length, this is the slope from {result['macs_clip_seconds']:g} s to twice that"
    growth = "" if result["macs_linear_in_length"] else slope
    counted = ", ".join(f"{name} {_si(value)}" for name, value in result["macs_counted"].items()) or "nothing"
    lines = [
        f"{result['model']}({init})",
        "",
        f"parameters        {result['parameters_trainable']:,} trainable, {result['parameters_total']:,} in total",
        f"MACs              {_si(result['macs_per_second'])}/s of audio, {_si(result['macs_per_hop'])} per hop of "
        f"{result['hop_samples']} samples{growth}",
        f"  counted         {counted}",
        f"  not counted     {', '.join(result['operators_not_counted']) or 'nothing'}",
    ]
    if result["latency_ms"] is not None:
        lines += [
            f"latency           {result['latency_ms']:.1f} ms algorithmic, with hop buffering, as the model declares",
            f"lookahead         {result['lookahead_samples']} samples ({result['lookahead_ms']:.1f} ms)",
        ]
    else:
        lines += ["latency           unknown or the whole clip: the model is not causal"]
    if "real_time_factor" in result:
        lines += [
            f"real-time factor  {_factor(result, 'real_time_factor')} on 1 thread, median of "
            f"{result['real_time_factor_runs']} runs over {result['real_time_factor_clip_seconds']:g} s",
            f"  hop by hop      {_factor(result, 'streaming_real_time_factor')}",
            f"  measured on     {result['machine']}; depends on the machine and its load",
        ]
    return "\n".join(lines)


def _factor(result: dict[str, Any], name: str) -> str:
    if result[name] is None:
        return "does not stream"
    low, high = result[f"{name}_range"]
    return f"{result[name]:.4f} ({low:.4f} to {high:.4f})"


def _si(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.2f}{letter}"
    return f"{value:g}"
