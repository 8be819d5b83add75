"""`kdse taps`: the distillation points of a model: path, layout, shape."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kdse.commands.model import add_model, failures_explained, named_model, open_model
from kdse.commands.parser import Parser, name_and_value, positive

if TYPE_CHECKING:
    from kdse.models.base import SpeechModel

EPILOG = """\
A distillation point (tap) is a module whose output objectives compare. Its layout names the axes of that output:
b batch, c channels, t time, f frequency; every tap is brought to [B, C, T, F].

examples:
  kdse taps kdse.models.Cruse
  kdse taps kdse.models.Cruse --init channels='[8,16,32,32]' --all
  kdse taps runs/student --json
  kdse taps kdse.models.Cruse --tap 'gru={path: bottleneck.grus.0, layout: b t c}'

In a config, other taps than the model's own are named like this:
  model: {init_args: {student_taps: {gru: {path: bottleneck.grus.0, layout: b t c}}}}
"""


def make_parser() -> Parser:
    description = "List the distillation points of a model: name, module path, layout and shape."
    parser = Parser("kdse taps", description, EPILOG)
    add_model(parser, "model")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--all", action="store_true", help="list every module with its output's shape, not only taps")
    choice.add_argument(
        "--tap", metavar="NAME=SPEC", action="append", type=name_and_value, default=[],
        help="try a tap of your own before training with it: a module path or {path, layout, sizes}; repeatable",
    )  # fmt: skip
    parser.add_argument("--seconds", type=positive, default=1.0, help="length of the probe clip (default: 1)")
    parser.add_json()
    return parser


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    arguments = make_parser().parse_args(argv)
    model = open_model(named_model(arguments), arguments)
    samples = max(1, round(arguments.seconds * model.sample_rate_hz))
    with failures_explained(model, arguments.seconds):
        rows = list_modules(model, samples) if arguments.all else list_taps(model, samples, dict(arguments.tap))
    if arguments.json:
        about = {"model": type(model).__name__, "sample_rate_hz": model.sample_rate_hz, "probe_samples": samples}
        print(json.dumps(about | {"modules" if arguments.all else "taps": rows}, indent=2))
    elif rows:
        shapes = "" if arguments.all else "; shapes are [B, C, T, F]"
        print(f"{type(model).__name__}, probed with {arguments.seconds:g} s at {model.sample_rate_hz} Hz{shapes}\n")
        print(columns(rows))
    else:
        print(f"{type(model).__name__} declares no taps; --all lists its modules, --tap tries one")
    return 0


def list_taps(model: SpeechModel, samples: int, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each tap of ``spec``, or of the model itself: name, path, layout, shape ``[B, C, T, F]``, group."""
    from kdse.taps import probe, resolve_taps

    taps = resolve_taps(model, spec or None)
    shapes = probe(model, taps, samples) if taps else {}
    return [
        {
            "name": name,
            "path": tap.path,
            "layout": tap.layout + "".join(f" {axis}={size}" for axis, size in tap.sizes.items()),
            "shape": list(shapes[name]),
            "group": tap.group,
        }
        for name, tap in taps.items()
    ]


def list_modules(model: SpeechModel, samples: int) -> list[dict[str, Any]]:
    """One row a module: path, class, output as the module returns it, the tap that is there."""
    from kdse.taps import module_shapes

    names = {tap.path: name for name, tap in model.taps().items()}
    modules = dict(model.named_modules())
    return [
        {"path": path, "type": type(modules[path]).__name__, "output": shape, "tap": names.get(path, "")}
        for path, shape in module_shapes(model, samples).items()
    ]


def columns(rows: list[dict[str, Any]]) -> str:
    """Left-aligned text columns under the keys of the rows."""
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
