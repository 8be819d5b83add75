"""`kdse enhance -` and `kdse enhance --live`: audio that has no end yet, with what the user is told on stderr."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from typing import TYPE_CHECKING

from kdse.commands.model import open_in_backend
from kdse.errors import UserError
from kdse.machine.processes import INTERRUPTED
from kdse.machine.progress import say

if TYPE_CHECKING:
    from kdse.models.base import SpeechModel

#: What a shell reports for a program that wrote to a pipe without a reader (128 + SIGPIPE).
READER_GONE = 141


def run_pipe(arguments: argparse.Namespace) -> int:
    """Enhances standard input to standard output; returns the exit code."""
    from kdse.deploy.pcm import HasHeader, Pcm, enhance_container, enhance_pcm, latency_seconds

    channels = 1 if arguments.channels is None else arguments.channels
    pcm = Pcm(arguments.format or "s16le", 16000 if arguments.rate is None else arguments.rate, channels)
    source, sink = _descriptor(sys.stdin, "input"), _descriptor(sys.stdout, "output")
    model, name = _open_streaming(arguments, "INPUT -")
    if arguments.rate is None:
        pcm = dataclasses.replace(pcm, rate_hz=model.sample_rate_hz)
    own, resampling = latency_seconds(model, pcm.rate_hz)
    _say(
        f"{name}: {pcm.sample_format}, {pcm.rate_hz} Hz, {pcm.channels} channel{'s'[: pcm.channels > 1]}; latency "
        f"{1000 * (own + resampling):.1f} ms ({1000 * own:.1f} model, {1000 * resampling:.1f} resampling)"
    )
    try:
        try:
            done = enhance_pcm(model, source, sink, pcm, arguments.mix)
        except HasHeader as found:
            for flag in ("format", "rate", "channels"):
                if getattr(arguments, flag) is not None:
                    raise UserError(
                        f"--{flag}: the input is a {found.kind} file, which states it; leave it out"
                    ) from None
            _say(f"the input is a {found.kind} file: it is read to its end first, and the result has its format")
            done = enhance_container(model, found, source, sink, arguments.mix)
    except OSError as error:
        _say(f"standard output could not be written ({error.strerror or error})")
        return 1
    if done.stray_bytes:
        _say(f"warning: the last {done.stray_bytes} bytes are no whole sample of {pcm.frame_bytes} bytes: left out")
    clipped = f", {done.clipped} samples clipped at full scale" if done.clipped else ""
    why = {"interrupted": ", interrupted", "output": ", the reader of standard output went away"}.get(done.end, "")
    _say(f"{done.seconds:.2f} s enhanced{clipped}{why}")
    return {"interrupted": INTERRUPTED, "output": READER_GONE}.get(done.end, 0)


def run_live(arguments: argparse.Namespace) -> int:
    """Enhances microphone to loudspeaker until Ctrl-C; returns the exit code."""
    from kdse.deploy import live

    if arguments.list_devices:
        print(live.devices())
        return 0
    live.sounddevice()  # its absence is told before the model is loaded
    model, name = _open_streaming(arguments, "--live")
    devices = arguments.input_device, arguments.output_device
    _say(live.run(model, *devices, arguments.mix, say=lambda text: _say(f"{name}: {text}")).text())
    return 0


def _open_streaming(arguments: argparse.Namespace, flag: str) -> tuple[SpeechModel, str]:
    import torch

    model, name = open_in_backend(arguments)
    refuse_model(model, flag)
    torch.set_num_threads(1)  # (a hop of a tiny network costs less than handing it around)
    return model, name


def refuse_model(model: SpeechModel, flag: str) -> None:
    """Refuses a model that cannot work hop by hop, naming the flag and why."""
    from kdse.models.streaming import Streamer

    try:
        Streamer(model)
    except UserError as error:
        raise UserError(f"{flag}: {error}") from None


def _descriptor(stream: object, which: str) -> int:
    """The file descriptor behind stdin or stdout, in binary."""
    try:
        number = int(stream.fileno())  # type: ignore[attr-defined]  # (None has none: caught below)
    except (AttributeError, OSError, ValueError):
        raise UserError(f"INPUT -: standard {which} is closed") from None
    if os.isatty(number):
        hint = "ffmpeg -i FILE -f s16le -ac 1 -ar 16000 - | kdse enhance - | aplay -f S16_LE -r 16000"
        raise UserError(f"INPUT -: standard {which} is a terminal; connect it to a program or file, e.g. {hint}")
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(number, os.O_BINARY)
    else:
        os.set_blocking(number, True)  # some programs hand over pipes that answer "try again" instead of waiting
    return number


def _say(text: str) -> None:
    if sys.stderr is not None:  # (print would take standard output instead, which carries the audio)
        say(f"kdse enhance: {text}")
