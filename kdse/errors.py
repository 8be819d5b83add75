"""`UserError`: a mistake of the user, which a command shows as one line."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Sequence

#: What would act on a terminal or a log instead of being shown: control characters (C0, DEL, C1), marks that turn the
#: direction of text, separators of lines, and the surrogates of a name that is not UTF-8.
_ACTING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(ValueError):
    """A mistake of the user: its message names the flag or file and the fix, in one line.

    Commands print the message and end with exit code 2. Any other error keeps its traceback, a ValueError of somebody
    else's model or objective too.
    """

    def __init__(self, message: str = "") -> None:
        if "Traceback (most recent call last):\n" in message:  # (of another process, which PyTorch puts before it)
            message = message.rsplit(f"{type(self).__name__}: ", 1)[-1]
        super().__init__(message.rstrip())


class PackageError(UserError):
    """A package that cannot be used, which is the mistake however many others say what it led to."""


class ParserError(UserError):
    """What a parser of flags and configs says of a value. A `UserError` that it wraps says it better."""


class Diverged(Exception):
    """Training whose loss, gradients or weights are not finite any more: a line, and an exit code of its own."""


def mistake_in(error: BaseException) -> UserError | None:
    """The first `UserError` of kdse in what an error was raised from, a `PackageError` before others; None if none."""
    ours = [seen for seen in _chain(error) if isinstance(seen, UserError) and not isinstance(seen, ParserError)]
    return next((seen for seen in ours if isinstance(seen, PackageError)), ours[0] if ours else None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on; each once, as code of somebody else may have made a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def one_line(error: BaseException) -> str:
    """The message of an error in one line; of the `UserError` that a library wrapped in its own, if there is one."""
    return printable(" ".join(str(mistake_in(error) or error).split())) or type(error).__name__


def printable(text: object) -> str:
    """A text that holds names of files, for a terminal or a log: one line, in which nothing acts but all is shown.

    Ends of lines, terminal escapes and the like appear as Python writes them: ``\\n``, ``\\x1b``, ``\\u202e``.
    """
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(text))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, shortened, or its class: what fits into a message of ours."""
    return (next(iter(str(error).strip().splitlines()), "") or type(error).__name__)[:160]


def shortened(error: BaseException, most: int = 160) -> str:
    """The beginning of an error's message, whose first line says too little, in one line; or its class."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word, with the known one that is most like it; empty if none is."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def some(names: Sequence[str], shown: int = 3) -> str:
    """The first names of a list and how many more there are, for messages."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def require_one_of(name: str, value: object, *known: object) -> None:
    """Raises a `UserError` that names the argument unless its value is one of those known."""
    if value not in known:
        choices = ", ".join("null" if choice is None else f'"{choice}"' for choice in known)
        raise UserError(f"{name}={value!r}: use one of {choices}")


def require_at_least(least: float, **values: float) -> None:
    """Raises a `UserError` that names the first argument below ``least``, or not finite."""
    for name, value in values.items():
        if not least <= value < math.inf:
            raise UserError(f"{name}={value}: must be {least} or more{_and_finite(value)}")


def require_positive(**values: float) -> None:
    """Raises a `UserError` that names the first argument that is not above zero, or not finite."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise UserError(f"{name}={value}: must be above zero{_and_finite(value)}")


def _and_finite(value: float) -> str:
    return "" if math.isfinite(value) else " and finite"
