import os

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import resample_poly

from kdse.audio.files import AudioError, info, read, write
from tests.data.small_corpus import hiss, put, tone_and_pauses


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_file_is_read_as_it_was_written(tmp_path, suffix):
    wave = np.round(tone_and_pauses(0.3) * 32768) / 32768
    got = read(put(tmp_path / f"a.{suffix}", wave), 16000)
    assert got.dtype == torch.float32
    np.testing.assert_array_equal(got.numpy(), wave.astype(np.float32))


def test_a_part_is_that_part_of_the_file(tmp_path):
    path = put(tmp_path / "a.flac", hiss(0.5))
    assert torch.equal(read(path, 16000, 1234, 5678), read(path, 16000)[1234:5678])
    assert torch.equal(read(path, 16000, 7000, 99999), read(path, 16000)[7000:])
    assert read(path, 16000, 99999, 100000).numel() == 0


@pytest.mark.parametrize("rate", [48000, 44100, 22050, 8000])
def test_a_part_of_a_resampled_file_is_that_part_of_the_whole(tmp_path, rate):
    path = put(tmp_path / "a.wav", hiss(0.6, rate), rate)
    whole = read(path, 16000)
    for start, stop in ((0, 100), (1, 4001), (3333, 3334), (5000, 9600), (9500, None)):
        torch.testing.assert_close(read(path, 16000, start, stop), whole[start:stop], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("rate", "up", "down"), [(48000, 1, 3), (8000, 2, 1), (44100, 160, 441)])
def test_another_rate_is_resampled(tmp_path, rate, up, down):
    time = np.arange(rate) / rate
    wave = 0.3 * np.sin(2 * np.pi * 440 * time) + 0.2 * np.sin(2 * np.pi * 1500 * time)
    got = read(put(tmp_path / "a.wav", wave, rate, subtype="FLOAT"), 16000).numpy()
    assert got.shape == (16000,)
    np.testing.assert_allclose(got[500:-500], resample_poly(wave, up, down)[500:-500], atol=3e-3)


def test_channels_are_averaged(tmp_path):
    left, right = hiss(0.2, seed=1), hiss(0.2, seed=2)
    got = read(put(tmp_path / "a.wav", np.stack([left, right], 1), subtype="DOUBLE"), 16000)
    np.testing.assert_allclose(got.numpy(), (left + right) / 2, atol=1e-7)
    assert info(tmp_path / "a.wav") == (3200, 16000, 2)


def test_silence_is_read_as_silence(tmp_path):
    assert torch.equal(read(put(tmp_path / "a.flac", np.zeros(1000)), 16000), torch.zeros(1000))


@pytest.mark.parametrize(
    "content", [b"", b"this is no audio at all", b"fLaC" + bytes(100), b"RIFF\x00\x00\x00\x00WAVE"]
)
def test_an_unreadable_file_is_named_in_one_line(tmp_path, content):
    path = tmp_path / "broken.flac"
    path.write_bytes(content)
    for attempt in (lambda: info(path), lambda: read(path, 16000)):
        with pytest.raises(AudioError, match=r"^[^\n]*broken\.flac[^\n]*$"):
            attempt()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AudioError, match=r"nowhere\.wav: not readable"):
        read(tmp_path / "nowhere.wav", 16000)


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
def test_a_flac_file_that_was_cut_short_is_named(tmp_path, keep):
    path = put(tmp_path / "cut.flac", hiss(2.0))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(AudioError, match=r"^[^\n]*cut\.flac[^\n]*$"):
        read(path, 16000)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinite_samples_are_refused(tmp_path, value):
    wave = hiss(0.2)
    wave[1000] = value
    path = put(tmp_path / "bad.wav", wave, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"bad\.wav: holds NaN or infinite"):
        read(path, 16000)
    assert read(path, 16000, 1001, 2000).numel() == 999


def test_an_error_wrapped_by_a_data_process_becomes_one_line_again():
    wrapped = (
        "Caught AudioError in DataLoader worker process 0.\nOriginal Traceback ...\nkdse.x.AudioError: a.wav: bad\n"
    )
    assert str(AudioError(wrapped)) == "a.wav: bad"


@pytest.mark.parametrize("shape", [(800,), (2, 800)])
def test_what_is_written_is_read_back(tmp_path, shape):
    wave = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    write(tmp_path / "new" / "a.wav", wave, 8000, subtype="FLOAT")
    data, rate = soundfile.read(str(tmp_path / "new" / "a.wav"), dtype="float32")
    assert rate == 8000
    np.testing.assert_array_equal(data.T, wave.numpy())


def test_a_name_that_is_not_utf8_is_named_in_text(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    os.replace(put(tmp_path / "a.wav", hiss(0.1)), path)
    for look in (lambda: info(path), lambda: read(path, 16000)):
        with pytest.raises(AudioError, match=r"caf\\udce9\.wav: its name is not UTF-8; rename it") as caught:
            look()
        assert str(caught.value).encode()
