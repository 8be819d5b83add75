"""Which run a config is: a name that two starts of the same settings share, whatever machine they are on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

DIGITS = 12
#: Top-level settings that say where and how a run is kept, not what it computes. (The seed stands beside the digest.)
_WHERE = {
    "config", "run_dir", "run_root", "resume", "overwrite", "ckpt_path", "weights_only", "wandb", "wandb_project",
    "save_every_n_steps", "example_every_n_validations", "max_nonfinite_steps", "seed_everything",
}  # fmt: skip
#: The same of parts of the config: machine, processes, and lists and copies of a corpus that change no sample. The
#: number of devices and nodes and the precision change results: they are not among them.
_WHERE_IN = {
    "trainer": {
        "accelerator", "strategy", "logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary",
        "log_every_n_steps", "default_root_dir", "profiler", "plugins", "barebones", "benchmark", "detect_anomaly",
        "inference_mode", "num_sanity_val_steps",
    },
    "data": {"num_workers", "manifest", "shard_cache", "cache_gb", "cache_dir", "on_accelerator"},
    "model": {"metric_workers", "compile"},
}  # fmt: skip
#: Settings that seeds of one experiment may differ in: the data's own seed, and what only watches a run.
_SEED_OR_WATCHING = {"trainer": {"callbacks"}, "data": {"seed"}, "model": {"metrics"}}


def identity(config: Mapping[str, Any]) -> str:
    """``<12 hexadecimal digits>-seed<seed>``: the digest of what a resolved config computes, and its seed.

    Two starts with one identity train the same run: the same files, flags or sweep point, in any order, with any number
    of data workers, from any working directory. Paths count as they are written, not by what they hold.

    Args:
        config: all settings of `kdse fit` with their defaults, as ``config.yaml`` in a run folder has them.
    """
    text = json.dumps(_computed(config), sort_keys=True, default=str)
    return f"{hashlib.sha256(text.encode()).hexdigest()[:DIGITS]}-seed{config.get('seed_everything')}"


def without_seed(config: Mapping[str, Any]) -> str:
    """What a resolved config trains whatever its seed, as text: equal for runs that differ in their seed only."""
    return json.dumps(_dropped(_computed(config), _SEED_OR_WATCHING), sort_keys=True, default=str)


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Dotted names of the settings in which two configs are not the same run, sorted."""
    one, other = (dict(_leaves({**_computed(c), "seed_everything": c.get("seed_everything")})) for c in (a, b))
    missing = object()
    names = sorted(one.keys() | other.keys())
    return [short(n) for n in names if repr(one.get(n, missing)) != repr(other.get(n, missing))]


def short(name: str) -> str:
    """The name of a setting as its flag may be written: without ``init_args``."""
    return name.replace(".init_args.", ".")


def counts(name: str) -> bool:
    """Whether a setting, named as its flag without dashes, is part of which run a config is; the seed is."""
    part, _, rest = short(name).partition(".")
    return name == "seed_everything" or not (part in _WHERE or rest.partition(".")[0] in _WHERE_IN.get(part, ()))


def _computed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what does not count, in one form."""
    kept = _dropped({name: value for name, value in config.items() if name not in _WHERE}, _WHERE_IN)
    trainer = kept.get("trainer") or {}
    kept["trainer"] = {k: _ONE_FORM[k](v) if k in _ONE_FORM else v for k, v in trainer.items()}
    return kept


def _dropped(config: Mapping[str, Any], parts: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """A config without these settings of its parts, which are classes (``init_args``) or plain mappings."""
    kept = dict(config)
    for part, names in parts.items():
        value = kept.get(part)
        if isinstance(value, dict):
            kept[part] = {k: v for k, v in value.items() if k not in names}
            if isinstance(value.get("init_args"), dict):
                kept[part]["init_args"] = {k: v for k, v in value["init_args"].items() if k not in names}
    return kept


#: Settings of the trainer that say one thing in several ways ('2' as a flag and 2 in a file, 5 and 5.0, null and 32).
_ONE_FORM: dict[str, Callable[[Any], Any]] = {
    "devices": lambda value: int(value) if str(value).isdigit() else value,
    "gradient_clip_val": lambda value: None if value is None else float(value),
    "precision": lambda value: {"None": "32-true", "32": "32-true", "64": "64-true"}.get(str(value), value),
}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
