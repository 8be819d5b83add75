"""Parameters and values of a sweep in the field's terms, for pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from kdse.report.tables.shown import shown
from kdse.sweeps.progress import written

TITLES = {
    "model.compression": "compression",
    "data.snr_db": "input SNR (dB)",
    "schedule.distil_fraction": "share of steps for distillation",
    "seed_everything": "seed",
    "config": "method",
}


def parameter_title(name: str) -> str:
    """A parameter for the side of a picture."""
    return TITLES.get(name, name)


def value_words(name: str, value: Any) -> str:
    """A value where its parameter is known from the side of the picture."""
    if name == "model.compression":
        return f"{value:g}×" if isinstance(value, (int, float)) else str(value)
    if name == "data.snr_db" and isinstance(value, list) and len(value) == 2:
        return f"{minus(value[0])} to {minus(value[1])}"
    if name == "config":
        return PurePath(str(value)).stem.replace("_", " ")
    return written(value)


def value_title(name: str, value: Any) -> str:
    """A value that has to say what it is a value of."""
    if name == "schedule.distil_fraction" and isinstance(value, (int, float)):
        return "without distillation" if value == 0 else f"two-step, {100 * value:g} % of steps"
    if name == "config":
        return value_words(name, value)
    if name == "data.snr_db":
        return f"SNR {value_words(name, value)} dB"
    if name == "model.compression":
        return value_words(name, value)
    return f"{name.rpartition('.')[2].replace('_', ' ')} {value_words(name, value)}"


def point_title(values: Mapping[str, Any], names: Sequence[str]) -> str:
    """Some values of a point, as a name."""
    return ", ".join(value_title(name, values[name]) for name in names)


def metric_title(name: str) -> str:
    """A metric of the log: ``val/si_sdr_improvement`` is "SI-SDR improvement (dB)"."""
    base = name.removeprefix("val/")
    metric = base.removesuffix("_improvement")
    if shown(metric).title == metric:
        return name
    title, _, unit = shown(metric).title.rpartition(" ")
    if unit not in ("dB", "%"):
        title, unit = shown(metric).title, ""
    return f"{title}{' improvement' if base != metric else ''}{f' ({unit})' if unit else ''}"


def metric_text(name: str, value: float, sign: bool = False) -> str:
    """Its value with the decimals of its kind; improvements have a sign, others only if asked."""
    metric = name.removeprefix("val/").removesuffix("_improvement")
    return shown(metric).number(value, sign=sign or name.endswith("_improvement"))


def metric_factor(name: str) -> float:
    """What a value is multiplied by to be shown."""
    return shown(name.removeprefix("val/").removesuffix("_improvement")).factor


def minus(value: float) -> str:
    """A number with a real minus sign."""
    return f"{value:g}".replace("-", "−")
