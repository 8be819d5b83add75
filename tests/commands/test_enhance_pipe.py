"""`kdse enhance -`: a pipe in, a pipe out, the result at once."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch

from kdse.cli import main
from kdse.models.checkpoint import load_model
from kdse.pretrained import DEFAULT, find

pytestmark = pytest.mark.integration


def test_output_arrives_while_the_input_is_open_and_equals_the_offline_result():
    samples, latency = 4800, 512
    wave = np.random.default_rng(0).integers(-6000, 6000, samples).astype("<i2")
    raw = wave.tobytes()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "kdse.cli", "enhance", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=environment,
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        out, fed = b"", 0
        for piece in (1025, 3, 300, 2000, 511, 4096):  # bytes, odd numbers too
            process.stdin.write(raw[fed : fed + piece])
            fed += piece
            time.sleep(0.02)
            due = 2 * max(0, fed // 2 - latency)  # what the stated latency promises, with the input still open
            while len(out) < due:
                out += process.stdout.read(due - len(out))
        process.stdin.write(raw[fed:] + b"\x01")
        process.stdin.close()
        out += process.stdout.read()
        said = process.stderr.read().decode()
        assert process.wait(60) == 0
    with torch.no_grad():
        offline = load_model(find(DEFAULT))(torch.from_numpy(wave.astype(np.float32) / 32768)[None]).waveform[0]
    expected = np.rint(offline.numpy() * 32768)
    assert len(out) == len(raw)
    assert np.abs(np.frombuffer(out, "<i2") - expected).max() <= 1
    assert "latency 32.0 ms" in said and "0.30 s enhanced" in said
    assert sum("warning" in line for line in said.splitlines()) == 1 and "Traceback" not in said


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--out", "x"], "--out"),
        (["--json"], "--json"),
        (["--chunk-seconds", "3"], "--chunk-seconds"),
        (["--rate", "10"], "--rate"),
        (["--channels", "0"], "--channels"),
        (["--format", "u8"], "--format"),
        (["--input-device", "3"], "--input-device"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else v,
)
def test_flags_that_do_not_belong_to_a_pipe_are_one_line(flags, named, capsys):
    assert main(["enhance", "-", *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and named in lines[0]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal to stand in")
def test_a_terminal_is_not_fed_with_samples(monkeypatch, capsys):
    master, slave = os.openpty()
    with os.fdopen(slave, "r", closefd=False) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        assert main(["enhance", "-"]) == 2
    said = capsys.readouterr().err
    assert "standard input is a terminal" in said and "ffmpeg" in said and len(said.strip().splitlines()) == 1
    os.close(master)
    os.close(slave)


def through_main(monkeypatch, raw: bytes, tmp_path, *flags: str, sink: int | None = None) -> tuple[int, bytes]:
    (tmp_path / "in.raw").write_bytes(raw)
    with open(tmp_path / "in.raw", "rb") as source, open(tmp_path / "out.raw", "w+b") as target:
        monkeypatch.setattr("sys.stdin", source)
        monkeypatch.setattr("sys.stdout", target if sink is None else os.fdopen(sink, "wb", closefd=False))
        code = main(["enhance", "-", *flags])
        return code, (tmp_path / "out.raw").read_bytes()


def test_two_channels_at_another_rate_mix_and_say_what_resampling_costs(monkeypatch, tmp_path, capsys):
    raw = np.random.default_rng(0).integers(-3000, 3000, 2 * 9000).astype("<i2").tobytes()
    flags = ["--rate", "48000", "--channels", "2", "--mix", "1"]
    assert through_main(monkeypatch, raw, tmp_path, *flags) == (0, raw)
    said = capsys.readouterr().err
    assert "48000 Hz, 2 channels" in said and "latency 33.4 ms (32.0 model, 1.4 resampling)" in said


def test_a_wav_file_given_as_raw_samples_is_explained(monkeypatch, tmp_path, capsys):
    code, out = through_main(monkeypatch, b"RIFF\x24\0\0\0WAVEfmt " + bytes(900), tmp_path)
    assert code == 2 and out == b"" and "WAV" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("ending", ["wav", "flac", "aiff"])
def test_a_file_on_the_pipe_becomes_what_the_file_alone_does(monkeypatch, tmp_path, capsys, ending):
    wave = 0.1 * np.random.default_rng(0).standard_normal((9000, 2))
    soundfile.write(tmp_path / f"a.{ending}", wave, 48000)
    raw = (tmp_path / f"a.{ending}").read_bytes()
    with monkeypatch.context() as patch:
        code, out = through_main(patch, raw, tmp_path)
    assert code == 0 and "read to its end first" in capsys.readouterr().err
    assert main(["enhance", str(tmp_path / f"a.{ending}"), "--out", str(tmp_path / "out")]) == 0
    found, wanted = (soundfile.read(file)[0] for file in (io.BytesIO(out), tmp_path / "out" / f"a.{ending}"))
    np.testing.assert_array_equal(found, wanted)
    assert found.shape == wave.shape
    with monkeypatch.context() as patch:
        assert through_main(patch, raw, tmp_path, "--rate", "48000")[0] == 2
    assert "--rate: the input is a" in capsys.readouterr().err


def test_a_reader_that_went_away_is_exit_code_141_and_no_traceback(monkeypatch, tmp_path, capsys):
    gone, sink = os.pipe()
    os.close(gone)
    code, _ = through_main(monkeypatch, bytes(9000), tmp_path, sink=sink)
    os.close(sink)
    assert code == 141 and "Traceback" not in (said := capsys.readouterr().err) and "went away" in said


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_exit_code_1_and_one_line(monkeypatch, tmp_path, capsys):
    sink = os.open("/dev/full", os.O_WRONLY)
    code, _ = through_main(monkeypatch, bytes(9000), tmp_path, sink=sink)
    os.close(sink)
    assert code == 1 and "could not be written" in capsys.readouterr().err
