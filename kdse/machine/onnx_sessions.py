"""Running ONNX graphs by onnxruntime on the CPU: one line for what goes wrong, and bounded memory."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdse.errors import UserError, shortened
from kdse.machine.packages import required

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

#: What all graphs of a process may take together, weights in their files apart: a small graph can ask for terabytes.
#: Our choice: half the memory of a common laptop, and 20 times what a whole signal of a minute takes.
LARGEST_GRAPH_BYTES = 2**32


def open_session(model: str | bytes, threads: int, source: str) -> InferenceSession:
    """A session on so many threads (0: onnxruntime chooses).

    Args:
        model: a file, or its content: then one that keeps weights in a second file cannot be opened.
        source: what names it in messages.

    Raises:
        UserError: if there is no such file, or onnxruntime cannot run it, or needs more than `LARGEST_GRAPH_BYTES` to
            open it.
    """
    if isinstance(model, str) and not Path(model).is_file():
        raise UserError(f"{source}: no such file")
    onnxruntime = required("onnxruntime")
    _share_bounded_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # (what fails is raised as well)
    options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)
        _ = session.get_modelmeta().custom_metadata_map  # (names and texts that are no UTF-8 are found when read)
        _ = [(entry.name, entry.type, entry.shape) for entry in (*session.get_inputs(), *session.get_outputs())]
        return session
    except Exception as error:  # onnxruntime has a class of its own for each way a file can be wrong
        raise UserError(f"{source} cannot be run by onnxruntime ({_reason(error)})") from None


def run_session(session: InferenceSession, outputs: Sequence[str] | None, feeds: Mapping[str, Any], source: str) -> Any:
    """The named outputs of a graph (None: all); a `UserError` if it fails or needs more than `LARGEST_GRAPH_BYTES`."""
    try:
        return session.run(outputs, feeds)
    except Exception as error:  # (see `open_session`)
        raise UserError(f"{source} fails in onnxruntime ({_reason(error)})") from None


class HopLoop:
    """A graph of one hop that keeps its states: it reads them from one set of arrays and writes the other, in turns.

    Nothing is allocated, converted or looked up by name a hop, which takes a seventh off the time of the 62k CRUSE.

    Args:
        session: of a graph as `kdse export --streaming` writes it.
        signals: names of its input and output signal.
        shape: of both, float32.
        states: their names to zeros of their shape and type.
        source: what names it in messages.
    """

    def __init__(
        self,
        session: InferenceSession,
        signals: tuple[str, str],
        shape: tuple[int, ...],
        states: Mapping[str, np.ndarray],
        source: str,
    ) -> None:
        from onnxruntime import OrtValue

        self._session, self._source = session, source
        self._signals = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        sets = [{name: zeros.copy() for name, zeros in states.items()} for _ in range(2)]
        heard, made = (OrtValue.ortvalue_from_numpy(array) for array in self._signals)  # (on a CPU it is the array)
        values = [{name: OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()} for arrays in sets]
        self._turns = []
        for before, after, arrays in ((*values, sets[1]), (*values[::-1], sets[0])):
            binding = session.io_binding()
            binding.bind_ortvalue_input(signals[0], heard)
            binding.bind_ortvalue_output(signals[1], made)
            for name in states:
                binding.bind_ortvalue_input(f"state.{name}", before[name])
                binding.bind_ortvalue_output(f"next.{name}", after[name])
            self._turns.append((binding, arrays))
        #: The states after the last hop, to be read or to be set in place.
        self.states = sets[0]

    def __call__(self, signal: np.ndarray) -> np.ndarray:
        """The next hop in and out; the next call overwrites what it returns."""
        self._signals[0][...] = signal
        binding, after = self._turns[0]
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # (see `open_session`)
            raise UserError(f"{self._source} fails in onnxruntime ({_reason(error)})") from None
        self._turns.reverse()
        self.states = after
        return self._signals[1]


@functools.cache
def _share_bounded_memory() -> None:
    """Makes the memory that all sessions of this process share, of `LARGEST_GRAPH_BYTES` at most."""
    import onnxruntime as ort

    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    with contextlib.suppress(Exception):  # (there is one: of other code in this process, which then says how much)
        ort.create_and_register_allocator(place, ort.OrtArenaCfg(LARGEST_GRAPH_BYTES, -1, -1, -1))


def _reason(error: Exception) -> str:
    text = str(error)
    if "vailable memory of" in text or "allocate memory" in text or "bad_alloc" in text:
        return f"it asks for more than {LARGEST_GRAPH_BYTES >> 30} GiB of memory"
    return shortened(error)
