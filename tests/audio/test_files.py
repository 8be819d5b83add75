import io
import os
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import resample_poly

from kdse.audio.files import AudioError, info, read, write
from kdse.audio.listing import audio_files, measure
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
        "Caught AudioError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  ...\n"
        "kdse.audio.opening.AudioError: a.wav: bad\n"
    )
    assert str(AudioError(wrapped)) == "a.wav: bad"


@pytest.mark.parametrize("shape", [(800,), (2, 800)])
def test_what_is_written_is_read_back(tmp_path, shape):
    wave = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    write(tmp_path / "new" / "a.wav", wave, 8000, subtype="FLOAT")
    data, rate = soundfile.read(str(tmp_path / "new" / "a.wav"), dtype="float32")
    assert rate == 8000
    np.testing.assert_array_equal(data.T, wave.numpy())


def test_a_file_is_read_whatever_its_name(tmp_path):
    for name in (b"caf\xe9.wav", b"two\nlines.wav", b"\x1b[31mred.wav", b"x" * 251 + b".wav"):
        path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
        os.replace(put(tmp_path / "a.wav", hiss(0.1)), path)
        assert info(path) == (1600, 16000, 1) and read(path, 16000).numel() == 1600


@pytest.mark.parametrize("rate", [16001, 44101, 999983])
def test_rates_without_a_common_divisor_are_resampled_well_and_in_the_memory_of_the_audio(tmp_path, rate):
    time = np.arange(rate) / rate
    path = put(tmp_path / "a.wav", 0.3 * np.sin(2 * np.pi * 440 * time + 1), rate, subtype="FLOAT")
    tracemalloc.start()
    whole = read(path, 16000)
    peak, _ = tracemalloc.get_traced_memory()[1], tracemalloc.stop()
    assert whole.shape == (16000,) and peak < 64e6
    wanted = 0.3 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000 + 1)
    np.testing.assert_allclose(whole.numpy()[50:-50], wanted[50:-50], atol=5e-4)  # the filter's ripple
    for start, stop in ((0, 100), (3333, 3334), (15000, None)):
        torch.testing.assert_close(read(path, 16000, start, stop), whole[start:stop], atol=1e-6, rtol=0)


@pytest.mark.parametrize("rate", [3, 999, 1_000_001])
def test_an_absurd_rate_is_named(tmp_path, rate):
    with pytest.raises(AudioError, match=rf"a\.wav: claims a sample rate of {rate} Hz"):
        read(put(tmp_path / "a.wav", hiss(0.1), rate), 16000)


FORMATS = {
    "wav": {}, "wave": {"format": "WAVEX"}, "rf64": {"format": "RF64"}, "w64": {}, "aiff": {}, "caf": {}, "au": {},
    "flac": {}, "ogg": {}, "opus": {"format": "OGG", "subtype": "OPUS"}, "mp3": {}, "sph": {"format": "NIST"},
    "avr": {"subtype": "PCM_16"}, "voc": {}, "8svx": {"format": "SVX"},
}  # fmt: skip


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_is_listed_and_read_as_libsndfile_decodes_it(tmp_path, ending):
    path = put(tmp_path / f"a.{ending}", tone_and_pauses(1.0), **FORMATS[ending])
    wanted, _ = soundfile.read(str(path), dtype="float32")
    assert audio_files(tmp_path) == [path.name]
    whole = read(path, 16000)
    np.testing.assert_array_equal(whole.numpy(), wanted)
    torch.testing.assert_close(read(path, 16000, 5000, 9000), whole[5000:9000], atol=1e-6, rtol=0)


def test_an_mp3_that_is_read_in_pieces_has_no_seams(tmp_path):
    path = put(tmp_path / "a.mp3", tone_and_pauses(9.0))  # three pieces
    wanted, _ = soundfile.read(str(path), dtype="float32")
    np.testing.assert_allclose(read(path, 16000).numpy(), wanted, atol=1e-6)
    np.testing.assert_allclose(read(path, 16000, 70000, 140000).numpy(), wanted[70000:140000], atol=1e-6)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("keep", [0.3, 0.97])
def test_a_file_that_was_cut_short_is_named_by_every_look_at_it(tmp_path, ending, keep):
    path = put(tmp_path / f"cut.{ending}", hiss(2.0), **FORMATS[ending])
    assert not measure(str(tmp_path), path.name, "decode").fault
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    assert measure(str(tmp_path), path.name, "decode").fault
    for content in (None, io.BytesIO(path.read_bytes())):  # (as it lies in a shard)
        with pytest.raises(AudioError, match=rf"^[^\n]*cut\.{ending}: [^\n]*$"):
            read(path, 16000, content=content)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "MS_ADPCM"])
def test_a_cut_wav_is_named_whatever_its_samples_are(tmp_path, subtype):
    path = put(tmp_path / "a.wav", hiss(0.5), subtype=subtype)
    wanted, _ = soundfile.read(str(path), dtype="float32")
    np.testing.assert_array_equal(read(path, 16000).numpy(), wanted)
    os.truncate(path, path.stat().st_size - 600)
    with pytest.raises(AudioError, match=r"a\.wav: cut short: its header promises"):
        read(path, 16000, 0, 100)


def test_chunks_around_the_samples_neither_hide_them_nor_that_they_are_cut(tmp_path):
    content = put(tmp_path / "a.wav", hiss(0.2)).read_bytes()
    wanted = read(tmp_path / "a.wav", 16000)
    odd = (b"junk" + struct.pack("<I", 3) + b"abc\0") * 400  # more than libsndfile's log holds
    size = struct.pack("<I", len(content) + len(odd) - 8)
    for name, parts in {
        "before": (b"RIFF", size, b"WAVE", odd, content[12:]),
        "behind": (b"RIFF", size, content[8:], odd),
    }.items():
        (tmp_path / f"{name}.wav").write_bytes(b"".join(parts))
        assert torch.equal(read(tmp_path / f"{name}.wav", 16000), wanted)
    os.truncate(tmp_path / "before.wav", len(odd) + 4000)
    with pytest.raises(AudioError, match="cut short"):
        read(tmp_path / "before.wav", 16000)


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000])
@pytest.mark.parametrize("behind", [b"", b"LIST\4\0\0\0INFO"])
def test_samples_behind_a_header_that_was_never_finished_are_read(tmp_path, length, behind):
    path = put(tmp_path / "a.wav", hiss(0.3))
    wanted, content = read(path, 16000), bytearray(path.read_bytes())
    content[4:8] = content[40:44] = struct.pack("<I", length)
    path.write_bytes(content + behind)
    found = read(path, 16000)
    assert torch.equal(found[:4800], wanted) and found.numel() - 4800 == len(behind) // 2
    assert torch.equal(read(path, 16000, 100, 300, io.BytesIO(path.read_bytes())), wanted[100:300])
    assert info(path).frames == found.numel()


def test_an_rf64_header_that_was_never_finished_is_no_hindrance_and_no_samples_stay_none(tmp_path):
    path = put(tmp_path / "a.rf64", hiss(0.3), format="RF64")
    wanted, content = read(path, 16000), bytearray(path.read_bytes())
    content[20:44] = bytes(24)
    path.write_bytes(content)
    assert torch.equal(read(path, 16000), wanted)
    for behind in (b"", b"LIST\4\0\0\0INFO"):
        empty = put(tmp_path / "empty.wav", np.zeros(0))
        empty.write_bytes(empty.read_bytes() + behind)
        with pytest.raises(AudioError, match=r"empty\.wav: holds no samples"):
            read(empty, 16000)


def test_a_flac_stream_that_states_no_length_is_named_and_takes_no_memory(tmp_path):
    path = put(tmp_path / "a.flac", hiss(0.3))
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"a\.flac: its header states no length"):
        read(path, 16000)
