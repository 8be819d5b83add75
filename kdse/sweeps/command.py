"""The command line of a point: the file's ``command`` with its macros filled in as W&B's agent does it."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kdse.errors import UserError

ENVIRONMENT = re.compile(r"\$\{envvar\:([A-Z0-9_]*)\}")
MACRO = re.compile(r"^\$\{(.*)\}$")
#: Flags of `kdse fit` that the runner sets; those of them and others that it takes out of a file's command.
OURS = ("--run_root", "--run_dir", "--resume", "--overwrite", "--ckpt_path")
REPLACED = ("--run_root", "--resume", "--wandb")


def fill(command: Sequence[str], arguments: Mapping[str, Any]) -> list[str]:
    """The words of a sweep file's command with its macros filled in.

    Raises:
        ValueError: for a macro that W&B's agent does not have, or that needs its server.
    """
    flags = [f"--{name}={value}" for name, value in arguments.items()]
    forms = {
        "env": ["/usr/bin/env"],
        "args": flags,
        "args_no_hyphens": [flag[2:] for flag in flags],
        "args_no_boolean_flags": [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in arguments.items()
            if value is not False
        ],
        "args_no_equals": [word for name, value in arguments.items() for word in (f"--{name}", str(value))],
        "args_json": [json.dumps(dict(arguments))],
    }
    words: list[str] = []
    for word in command:
        word = ENVIRONMENT.sub(lambda found: os.environ.get(found[1], found[1]), word)
        macro = MACRO.match(word)
        if macro is None:
            words.append(word)
        elif macro[1] in forms:
            words += forms[macro[1]]
        else:
            raise UserError(f"command: {word} is not supported here; there are {', '.join(f'${{{f}}}' for f in forms)}")
    return words


def fit_flags(command: Sequence[str], arguments: Mapping[str, Any]) -> list[str]:
    """What follows ``kdse fit`` in a point's command, without the flags that the local runner sets.

    A flag and its value must be one word: where they are two, nobody could tell a value from a flag of its own.

    Raises:
        ValueError: if the command runs something else, or does not pass the values on.
    """
    words = fill(command, arguments)
    if words[:1] == ["/usr/bin/env"]:
        words = words[1:]
    if words[:2] != ["kdse", "fit"]:
        raise UserError("command: kdse sweep runs `kdse fit`; begin with kdse and fit, one a line")
    if not any(word.startswith("${args") for word in command):
        raise UserError("command: has no ${args}, so that no run would get its values")
    for flag, value in itertools.pairwise(command):
        if flag.startswith("--") and "=" not in flag and not value.startswith(("--", "${args", "${env}")):
            raise UserError(f"command: {flag} and {value}: write them as one word, {flag}={value}")
    return [word for word in words[2:] if word.partition("=")[0] not in REPLACED]


def fit_arguments(flags: Sequence[str], where: str, go_on: bool, more: Sequence[str] = ()) -> list[str]:
    """Arguments of `kdse` that train a run: all that kdse starts have them from here.

    Args:
        flags: what is trained.
        where: ``--run_dir=FOLDER`` or ``--run_root=FOLDER``.
        go_on: go on with the run that is there, if there is one. A folder that has one is never taken without.
        more: flags that come last.
    """
    return ["fit", *flags, where, *(["--resume=true"] if go_on else []), *more]


def check_extra(flags: Sequence[str], parameters: Sequence[str] = ()) -> None:
    """Raises a ValueError that names an extra flag which would be lost, or would undo a value of these parameters."""
    for flag in flags:
        check_fit_flag(flag, OURS, "kdse sweep sets it for every point")
        name = flag.partition("=")[0]
        if name == "--config":
            raise UserError("--config: would come after the points' values and undo them; name it in FILE's command")
        for parameter in parameters:
            if _undoes(name, parameter):
                raise UserError(
                    f"{name}: would come after {parameter} of every point, a parameter of FILE, and undo it; leave it "
                    "out, or change FILE"
                )


def check_fit_flag(flag: str, ours: Sequence[str], who: str) -> None:
    """Raises a ValueError if a flag for `kdse fit` is not written as --name=VALUE, or is one that we set ourselves."""
    name, equals, _ = flag.partition("=")
    if name in ours:
        raise UserError(f"{name}: {who}; leave it out")
    if not name.startswith("--") or not equals:
        raise UserError(f"{flag}: unknown; a flag for kdse fit is written as --name=VALUE")


def _undoes(flag: str, parameter: str) -> bool:
    """Whether one of two settings is the other or a part of it; ``+`` adds to a list."""
    one, other = (
        f"{name.replace('.init_args', '').removesuffix('+').removesuffix('.class_path')}."
        for name in (flag.removeprefix("--"), parameter)
    )
    return one.startswith(other) or other.startswith(one)
