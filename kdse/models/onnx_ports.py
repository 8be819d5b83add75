"""Inputs and outputs of an ONNX graph: which are audio and on which axes, and which hold the next value of a state."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kdse.errors import UserError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

#: Words in the names of states that only tell the one before a frame from the one after it.
BEFORE_OR_AFTER = {"in", "input", "out", "output", "state", "next", "new", "prev", "past", "present", "last"}


class Ports(NamedTuple):
    """Inputs and outputs of a graph by name, in its order: their type as onnxruntime calls it, and their shape."""

    inputs: Mapping[str, tuple[str, list[Any]]]
    outputs: Mapping[str, tuple[str, list[Any]]]

    def listed(self) -> str:
        """All of them, for messages."""
        texts = [
            ", ".join(f"{name} {kind.removeprefix('tensor(').removesuffix(')')} {shape}" for name, (kind, shape) in of)
            for of in (self.inputs.items(), self.outputs.items())
        ]
        return f"inputs {texts[0]}; outputs {texts[1]}"


def ports_of(session: InferenceSession) -> Ports:
    """Inputs and outputs of a session."""
    return Ports(*({e.name: (e.type, e.shape) for e in of} for of in (session.get_inputs(), session.get_outputs())))


def paired(ports: Ports, inputs: Sequence[str], audio: str, named: Mapping[str, str], source: str) -> dict[str, str]:
    """The output that holds the next value of each state, by the name of its input.

    Raises:
        UserError: if names and shapes leave none, or more than one.
    """
    left = [name for name in ports.outputs if name != audio]
    found = {name: named[name] for name in inputs if name in named}
    if unknown := [output for output in found.values() if output not in left]:
        raise UserError(f"{source}: states: {unknown[0]} is no output that could be a state ({ports.listed()})")

    def open_outputs(name: str) -> list[str]:
        kind, shape = ports.inputs[name]
        return [
            other
            for other in left
            if other not in found.values() and ports.outputs[other][0] == kind and _same(shape, ports.outputs[other][1])
        ]

    for name in [name for name in inputs if name not in found]:
        words = {other: _words(other) ^ _words(name) for other in open_outputs(name)}
        alike = sorted((len(apart), other) for other, apart in words.items() if apart <= BEFORE_OR_AFTER)
        if alike and alike[0][0] not in [count for count, _ in alike[1:]]:
            found[name] = alike[0][1]
    waiting = {name: open_outputs(name) for name in inputs if name not in found}
    for name, others in waiting.items():
        if len(others) == 1 and sum(others[0] in rivals for rivals in waiting.values()) == 1:
            found[name] = others[0]
    if missing := [name for name in inputs if name not in found]:
        raise UserError(
            f"{source}: which output holds the next value of {', '.join(missing)} is not clear ({ports.listed()}); "
            "give states={INPUT: OUTPUT}, or constants={INPUT: VALUE} for what is no state"
        )
    return {name: found[name] for name in inputs}


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.lower()))


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(one) == len(other) and all(
        a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in zip(one, other, strict=True)
    )


def dtype_of(kind: str, name: str, source: str) -> np.dtype[Any]:
    plain = kind.removeprefix("tensor(").removesuffix(")")
    try:
        return np.dtype({"float": "float32", "double": "float64"}.get(plain, plain))
    except TypeError:
        raise UserError(f"{source}: its input {name} is a {kind}, which kdse cannot feed") from None


def audio_port(
    ports: Mapping[str, tuple[str, list[Any]]], width: int, parts: bool, what: str, source: str, all_ports: Ports
) -> tuple[str, list[str]]:
    """The first input (output) that can be audio of so many values a frame, and its axes."""
    for name, (_, shape) in ports.items():
        if axes := axes_of(shape, width, parts, whole=len(all_ports.inputs) == 1):
            return name, axes
    wanted = f"an axis of {width}" + (" and one of 2" if parts else "")
    raise UserError(f"{source}: nothing fits {what}, which wants {wanted}: {all_ports.listed()}")


def axes_of(shape: Sequence[Any], width: int, parts: bool, whole: bool = False) -> list[str]:
    """Axes of audio by letter: b, t, f, c of real and imaginary part, 1 of any other; empty if it is none.

    The batch comes first, unless a free axis that is not has a name in "b". The one free axis of a graph that has no
    other input, so that it may hear a ``whole`` signal at once, is time, whatever its place: frames that were a batch
    to it would not know of each other.
    """
    letters = [""] * len(shape)
    free = [i for i, size in enumerate(shape) if not isinstance(size, int)]
    found = [i for i, size in enumerate(shape) if size == width] or free
    if not found:
        return []
    letters[found[-1]] = "f"
    if parts:
        pairs = [i for i, size in enumerate(shape) if size == 2 and not letters[i]]
        if not pairs:
            return []
        letters[pairs[-1]] = "c"
    rest = [i for i, letter in enumerate(letters) if not letter]
    if any(shape[i] != 1 and i not in free for i in rest):
        return []
    named = [i for i in rest if i in free and str(shape[i]).lower().startswith("b")]
    frames = [i for i in rest if i in free and i not in named]
    first = [i for i in (named or rest) if not (whole and frames == [i])]
    if first:
        letters[first[0]] = "b"
    rest = [i for i in rest if not letters[i]]
    frames = [i for i in rest if i in free] or rest
    for i in rest:
        letters[i] = "t" if i == frames[-1] else "1"
    return letters


def canonical(axes: Sequence[str]) -> str:
    """The order ``b t f (c)``, with 1 for axes that are not there."""
    order = "btfc" if "c" in axes else "btf"
    return " ".join(letter if letter in axes else "1" for letter in order)
