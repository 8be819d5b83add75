"""Titles of a sweep's parameters, values and metrics in its pictures and tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from kdse.report.tables.table import Shown, shown
from kdse.sweeps.progress import written

TITLES = {
    "model.compression": "compression",
    "data.snr_db": "input SNR (dB)",
    "schedule.distil_fraction": "share of steps for distillation",
    "seed_everything": "seed",
    "config": "method",
}


def parameter_title(name: str) -> str:
    """A parameter as the title of an axis."""
    return TITLES.get(name, name)


def value_words(name: str, value: Any, full: bool = False) -> str:
    """A value beside an axis that names its parameter; ``full``: with all digits and folders."""
    if name == "model.compression" and isinstance(value, (int, float)):
        return f"{value}×" if full else f"{value:g}×"
    if full:
        return str(value)
    if name == "data.snr_db" and isinstance(value, list) and len(value) == 2:
        return f"{minus(value[0])} to {minus(value[1])}"
    return PurePath(str(value)).stem.replace("_", " ") if name == "config" else written(value)


def value_title(name: str, value: Any, full: bool = False) -> str:
    """A value with its parameter; ``full``: with all digits and folders."""
    words = value_words(name, value, full)
    if name == "schedule.distil_fraction" and isinstance(value, (int, float)):
        share = str(100 * value) if full else f"{100 * value:g}"
        return "without distillation" if value == 0 and not full else f"two-step, {share} % of steps"
    if name in ("config", "model.compression"):
        return words
    return f"SNR {words} dB" if name == "data.snr_db" else f"{name.rpartition('.')[2].replace('_', ' ')} {words}"


def key_of(*values: Any) -> str:
    """A key that is equal for equal values only; words for people can be the same for two of them."""
    return json.dumps(values, default=str)


def distinct(name: str, values: Iterable[Any], words: Callable[..., str] = value_words) -> dict[str, str]:
    """Values of a parameter in words, by `key_of`: in full where the short words of two are the same."""
    known = {key_of(value): value for value in values}
    short = {key: words(name, value) for key, value in known.items()}
    count = Counter(short.values())
    return {key: text if count[text] == 1 else words(name, known[key], full=True) for key, text in short.items()}


def point_key(values: Mapping[str, Any], names: Sequence[str]) -> str:
    """A key of a point's values of these parameters."""
    return key_of(*(values[name] for name in names))


def point_titles(points: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, str]:
    """Points' values of these parameters in words, by `point_key`, in the order in which they come first."""
    words = {name: distinct(name, (point[name] for point in points), value_title) for name in names}
    return {point_key(p, names): ", ".join(words[name][key_of(p[name])] for name in names) for p in points}


def metric_title(name: str) -> str:
    """A metric of the log: ``val/si_sdr_improvement`` is "SI-SDR improvement (dB)"."""
    metric = _shown(name).title
    if metric == name.removeprefix("val/").removesuffix("_improvement"):
        return name
    title, _, unit = metric.rpartition(" ")
    if unit not in ("dB", "%"):
        title, unit = metric, ""
    return f"{title}{' improvement' if name.endswith('_improvement') else ''}{f' ({unit})' if unit else ''}"


def metric_text(name: str, value: float, sign: bool = False) -> str:
    """Its value with the decimals of its kind; improvements have a sign, others only if asked."""
    return _shown(name).number(value, sign=sign or name.endswith("_improvement"))


def metric_factor(name: str) -> float:
    """What a value is multiplied by to be shown."""
    return _shown(name).factor


def minus(value: float) -> str:
    """A number with a real minus sign."""
    return f"{value:g}".replace("-", "−")


def _shown(name: str) -> Shown:
    return shown(name.removeprefix("val/").removesuffix("_improvement"))
