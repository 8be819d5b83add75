"""DNSMOS P.835: ratings of speech, background and overall quality that a network predicts from the estimate alone.

Reddy et al. 2022, "DNSMOS P.835: a non-intrusive perceptual objective speech quality metric to evaluate noise
suppressors". The network is the user's file ``sig_bak_ovr.onnx`` (in github.com/microsoft/DNS-Challenge under
DNSMOS/DNSMOS, or in the package speechmos); nothing is downloaded.

The procedure is that of Microsoft's ``dnsmos_local.py``, its rounding included, so that values are that script's: a
signal at 16 kHz shorter than 9.01 s is doubled until it is not; segments of 9.01 s start every second,
``int(floor(N / 16000) - 9.01) + 1`` of them; segments 7 to 23 and 119 to 135 (of long files) come out one sample
short and are skipped; each output goes through a polynomial (that of the model that is not personalised), and the
values of all segments are averaged. The estimate's level matters, and nothing is normalised or clipped.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdse.errors import UserError, shortened
from kdse.machine.packages import required
from kdse.metrics.clean_and_estimate import Pair

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FLAG = "--dnsmos"
RATE_HZ = 16000
SECONDS = 9.01
SAMPLES = int(SECONDS * RATE_HZ)
#: What is shorter says nothing, however often it is repeated. Neither network has a limit; this is PESQ's (our choice).
SHORTEST_SECONDS = 0.25
OUTPUTS = ("SIG", "BAK", "OVRL")
#: Quadratic, linear and constant coefficient of each output (dnsmos_local.py).
POLYNOMIALS = np.array(
    [
        [-0.08397278, 1.22083953, 0.0052439],
        [-0.13166888, 1.60915514, -0.39604546],
        [-0.06766283, 1.11546468, 0.04602535],
    ]
)
#: The personalised model has the same inputs and outputs but another mapping, so only its content tells it apart.
PERSONALISED_SHA256 = "9e3a197449ca2177f0997afec3bd6b890117ce2f17b89d6eea7fa0d47272c81c"


def ratings(pair: Pair) -> dict[str, float]:
    """Predicted P.835 ratings, about 1 to 5: SIG of the speech, BAK of the background (5: none heard), OVRL overall.

    Raises:
        UserError: for less than 0.25 s.
    """
    return pair.once("dnsmos", lambda: _rate(heard(pair), session(pair.files)))


def heard(pair: Pair) -> np.ndarray:
    """The estimate at 16 kHz, for a network that listens to it alone; UserError if it is shorter than 0.25 s."""
    if pair.estimate.size < SHORTEST_SECONDS * pair.sample_rate_hz:
        raise UserError(f"shorter than {SHORTEST_SECONDS:g} s")
    return pair.at(RATE_HZ).estimate


def segments(estimate: np.ndarray) -> list[np.ndarray]:
    """The pieces ``[144160]`` of a signal ``[N]`` at 16 kHz that are rated."""
    while estimate.size < SAMPLES:
        estimate = np.concatenate([estimate, estimate])
    count = int(floor(estimate.size / RATE_HZ) - SECONDS) + 1
    # the published script's own expressions: a rounding of (i + 9.01) x 16000 decides which segments count
    pieces = [estimate[i * RATE_HZ : int((i + SECONDS) * RATE_HZ)] for i in range(count)]
    return [piece for piece in pieces if piece.size == SAMPLES]


def _rate(estimate: np.ndarray, model: InferenceSession) -> dict[str, float]:
    name = model.get_inputs()[0].name
    outputs = [model.run(None, {name: s[None].astype(np.float32)})[0][0] for s in segments(estimate)]
    raw = np.array(outputs, dtype=np.float64)
    if raw.shape[1] != 3:
        raise UserError(f"{FLAG}: the model gives {raw.shape[1]} values for a segment, not 3")
    mapped = POLYNOMIALS[:, 0] * raw**2 + POLYNOMIALS[:, 1] * raw + POLYNOMIALS[:, 2]
    return dict(zip(OUTPUTS, np.mean(mapped, axis=0).tolist(), strict=True))


def session(files: Mapping[str, str]) -> InferenceSession:
    """The opened model; ValueError if it is missing or another model."""
    if not files.get("dnsmos"):
        raise UserError(
            f"the DNSMOS metrics need Microsoft's model sig_bak_ovr.onnx (DNS-Challenge, folder DNSMOS/DNSMOS): "
            f"give it by {FLAG} FILE or leave these metrics out"
        )
    return loaded(files["dnsmos"], _open, FLAG)


def _open(path: str) -> InferenceSession:
    onnxruntime = required("onnxruntime")
    right = "give sig_bak_ovr.onnx of DNS-Challenge's folder DNSMOS/DNSMOS"
    if hashlib.sha256(Path(path).read_bytes()).hexdigest() == PERSONALISED_SHA256:
        raise UserError(f"{FLAG} {path}: is the personalised model (pDNSMOS), which has another scale; {right}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for each way a file can be wrong
        raise UserError(f"{FLAG} {path}: onnxruntime cannot read it ({shortened(error)}); {right}") from None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    wrong = len(inputs) != 1 or inputs[0].type != "tensor(float)" or not _fits(inputs[0].shape, SAMPLES)
    if wrong or not _fits(outputs[0].shape, 3):
        shapes = ", ".join(f"{entry.name} {entry.shape}" for entry in [*inputs, *outputs])
        raise UserError(f"{FLAG} {path}: is not the DNSMOS P.835 model [1, {SAMPLES}] -> [1, 3] ({shapes}); {right}")
    return session


def _fits(shape: list[Any], size: int) -> bool:
    """Whether ``[1, size]`` fits a declared shape, in which names and None stand for any size."""
    return len(shape) == 2 and all(not isinstance(d, int) or d == s for d, s in zip(shape, (1, size), strict=True))


def loaded(path: str, load: Callable[[str], Any], flag: str) -> Any:
    """The model in a file, as ``load(path)`` reads it: once a process, and again if the file changes.

    Raises:
        ValueError: naming the flag, if there is no such file or ``load`` raises one.
    """
    if not Path(path).is_file():
        raise UserError(f"{flag} {path}: {'is not a file' if Path(path).exists() else 'no such file'}")
    stamp = Path(path).stat()
    return _load(load, path, stamp.st_mtime_ns, stamp.st_size)


@functools.lru_cache(maxsize=4)
def _load(load: Callable[[str], Any], path: str, *stamp: int) -> Any:
    return load(path)
