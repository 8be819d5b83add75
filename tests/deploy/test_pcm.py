"""Raw samples through pipes: at once, equal to the offline result, and never a traceback for the world's mishaps."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from kdse.deploy.pcm import Pcm, Streamed, enhance_pcm, latency_seconds
from kdse.models.checkpoint import load_model
from kdse.pretrained import DEFAULT, find
from tests.deploy.passing import Passing


def noise(samples: int, channels: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(samples))


class Pipes:
    """A model between two pipes, in a thread of its own."""

    def __init__(self, model, pcm: Pcm, mix: float = 0.0) -> None:
        source, self.feed = os.pipe()
        self.fetch, sink = os.pipe()
        self.result: Streamed | Exception | None = None

        def work() -> None:
            try:
                self.result = enhance_pcm(model, source, sink, pcm, mix)
            except Exception as error:
                self.result = error
            os.close(source)
            os.close(sink)

        self.thread = threading.Thread(target=work)
        self.thread.start()

    def read(self, size: int) -> bytes:
        """So many bytes, or what came before the end."""
        raw = b""
        while len(raw) < size and (more := os.read(self.fetch, size - len(raw))):
            raw += more
        return raw

    def write(self, raw: bytes) -> None:
        os.write(self.feed, raw)

    def end(self) -> bytes:
        os.close(self.feed)
        raw = self.read(1 << 30)
        self.thread.join(60)
        os.close(self.fetch)
        return raw


def run(model, raw: bytes, pcm: Pcm, piece: int, mix: float = 0.0) -> tuple[bytes, Streamed | Exception | None]:
    pipes, out = Pipes(model, pcm, mix), []
    reader = threading.Thread(target=lambda: out.append(pipes.read(1 << 30)))
    reader.start()
    for start in range(0, len(raw), piece):
        try:
            pipes.write(raw[start : start + piece])
        except BrokenPipeError:
            break
    os.close(pipes.feed)
    pipes.thread.join(60)
    reader.join(60)
    os.close(pipes.fetch)
    return out[0], pipes.result


@pytest.mark.parametrize("sample_format", ["s16le", "f32le"])
@pytest.mark.parametrize(("samples", "piece"), [(1, 1), (1000, 7), (5000, 100_000), (0, 1)])
def test_bytes_in_any_pieces_give_the_offline_result(sample_format, samples, piece):
    model, pcm = load_model(find(DEFAULT)), Pcm(sample_format)
    raw, _ = pcm.encode(noise(samples))
    with torch.no_grad():
        offline = model(pcm.decode(raw)).waveform if samples else torch.zeros(1, 0)
    out, done = run(model, raw, pcm, piece)
    assert len(out) == len(raw) and done.end == "input" and done.seconds == samples / 16000
    step = 1 / 32768 if sample_format == "s16le" else 0
    torch.testing.assert_close(pcm.decode(out), offline, atol=step + 3e-6, rtol=0)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_channels_keep_length_and_alignment(rate, channels):
    pcm = Pcm("f32le", rate, channels)
    time_s = torch.arange(rate // 2) / rate
    tone = 0.3 * torch.sin(2 * torch.pi * 440 * time_s)[None] * torch.linspace(1, 0.5, channels)[:, None]
    out, _ = run(Passing(), pcm.encode(tone)[0], pcm, 5000)
    result = pcm.decode(out)
    assert result.shape == tone.shape
    inner = slice(rate // 50, -rate // 50)
    torch.testing.assert_close(result[:, inner], tone[:, inner], atol=2e-3, rtol=0)


@pytest.mark.parametrize("rate", [16000, 48000, 44100, 44101, 8000])
def test_a_sample_is_out_before_the_stated_latency_is_over(rate):
    """Every output sample n must be readable once the input up to n + latency is in, with the input still open."""
    model, pcm = Passing(), Pcm("s16le", rate)
    latency = round(sum(latency_seconds(model, rate)) * rate)
    raw, _ = pcm.encode(noise(3 * latency + 1000))
    pipes, fed, got = Pipes(model, pcm), 0, 0
    for piece in (latency + 1, 1, 300, 17, latency):
        pipes.write(raw[2 * fed : 2 * (fed + piece)])
        fed += piece
        got += len(pipes.read(2 * (fed - latency) - 2 * got)) // 2  # (would wait for ever if less came out)
        assert got == fed - latency
    pipes.end()


def test_the_stated_latency_is_the_models_at_its_own_rate_and_small_at_others():
    assert latency_seconds(Passing(), 16000) == (0.032, 0)
    for rate in (48000, 44100, 44101):
        assert 0.001 < latency_seconds(Passing(), rate)[1] < 0.002


def test_what_is_mixed_in_is_aligned():
    pcm = Pcm("s16le", 48000, 2)
    raw, _ = pcm.encode(noise(9001, channels=2))
    assert run(Passing(gain=0.0), raw, pcm, 4000, mix=1.0)[0] == raw


@pytest.mark.parametrize("stray", [1, 2, 3])
def test_a_partial_last_sample_is_counted_and_left_out(stray):
    out, done = run(Passing(), bytes(4 * 100 + stray), Pcm("s16le", 16000, 2), 33)
    assert len(out) == 400 and done.stray_bytes == stray


def test_integers_come_through_unchanged_and_full_scale_is_clipped_not_wrapped():
    pcm = Pcm()
    every = np.arange(-32768, 32768).astype("<i2").tobytes()
    assert pcm.encode(pcm.decode(every)) == (every, 0)
    raw, clipped = pcm.encode(torch.tensor([[1.5, -1.5, 1.0, -1.0]]))
    assert list(np.frombuffer(raw, "<i2")) == [32767, -32768, 32767, -32768] and clipped == 2


def test_a_reader_that_goes_away_ends_it_without_an_error():
    pipes = Pipes(Passing(), Pcm())
    pipes.write(bytes(2000))
    pipes.read(200)
    os.close(pipes.fetch)
    with pytest.raises(BrokenPipeError):
        for _ in range(1000):
            pipes.write(bytes(2000))
            time.sleep(0.001)
    pipes.thread.join(60)
    assert isinstance(pipes.result, Streamed) and pipes.result.end == "output"
    os.close(pipes.feed)


def test_ctrl_c_while_waiting_for_input_writes_what_was_heard():
    before = signal.getsignal(signal.SIGINT)
    source, feed = os.pipe()
    fetch, sink = os.pipe()
    os.write(feed, bytes(2 * 1000))
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    def interrupt() -> None:
        raw = b""
        while len(raw) < 2 * 512:  # all that is known before the input ends
            raw += os.read(fetch, 4096)
        time.sleep(0.05)
        signal.pthread_kill(main_thread, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    done = enhance_pcm(Passing(), source, sink, Pcm())
    thread.join(60)
    assert done.end == "interrupted" and done.seconds == 1000 / 16000
    assert len(os.read(fetch, 4096)) == 2 * (1000 - 512)
    for number in (source, feed, fetch, sink):
        os.close(number)
    assert signal.getsignal(signal.SIGINT) is before  # kdse's own handler is gone


@pytest.mark.parametrize("header", [b"RIFF\x24\0\0\0WAVEfmt ", b"fLaC\0\0\0\x22", b"OggS\0\2", b"ID3\x04\0\0"])
@pytest.mark.parametrize("piece", [1, 100])
def test_a_file_with_a_header_is_no_raw_audio(header, piece):
    out, error = run(Passing(), header + bytes(4000), Pcm(), piece)
    assert out == b"" and isinstance(error, ValueError) and "ffmpeg" in str(error)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_spoiled_sample_ends_the_stream_and_is_named(bad):
    wave = noise(3000)
    wave[0, 2000] = bad
    out, error = run(Passing(), Pcm("f32le").encode(wave)[0], Pcm("f32le"), 512)
    assert isinstance(error, ValueError) and "sample 2000" in str(error) and "f32le" in str(error)
    assert np.isfinite(np.frombuffer(out, "<f4")).all()


@pytest.mark.parametrize(
    ("settings", "flag"), [({"sample_format": "u8"}, "--format"), ({"rate_hz": 0}, "--rate"), ({"channels": 0}, "--ch")]
)
def test_a_wrong_format_names_its_flag(settings, flag):
    with pytest.raises(ValueError, match=flag):
        Pcm(**settings)
