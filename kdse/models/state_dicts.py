"""Finding a network's weights in a file of somebody else's training, wherever they lie and whatever their prefix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdse.errors import UserError, shortened, some

State = Mapping[str, Tensor]

#: Levels of dictionaries that are looked through: ``{"checkpoint": {"model": {"state_dict": ...}}}`` has three.
DEEPEST = 3


def load_found(module: nn.Module, content: Any, source: str, key: str | None = None) -> None:
    """Loads the state_dict that fits a module out of what a file holds.

    It may be the file itself or any dictionary down to three levels in it (``state_dict``, ``model``, ``generator``).
    What fits has the module's names and shapes, after a prefix that all of them share (``module.``, ``model.``; entries
    with other prefixes are left alone) or without one that the module's have.

    Args:
        content: what ``torch.load`` returned.
        source: names the file, for messages.
        key: where to look, dotted as the messages show it ("ema.model"); None looks everywhere.

    Raises:
        ValueError: if nothing fits, or several things do that differ.
    """
    held = dict(_states(content, ())) if isinstance(content, Mapping) else {}
    own = module.state_dict()
    fitting = {
        ".".join(filter(None, (place, prefix.rstrip(".")))): (place, state)
        for place, found in held.items()
        for prefix, state in _fitted(found, own)
    }
    if key is not None:
        held = {place: found for place, found in held.items() if place == key}
        fitting = {label: found for label, found in fitting.items() if key in (label, found[0])}
    states = [state for _, state in fitting.values()]
    if any(not _same(states[0], other) for other in states[1:]):
        choices = " and ".join(repr(label) for label in fitting)
        raise UserError(f"{source}: {choices} fit {type(module).__name__} and differ; choose one with weights_key")
    if not states and len(held) != 1:
        where = "" if key is None else f" at weights_key={key!r}"
        places = some([repr(place) for place in held]) or "none"
        raise UserError(
            f"{source}: holds no weights{where} that fit {type(module).__name__}; its dictionaries of tensors: {places}"
        )
    try:  # (the only one there may fit all the same: modules can rename what they load. If not, it says what is wrong)
        module.load_state_dict(states[0] if states else next(iter(held.values())))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{source} do not fit {type(module).__name__}: {shortened(error)}") from None


def _states(content: Mapping[Any, Any], place: tuple[str, ...]) -> Iterator[tuple[str, State]]:
    """Dictionaries of tensors within a file, and their dotted places."""
    if content and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        yield ".".join(place), content
    elif len(place) < DEEPEST:
        for name, value in content.items():
            if isinstance(name, str) and isinstance(value, Mapping):
                yield from _states(value, (*place, name))


def _fitted(found: State, own: State) -> Iterator[tuple[str, State]]:
    """What of a state_dict has exactly the names and shapes of a module's own, and the prefix that it has there."""
    shapes = {name: value.shape for name, value in own.items()}
    first = next(iter(own), "")
    outer = first.split(".")[0] + "."
    prefixes = [name.removesuffix(first) for name in found if name == first or name.endswith("." + first)]
    for prefix in prefixes:
        state = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
        if {name: value.shape for name, value in state.items()} == shapes:
            yield prefix, state
    state = {outer + name: value for name, value in found.items()}
    if not prefixes and {name: value.shape for name, value in state.items()} == shapes:
        yield "", state


def _same(one: State, other: State) -> bool:
    return all(value.dtype == other[k].dtype and torch.equal(value, other[k]) for k, value in one.items())
