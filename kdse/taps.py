"""Taps: record activations by dotted module path and bring them to one layout, ``[B, C, T, F]``.

- A tap's layout names the axes of the module's output with the letters b, c, t and f, in einops notation. An axis
  that the layout leaves out has size 1: time-domain features ``"b c t"`` become ``[B, C, T, 1]``.
- Tuples and lists (RNN outputs, `Estimate`): the first element counts, also when nested.
- Complex tensors: real and imaginary part are stacked on the channel axis, C becomes 2C.
- One forward pass per ``with`` block; a module that is called twice in it is an error, because no single activation
  would be the right one.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from einops import EinopsError, rearrange
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kdse.errors import UserError
from kdse.internals.torch import version
from kdse.models.base import Estimate, SpeechModel, Tap
from kdse.models.probing import probe_signal, undisturbed

AXES = ("b", "c", "t", "f")


class TapRecorder:
    """Records the outputs of tapped modules during one forward pass.

    >>> recorder = TapRecorder(model, model.taps())
    >>> with recorder:
    ...     estimate = model(noisy)
    >>> activations = recorder.activations()  # name -> [B, C, T, F]; `recorder.clear()` lets go of them

    Hooks exist only inside the ``with`` block, so the model can be copied, pickled and run freely outside it.
    Activations keep their gradient. A path that does not exist in the model is a ValueError.
    """

    def __init__(self, model: nn.Module, taps: Mapping[str, Tap]) -> None:
        self.taps = dict(taps)
        self._modules = {name: find_module(model, tap.path, name) for name, tap in self.taps.items()}
        self._handles: list[RemovableHandle] = []
        self._raw: dict[str, tuple[Tensor, int]] = {}

    def __enter__(self) -> TapRecorder:
        if self._handles:
            raise RuntimeError("this TapRecorder is already recording")
        self.clear()
        for name, module in self._modules.items():
            if isinstance(module, torch.jit.ScriptModule):
                raise UserError(
                    f"tap {self.taps[name].path!r}: lies inside a TorchScript program, whose activations cannot be "
                    "recorded; use objectives on the output"
                )
            self._handles.append(module.register_forward_hook(partial(self._record, name)))
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if kind is not None:
            self.clear()

    def _record(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if name in self._raw:
            raise UserError(
                f"tap {name!r}: the module {self.taps[name].path!r} is called more than once in a forward pass; "
                "tap a module that is called once (`kdse taps --all` lists them)"
            )
        tensor = first_tensor(output, name)
        self._raw[name] = tensor, version(tensor)

    def activations(self) -> dict[str, Tensor]:
        """What was recorded, name to ``[B, C, T, F]``, in the order of the taps.

        Raises:
            ValueError: if a module was not called, does not fit its layout, or was overwritten in place later.
        """
        result = {}
        for name, tap in self.taps.items():
            if name not in self._raw:
                raise UserError(
                    f"tap {name!r}: the module {tap.path!r} exists but was not called in the forward pass; "
                    "`kdse taps --all` lists those that are"
                )
            tensor, recorded = self._raw[name]
            if version(tensor) != recorded:
                raise UserError(
                    f"tap {name!r}: a later layer changed the output of {tap.path!r} in place; tap that layer instead"
                )
            result[name] = to_bctf(tensor, tap, name)
        return result

    def clear(self) -> None:
        """Lets go of every recorded tensor."""
        self._raw.clear()


def first_tensor(output: Any, name: str) -> Tensor:
    """The tensor that stands for a module's output: itself, or the first element of a tuple or list."""
    while isinstance(output, (tuple, list)) and len(output):
        output = output[0]
    if not isinstance(output, Tensor):
        raise UserError(f"tap {name!r}: the module returns a {type(output).__name__}; tap one that returns a tensor")
    return output


def to_bctf(x: Tensor, tap: Tap, name: str) -> Tensor:
    """Brings a module output to ``[B, C, T, F]`` by the tap's layout; complex becomes real with 2C channels."""
    present = layout_axes(tap, name)
    target = " ".join(axis if axis in present else "1" for axis in AXES)
    try:
        y = rearrange(x, f"{tap.layout} -> {target}", **tap.sizes)
    except (EinopsError, RuntimeError) as error:
        sizes = f" with {tap.sizes}" if tap.sizes else ""
        raise UserError(
            f"tap {name!r}: the output of {tap.path!r} has shape {list(x.shape)}, which does not fit the layout "
            f"{tap.layout!r}{sizes}; name its axes with b, c, t, f (e.g. 'b t (c f)' and sizes {{c: 32}})"
        ) from error
    return torch.cat([y.real, y.imag], dim=1) if y.is_complex() else y


def layout_axes(tap: Tap, name: str) -> set[str]:
    """The axes that a layout names: the batch, and any of c, t, f once each."""
    letters = [axis for axis in re.findall(r"[^\s()]+", tap.layout) if axis != "1"]
    unknown = [axis for axis in letters if axis not in AXES]
    if unknown or len(set(letters)) != len(letters) or "b" not in letters:
        raise UserError(
            f"tap {name!r}: layout {tap.layout!r} must name the batch b and any of c, t, f, each once, "
            "in einops notation such as 'b c t f' or 'b t (c f)'"
        )
    foreign = [axis for axis in tap.sizes if axis not in letters]
    if foreign:
        raise UserError(f"tap {name!r}: sizes name {foreign}, which the layout {tap.layout!r} does not have")
    return set(letters)


def find_module(model: nn.Module, path: str, name: str) -> nn.Module:
    """The submodule at a dotted path; a ValueError lists the closest ones if there is none."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if path and path in modules:
        return modules[path]
    known = [p for p in modules if p]
    close = difflib.get_close_matches(path, known, n=5, cutoff=0.4) or known[:5]
    raise UserError(
        f"tap {name!r}: {type(model).__name__} has no module {path!r}; the closest are {', '.join(close) or '(none)'}; "
        "`kdse taps MODEL --all` prints them all"
    )


def resolve_taps(model: nn.Module, spec: Mapping[str, Any] | list[str] | None = None) -> dict[str, Tap]:
    """The taps of a model: its own, or those that a config names.

    Args:
        model: the model; a `SpeechModel` may declare its own taps.
        spec: None for the model's own taps; a list of module paths or own tap names; or a dictionary from name to
            a path, a `Tap` or ``{path, layout, sizes, group}``. What an entry leaves out is taken from the model's
            own tap at that path, else from the defaults of `Tap`.

    Raises:
        ValueError: if a path does not exist, a layout is malformed, or an entry has an unknown key.
    """
    own = model.taps() if isinstance(model, SpeechModel) else {}
    if spec is None:
        taps = dict(own)
    elif isinstance(spec, Mapping):
        taps = {str(name): _parse_tap(str(name), entry, own) for name, entry in spec.items()}
    elif isinstance(spec, (list, tuple)):
        taps = {str(path): own[path] if path in own else _parse_tap(str(path), path, own) for path in spec}
    else:
        raise UserError(f"taps: {spec!r} is neither a list of module paths nor a dictionary of names to taps")
    for name, tap in taps.items():
        layout_axes(tap, name)
        find_module(model, tap.path, name)
    return taps


def _parse_tap(name: str, entry: Any, own: Mapping[str, Tap]) -> Tap:
    if isinstance(entry, Tap):
        return entry
    given = {"path": entry} if isinstance(entry, str) else entry
    if not isinstance(given, Mapping) or not isinstance(given.get("path"), str):
        raise UserError(f"tap {name!r}: give a module path or {{path, layout, sizes, group}}, not {entry!r}")
    unknown = set(given) - {"path", "layout", "sizes", "group"}
    if unknown:
        raise UserError(f"tap {name!r}: unknown key {sorted(unknown)}; known are path, layout, sizes, group")
    base = next((tap for tap in own.values() if tap.path == given["path"]), Tap(given["path"]))
    layout = str(given.get("layout") or base.layout)
    sizes: Any = given.get("sizes")
    if sizes is None:
        sizes = base.sizes if layout == base.layout else {}
    try:
        sizes = {str(axis): int(size) for axis, size in dict(sizes).items()}
    except (TypeError, ValueError):
        raise UserError(f"tap {name!r}: sizes={sizes!r} must map axes to whole numbers, e.g. {{c: 32}}") from None
    return Tap(base.path, layout, sizes, str(given.get("group") or base.group))


def probe(model: nn.Module, taps: Mapping[str, Tap], samples: int = 16000) -> dict[str, torch.Size]:
    """Shapes ``[B, C, T, F]`` of the taps for one clip of ``samples`` samples of noise (B = 1).

    The model is as before afterwards: training flags, buffers and the global random streams included.
    """
    recorder = TapRecorder(model, taps)
    with undisturbed(model), recorder:
        model(probe_signal(model, samples))
    shapes = {name: activation.shape for name, activation in recorder.activations().items()}
    recorder.clear()
    return shapes


def module_shapes(model: nn.Module, samples: int = 16000) -> dict[str, str]:
    """Output of every module below the root as text, path to e.g. ``"[1, 8, 64, 40]"``.

    "not called" if it is not; a module that is called more than once says how often; "TorchScript" if it cannot tell.
    """
    scripted = {p: isinstance(m, torch.jit.ScriptModule) for p, m in model.named_modules() if p}
    shapes = {p: "TorchScript" if is_script else "not called" for p, is_script in scripted.items()}
    calls: Counter[str] = Counter()

    def note(path: str, module: nn.Module, inputs: Any, output: Any) -> None:
        calls[path] += 1
        shapes[path] = _shape_text(output) + (f" (last of {calls[path]} calls)" if calls[path] > 1 else "")

    handles = [m.register_forward_hook(partial(note, p)) for p, m in model.named_modules() if p and not scripted[p]]
    try:
        with undisturbed(model):
            model(probe_signal(model, samples))
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _shape_text(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"{list(output.shape)}{' complex' if output.is_complex() else ''}"
    if isinstance(output, (tuple, list)):
        return f"({', '.join(_shape_text(part) for part in output)})"
    return type(output).__name__


def record(
    model: SpeechModel,
    taps: Mapping[str, Tap],
    noisy: Tensor,
    compiled: Callable[[Tensor], tuple[Estimate, Mapping[str, Any]]] | None = None,
) -> tuple[Estimate, Mapping[str, Tensor]]:
    """Runs a model on ``[B, N]`` and records its taps ``[B, C, T, F]``.

    Args:
        compiled: runs the model in its stead and returns the raw outputs of these taps and others, by name.
    """
    if compiled is not None:
        estimate, outputs = compiled(noisy)
        return estimate, {name: to_bctf(first_tensor(outputs[name], name), tap, name) for name, tap in taps.items()}
    recorder = TapRecorder(model, taps)
    with recorder if taps else contextlib.nullcontext():
        estimate = model(noisy)
    return estimate, recorder.activations()
