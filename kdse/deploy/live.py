"""Microphone to loudspeaker: a model between the two halves of a sound device's callback."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdse.errors import UserError, one_line
from kdse.models.base import SpeechModel
from kdse.models.streaming import LARGEST

#: Blocks that may wait for the model (0.5 s at 16 kHz); then it is too slow, and all of them are dropped to catch up.
MOST_WAITING = 32


@dataclass
class Report:
    """Counts of blocks of one hop.

    blocks: recorded.
    late: played as silence, because their result was not ready in time (those dropped among them).
    dropped: never given to the model, because too many were waiting.
    spoiled: with NaN, infinite or absurdly large samples, from the device or from the model, replaced by silence.
    faults: times the sound system itself reported lost or missing samples.
    """

    blocks: int = 0
    late: int = 0
    dropped: int = 0
    spoiled: int = 0
    faults: int = 0

    def text(self) -> str:
        """One line for the user."""
        counts = f"{self.blocks} blocks, {self.late} late, {self.dropped} dropped, {self.spoiled} spoiled"
        return f"{counts}, {self.faults} faults of the sound system"


class Live:
    """Takes blocks from a callback, enhances them in another thread, and hands them back a fixed time later.

    The result is the model's over the whole recording, `delay_samples` late; a block whose result is not ready in
    time is played as silence, and those after it are on time again. Both sides speak mono float32.

    Args:
        model: a model that streams.
        mix: share of the noisy input in the result, see `kdse.deploy.mix.Mix`.
        slack_blocks: blocks of the model's hop between recording and playing, at least 1. Two are our choice: sound
            systems often call twice in a row.
    """

    def __init__(self, model: SpeechModel, mix: float = 0.0, slack_blocks: int = 2) -> None:
        self.model = model.eval()
        self.mix, self.slack = mix, max(1, slack_blocks)
        self.hop = model.hop_samples
        self._model_delay = model.latency_samples - self.hop
        self.delay_samples = self._model_delay + self.slack * self.hop
        self.report = Report()
        self._recorded: queue.Queue[tuple[int, np.ndarray]] = queue.Queue()
        self._ready: deque[tuple[int, np.ndarray]] = deque()
        self._restart()

    def _restart(self) -> None:
        with torch.no_grad():
            self._state = self.model.initial_state(1)
        self._past = torch.zeros(1, self._model_delay, device=self.model.device)

    def callback(self, recorded: np.ndarray, played: np.ndarray, frames: int, time: Any, status: Any) -> None:
        """Of a `sounddevice.Stream`: ``[hop, channels]`` in and out; never waits, never raises."""
        self.report.faults += bool(status)
        number = self.report.blocks
        self.report.blocks += 1
        if self._recorded.qsize() >= MOST_WAITING:
            with contextlib.suppress(queue.Empty):
                while True:
                    self._recorded.get_nowait()
                    self.report.dropped += 1
        self._recorded.put((number, recorded[:, 0].copy()))
        wanted = number - self.slack
        while self._ready and self._ready[0][0] < wanted:
            self._ready.popleft()
        if self._ready and self._ready[0][0] == wanted:
            played[:] = self._ready.popleft()[1][:, None]
        else:
            played[:] = 0
            self.report.late += wanted >= 0

    def work(self, timeout: float | None = 0.1) -> bool:
        """Enhances one block that was recorded; False if none came within so many seconds (None: do not wait)."""
        try:
            number, samples = self._recorded.get(timeout is not None, timeout)
        except queue.Empty:
            return False
        self._ready.append((number, self._enhance(samples)))
        return True

    @torch.no_grad()
    def _enhance(self, samples: np.ndarray) -> np.ndarray:
        hop = torch.from_numpy(samples)[None].to(self._past)
        if not _usable(hop):
            self.report.spoiled += 1
            hop = torch.zeros_like(hop)
        result, self._state = self.model.step(hop, self._state)
        if not _usable(result):
            self.report.spoiled += 1
            self._restart()
            result = torch.zeros_like(hop)
        heard = torch.cat([self._past, hop], dim=1)
        self._past = heard[:, self.hop :]
        mixed = result if self.mix == 0 else (1 - self.mix) * result + self.mix * heard[:, : self.hop]
        return mixed[0].clamp(-1, 1).cpu().numpy()


def _usable(samples: Tensor) -> bool:
    return bool((samples.abs() <= LARGEST).all())  # (a comparison with NaN is false)


def run(
    model: SpeechModel,
    input_device: str | None = None,
    output_device: str | None = None,
    mix: float = 0.0,
    say: Callable[[str], Any] = print,
    stop: threading.Event | None = None,
) -> Report:
    """Enhances what the microphone hears until Ctrl-C.

    Args:
        model, mix: as of `Live`.
        input_device, output_device: number or part of the name; None takes the system's.
        say: is told the latency, and blocks that were late.
        stop: ends it too, when set.

    Raises:
        ValueError: if sounddevice or a device is missing, or one refuses the model's sample rate.
    """
    package = sounddevice()
    live = Live(model, mix)
    devices = (_device(input_device), _device(output_device))
    try:
        speakers = min(2, int(package.query_devices(devices[1], "output")["max_output_channels"]))
        stream = package.Stream(
            samplerate=model.sample_rate_hz,
            blocksize=live.hop,
            device=devices,
            channels=(1, speakers),
            dtype="float32",
            latency="low",
            callback=live.callback,
        )
    except (package.PortAudioError, ValueError) as error:
        raise UserError(
            f"--live: no microphone and loudspeaker at {model.sample_rate_hz} Hz ({one_line(error)}); "
            "--list-devices lists them, --input-device and --output-device choose"
        ) from None
    with stream:
        own, device = live.delay_samples / model.sample_rate_hz, sum(stream.latency)
        say(f"latency {1000 * (own + device):.0f} ms ({1000 * own:.0f} model, {1000 * device:.0f} device); Ctrl-C ends")
        told = 0
        with contextlib.suppress(KeyboardInterrupt):
            while stop is None or not stop.is_set():
                live.work()
                if live.report.late >= told + 50:  # at most about one line a second
                    told = live.report.late
                    say(live.report.text())
    return live.report


def devices() -> str:
    """The sound devices of this machine, a line each."""
    return str(sounddevice().query_devices()) or "no sound devices here"


def sounddevice() -> Any:
    """The package sounddevice; a ValueError names the pip command if it cannot be imported."""
    try:
        import sounddevice as package
    except (ImportError, OSError) as error:  # OSError: the PortAudio library itself is missing
        raise UserError(
            f"--live: needs the package sounddevice ({one_line(error)}): pip install 'kdse[live]'; on Linux also the "
            "system's libportaudio2"
        ) from None
    return package


def _device(name: str | None) -> int | str | None:
    return int(name) if name is not None and name.isdigit() else name
