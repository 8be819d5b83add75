"""Microphone to loudspeaker, with a sound device made of paper: the offline result, later by what is stated."""

from __future__ import annotations

import sys
import threading
import types

import numpy as np
import pytest
import torch

from kdse.cli import main
from kdse.deploy import live
from kdse.deploy.live import MOST_WAITING, Live
from kdse.models.checkpoint import load_model
from kdse.pretrained import DEFAULT, find
from tests.deploy.passing import Passing

HOP = 256


def recording(blocks: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(blocks).standard_normal(blocks * HOP)).astype(np.float32)


def drive(device: Live, wave: np.ndarray, work=lambda number: 1, channels: int = 1) -> np.ndarray:
    """Calls the callback block by block; between two calls the model gets ``work(number)`` blocks done."""
    played = []
    for number, block in enumerate(wave.reshape(-1, HOP, 1)):
        out = np.full((HOP, channels), np.nan, dtype=np.float32)
        device.callback(block, out, HOP, None, None)
        played.append(out)
        for _ in range(work(number)):
            device.work(timeout=None)
    return np.concatenate(played)


@pytest.mark.parametrize("slack", [1, 2, 5])
def test_it_plays_the_offline_result_with_the_stated_delay(slack):
    model, wave = load_model(find(DEFAULT)), recording(40)
    device = Live(model, slack_blocks=slack)
    played = drive(device, wave)[:, 0]
    with torch.no_grad():
        offline = model(torch.from_numpy(wave)[None]).waveform[0].numpy()
    late = device.delay_samples
    assert late == model.latency_samples - HOP + slack * HOP and not played[: slack * HOP].any()
    np.testing.assert_allclose(played[late:], offline[: len(wave) - late], atol=3e-6)
    assert device.report == live.Report(blocks=40)


@pytest.mark.parametrize("mix", [0.0, 0.25, 1.0])
def test_the_noisy_share_is_aligned(mix):
    wave = recording(12)
    device = Live(Passing(gain=0.5), mix=mix)
    played, late = drive(device, wave)[:, 0], device.delay_samples
    np.testing.assert_allclose(played[late:], (0.5 * (1 - mix) + mix) * wave[:-late], atol=1e-7)


def test_both_loudspeakers_play_the_same():
    played = drive(Live(Passing()), recording(5), channels=2)
    np.testing.assert_array_equal(played[:, 0], played[:, 1])


def test_a_block_that_is_late_is_silence_and_those_after_it_are_on_time():
    wave = recording(30)
    device = Live(Passing())
    played = drive(device, wave, work=lambda n: {10: 0, 11: 0, 12: 3}.get(n, 1))[:, 0].reshape(-1, HOP)
    truth = np.concatenate([np.zeros(device.delay_samples, np.float32), wave])[: len(wave)].reshape(-1, HOP)
    silent = [n for n in range(4, 30) if not played[n].any()]
    assert silent == [12] and device.report.late == 1 and device.report.dropped == 0
    kept = np.arange(30) != 12
    np.testing.assert_array_equal(played[kept], truth[kept])


def test_a_model_that_stalls_drops_what_waits_and_is_on_time_again():
    wave, stall = recording(120), range(10, 10 + MOST_WAITING + 5)
    device = Live(Passing())
    played = drive(device, wave, work=lambda n: 0 if n in stall else 9)[:, 0].reshape(-1, HOP)
    truth = np.concatenate([np.zeros(device.delay_samples, np.float32), wave])[: len(wave)].reshape(-1, HOP)
    assert device.report.dropped == MOST_WAITING and device.report.late >= MOST_WAITING
    np.testing.assert_array_equal(played[60:], truth[60:])
    assert f"{MOST_WAITING} dropped" in device.report.text()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_spoiled_blocks_are_silenced_and_do_not_stay_in_the_model(bad):
    model, wave = load_model(find(DEFAULT)), recording(30)
    wave[5 * HOP + 3] = bad
    device = Live(model)
    played = drive(device, wave)[:, 0]
    wave[5 * HOP : 6 * HOP] = 0
    with torch.no_grad():
        offline = model(torch.from_numpy(wave)[None]).waveform[0].numpy()
    late = device.delay_samples
    np.testing.assert_allclose(played[late:], offline[: len(wave) - late], atol=3e-6)
    assert device.report.spoiled == 1


class FakeStream:
    """Plays a recording through the callback when it is entered, while the model works in the main thread."""

    latency = (0.010, 0.020)
    wave = recording(20)
    played: list[np.ndarray] = []
    settings: dict = {}
    stop: threading.Event

    def __init__(self, **settings) -> None:
        type(self).settings = settings
        if settings["device"][0] == "absent":
            raise ValueError("no input device matching 'absent'")

    def __enter__(self) -> FakeStream:
        callback, size = self.settings["callback"], (HOP, self.settings["channels"][1])
        device = callback.__self__
        for number, block in enumerate(self.wave.reshape(-1, HOP, 1)):
            out = np.zeros(size, dtype=np.float32)
            callback(block, out, HOP, None, "input overflow" if number == 3 else None)
            device.work()
            self.played.append(out)
        device._recorded.get = self._interrupt
        return self

    def _interrupt(self, *_) -> None:
        raise KeyboardInterrupt

    def __exit__(self, *_) -> None:
        pass


@pytest.fixture
def fake(monkeypatch) -> type[FakeStream]:
    package = types.ModuleType("sounddevice")
    package.Stream = FakeStream
    package.PortAudioError = type("PortAudioError", (Exception,), {})
    listing = "0 paper microphone (1 in, 0 out)"
    package.query_devices = lambda *which: {"max_output_channels": 8} if which else listing
    monkeypatch.setitem(sys.modules, "sounddevice", package)
    FakeStream.played = []
    return FakeStream


def test_the_command_plays_states_latency_and_counts_until_ctrl_c(fake, capsys):
    assert main(["enhance", "--live", "--input-device", "0", "--output-device", "paper"]) == 0
    said = capsys.readouterr().err
    assert "latency 78 ms (48 model, 30 device)" in said and DEFAULT in said
    assert "20 blocks, 0 late, 0 dropped, 0 spoiled, 1 faults" in said
    settings = fake.settings
    assert (settings["samplerate"], settings["blocksize"], settings["dtype"]) == (16000, HOP, "float32")
    assert settings["device"] == (0, "paper") and settings["channels"] == (1, 2)
    model = load_model(find(DEFAULT))
    with torch.no_grad():
        offline = model(torch.from_numpy(fake.wave)[None]).waveform[0].numpy()
    played = np.concatenate(fake.played)[:, 0]
    np.testing.assert_allclose(played[768:], offline[: len(played) - 768], atol=3e-6)


def test_devices_are_listed(fake, capsys):
    assert main(["enhance", "--list-devices"]) == 0
    assert "paper microphone" in capsys.readouterr().out


def test_a_device_that_is_not_there_is_one_line(fake, capsys):
    assert main(["enhance", "--live", "--input-device", "absent"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "absent" in lines[0] and "--list-devices" in lines[0]


def test_without_the_package_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(["enhance", "--live"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "pip install 'kdse[live]'" in lines[0]
