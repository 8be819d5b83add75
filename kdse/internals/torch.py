"""What kdse uses of PyTorch beyond its public API. All of it was last checked with 2.14.1."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdse.internals.library import Library

TORCH = Library("torch", "2.11 to 2.14", "torch>=2.11,<2.15")


# --- tensors and modules ---

#: Hooks of a module that run where it is called; old-style weight norm and pruning make its weights in one.
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def version(tensor: Tensor) -> int:
    """How often a tensor was changed in place (``_version``); 0 for tensors of inference mode, which do not count."""
    return 0 if tensor.is_inference() else int(TORCH.get(tensor, "_version", "Tensor._version"))


@contextlib.contextmanager
def without_forward_hooks(model: nn.Module) -> Iterator[None]:
    """Runs the body with no forward hook on any module of the model; afterwards they are back, in their order."""
    silenced = [(hooks, dict(hooks)) for hooks in (TORCH.get(part, "_forward_hooks") for part in model.modules())]
    try:
        for hooks, _ in silenced:
            hooks.clear()
        yield
    finally:
        for hooks, kept in silenced:
            hooks.update(kept)


def has_forward_hooks(module: nn.Module) -> bool:
    """Whether a hook sees or changes this module's input, output or gradients."""
    return any(TORCH.get(module, name) for name in HOOKS)


class FollowedModule(nn.Module):
    """A module that another one follows from device to device and type to type without being a part of it.

    `Module._apply` is what ``to``, ``cpu``, ``cuda``, ``float`` and their kind all end in.
    """

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        TORCH.get(nn.Module, "_apply")  # (if it had another name, nobody would follow)

    @property
    def follower(self) -> nn.Module:
        """Who follows."""
        raise NotImplementedError

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        TORCH.get(self.follower, "_apply")(fn)
        return super()._apply(fn, recurse)


# --- torch.compile ---

#: Graphs that one function may be compiled to: those of each tap set, mode and network of a process. Past PyTorch's own
#: limit of 8 it would go on eager.
GRAPHS = 64


def prepare_compiler(keep_graphs: bool) -> None:
    """Settings of torch.compile that are no arguments of it, for this process.

    Args:
        keep_graphs: backward passes may keep their graphs (``retain_graph``), which costs memory.
    """
    TORCH.put(TORCH.load("torch", "_dynamo").config, "recompile_limit", GRAPHS)
    if keep_graphs:
        TORCH.put(TORCH.load("torch._functorch", "config"), "donated_buffer", False)


def compiler_errors() -> tuple[type[Exception], ...]:
    """What a compiled function raises if it cannot be compiled."""
    return (TORCH.load("torch._dynamo.exc", "TorchDynamoException"),)


def cxx_compiler() -> str | None:
    """The C++ compiler that torch.compile would call; None if there is none."""
    invalid = TORCH.load("torch._inductor.exc", "InvalidCxxCompiler")
    with contextlib.suppress(invalid):
        return str(TORCH.load("torch._inductor.cpp_builder", "get_cpp_compiler")())
    return None


# --- operators ---


@contextlib.contextmanager
def watched(note: Callable[[Any], None]) -> Iterator[None]:
    """Hands every operator that runs within the body to ``note``, below autograd: ``aten.mm.default`` and the like.

    A `TorchDispatchMode`: public modes see Python functions only, or count what they know (`FlopCounterMode`).
    """
    mode: Any = TORCH.load("torch.utils._python_dispatch", "TorchDispatchMode")

    class Watch(mode):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            note(func)
            return func(*args, **(kwargs or {}))

    with Watch():
        yield


@contextlib.contextmanager
def traced_as(rules: Mapping[Any, Callable[..., Any]]) -> Iterator[None]:
    """Within the body, `torch.export` asks these functions for what operators return, instead of taking them apart.

    `torch.library.register_fake` refuses operators that PyTorch makes of others, as ``aten.gru.input``. So each rule
    goes where `torch.export._patches` puts its own: into the table of decompositions and among the operator's Python
    kernels, also for the key Autograd, to which trained weights are dispatched first. Rules are called with the
    operator's arguments.
    """
    table = TORCH.load("torch._decomp", "global_decomposition_table")["post_autograd"]
    key = TORCH.load("torch._C", "DispatchKey")
    keys = [TORCH.get(key, name) for name in ("CompositeImplicitAutograd", "Autograd")]
    parts = [(op, TORCH.get(op, "py_kernels"), TORCH.get(op, "_dispatch_cache")) for op in rules]
    before = [(op in table, table.get(op), dict(kernels)) for op, kernels, _ in parts]
    try:
        for op, kernels, cache in parts:
            table[op] = rules[op]
            kernels.update(dict.fromkeys(keys, rules[op]))
            cache.clear()
        yield
    finally:
        for (op, kernels, cache), (listed, decomposition, own) in zip(parts, before, strict=True):
            table[op] = decomposition
            if not listed:
                del table[op]
            kernels.clear()
            kernels.update(own)
            cache.clear()


# --- files ---


def without_records(archive: bytes, unwanted: Callable[[str], bool]) -> bytes:
    """The bytes of a file of `torch.jit.save` less the records whose name ``unwanted`` picks.

    Those that the writer makes itself must be among them: "version", "byteorder" and ".data/serialization_id".
    (``zipfile`` reads these files; it does not align what it writes.)
    """
    reader = TORCH.load("torch._C", "PyTorchFileReader")(io.BytesIO(archive))
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "kdse.pt"
        writer = TORCH.load("torch._C", "PyTorchFileWriter")(str(kept))
        for name in reader.get_all_records():
            if not unwanted(name):
                record = reader.get_record(name)
                writer.write_record(name, record, len(record))
        writer.write_end_of_file()
        return kept.read_bytes()
