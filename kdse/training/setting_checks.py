"""Checks of the whole config that no constructor can make, and the flag of what a constructor refuses."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdse.errors import UserError, require_at_least
from kdse.internals.jsonargparse import parameters
from kdse.models.checkpoint import read_checkpoint

#: Least values of counts, smaller ones of which Lightning answers with nothing or a crash.
LEAST = {
    "trainer.accumulate_grad_batches": 1, "trainer.check_val_every_n_epoch": 1, "trainer.gradient_clip_val": 0,
    "trainer.log_every_n_steps": 0, "trainer.num_sanity_val_steps": -1, "save_every_n_steps": 1,
    "example_every_n_validations": 0, "max_nonfinite_steps": 0,
}  # fmt: skip
#: Values of --ckpt_path that Lightning looks a file up for.
KEYWORDS = ("best", "last", "hpc", "registry")
#: Largest seed that NumPy takes.
LARGEST_SEED = 2**32 - 1


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuses counts below their least, seeds that no generator takes, and numbers that are not finite.

    Infinity is left to classes of Lightning's and of the user's, in some of which it means "never".

    Raises:
        UserError: that names the flag.
    """
    for name, least in LEAST.items():
        part, _, inner = name.rpartition(".")
        value = ((settings.get(part) or {}) if part else settings).get(inner)
        if value is not None:
            require_at_least(least, **{f"--{name}": value})
    seed = settings.get("seed_everything")
    if isinstance(seed, int) and not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"--seed_everything {seed}: give a number from 0 to {LARGEST_SEED}")
    if not settings.get("run_dir", "."):
        raise UserError("--run_dir (empty): give a folder")
    for key, kind, value in nested(settings, "", "kdse."):
        if isinstance(value, float) and (
            math.isnan(value) or math.isinf(value) and kind.startswith(("kdse.", "torch."))
        ):
            raise UserError(f"--{key} {value}: must be a finite number")


def nested(value: Any, key: str = "", kind: str = "") -> Iterator[tuple[str, str, Any]]:
    """Plain settings and all that is in them: dotted key, class whose setting it is, value."""
    yield key, kind, value
    if isinstance(value, Mapping):
        kind = str(value.get("class_path", kind))
        for name, inner in value.items():
            yield from nested(inner, key if name == "init_args" else f"{key}.{name}" if key else str(name), kind)
    elif isinstance(value, list):
        for inner in value:
            yield from nested(inner, key, kind)


def with_flag(mistake: UserError, settings: Mapping[str, Any]) -> str:
    """A constructor's message with the flag of the class that it is about: ``--objectives.gram.weight=-1.0: ...``.

    Constructors name their arguments and know nothing of flags. The class is found among the frames that the error
    passed: the innermost whose class the config names, and, of several of one class, the one with these arguments.
    """
    text, found = str(mistake), None
    if re.match(r"--|schedule\b|objectives\b|.*--(model|data|schedule|trainer)\b", text):
        return text
    places = [
        (key, value) for key, _, value in nested(settings) if isinstance(value, Mapping) and "class_path" in value
    ]
    step = mistake.__traceback__
    while step is not None:
        frame = step.tb_frame
        made = type(frame.f_locals.get("self"))
        if frame.f_code.co_name == "__init__":
            able = [place for place in places if str(place[1]["class_path"]).rpartition(".")[2] == made.__name__]
            exact = [place for place in able if _has(frame.f_locals, place[1].get("init_args") or {})]
            found = (made, (exact or able)[0][0]) if able else found
        step = step.tb_next
    if found is None:
        return text
    made, key = found
    own = re.match(r"\w+(?=[=: ])", text)
    return f"--{key}.{text}" if own and own[0] in parameters(made) else f"--{key}: {text}"


def _has(names: Mapping[str, Any], arguments: Mapping[str, Any]) -> bool:
    plain = {k: names[k] for k in arguments if isinstance(names.get(k), (int, float, str))}
    return all(arguments[k] == v for k, v in plain.items() if not isinstance(arguments[k], (Mapping, list)))


def check_checkpoint(path: str | None, for_fit: bool) -> None:
    """Refuses a --ckpt_path that is no checkpoint of training."""
    if path is None or path in KEYWORDS:
        return
    if not Path(path).is_file():
        problem = "is a folder, give RUN/checkpoints/last.ckpt" if Path(path).is_dir() else "no such file"
        raise UserError(f"--ckpt_path {path}: {problem}; a checkpoint of kdse fit is meant")
    content = read_checkpoint(path)
    needed = {"pytorch-lightning_version", *(("loops", "optimizer_states") if for_fit else ())}
    if needed - content.keys():
        raise UserError(
            f"--ckpt_path {path}: holds a model without the state of its training; give it as --model.weights={path}"
        )


def without(words: Sequence[str], *flags: str) -> list[str]:
    """A command line without these flags and their values, written as ``--name=value`` or ``--name value``."""
    kept: list[str] = []
    left = iter(words)
    for word in left:
        name, equals, _ = word.partition("=")
        if name not in flags:
            kept.append(word)
        elif not equals:
            next(left, None)
    return kept
