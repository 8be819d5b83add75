"""What the page makes of a recording is what Python makes of it: the student in the box, in headless Chromium."""

from __future__ import annotations

import base64
import time

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import resample_poly

from kdse.models.checkpoint import load_model
from kdse.pretrained import find
from kdse.report.page import spectrogram
from tests.data.small_corpus import RATE, real_corpus
from tests.web.conftest import Opened, floats, give, noisy_speech, result, saved

pytestmark = pytest.mark.integration

#: Difference allowed between the runtimes, and the rounding of a 16-bit file.
TOLERANCE, ROUNDING = 1e-4, 2**-16


@pytest.fixture(scope="module")
def student():
    return load_model(find("cruse-62k"))


@pytest.fixture(scope="module")
def opened(browser, address):
    opened = Opened(browser, address)
    opened.page.goto(address)
    yield opened
    assert opened.problems == [] and opened.elsewhere() == []
    opened.context.close()


@pytest.fixture(scope="module")
def page(opened):
    return opened.page


def enhanced_by_python(student, noisy: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return student(torch.as_tensor(noisy, dtype=torch.float32)[None]).waveform[0].numpy()


@pytest.mark.parametrize("samples", [24_001, 16_128, 255, 1])
def test_the_download_is_pythons_result_for_any_length(page, student, tmp_path, samples):
    noisy = noisy_speech(samples, seed=samples)
    soundfile.write(tmp_path / "street.wav", noisy, RATE, subtype="PCM_16")
    give(page, tmp_path / "street.wav")
    found, rate, name = saved(page, tmp_path / "got.wav")
    assert (rate, name, found.shape) == (RATE, "street_enhanced.wav", (samples, 1))
    assert np.abs(found[:, 0] - enhanced_by_python(student, noisy)).max() <= TOLERANCE + ROUNDING
    assert np.array_equal(result(page, "noisy"), noisy.astype(np.float32))


def test_a_real_recording_gives_pythons_result(page, student, tmp_path):
    root = real_corpus()
    speech, rate = soundfile.read(sorted((root / "speech" / "test").rglob("*.flac"))[0], frames=2 * RATE + 77)
    noise, noise_rate = soundfile.read(sorted((root / "noise" / "test").rglob("*.flac"))[0], frames=len(speech))
    assert rate == noise_rate == RATE
    noisy = speech + 0.5 * np.resize(noise, len(speech)) * speech.std() / (noise.std() + 1e-9)
    soundfile.write(tmp_path / "real.wav", 0.5 * noisy / np.abs(noisy).max(), RATE, subtype="PCM_16")
    noisy, _ = soundfile.read(tmp_path / "real.wav")
    give(page, tmp_path / "real.wav")
    found, _, _ = saved(page, tmp_path / "got.wav")
    expected = enhanced_by_python(student, noisy)
    assert np.abs(expected - noisy).max() > 0.01  # the student did something
    assert np.abs(found[:, 0] - expected).max() <= TOLERANCE + ROUNDING


def test_digital_silence_before_and_between_speech_gives_pythons_result(page, student, tmp_path):
    """Floors against division by zero must survive the export; a microphone begins with zeros."""
    noisy = noisy_speech(12_000, seed=3)
    noisy[:1500] = noisy[5000:6500] = 0
    soundfile.write(tmp_path / "silence.wav", noisy, RATE, subtype="PCM_16")
    give(page, tmp_path / "silence.wav")
    assert np.abs(result(page, "enhanced") - enhanced_by_python(student, noisy)).max() <= TOLERANCE


def test_both_channels_of_a_stereo_file_are_enhanced_on_their_own(page, student, tmp_path):
    noisy = np.stack([noisy_speech(9001, seed=1), 0.5 * noisy_speech(9001, seed=2)], axis=1)
    soundfile.write(tmp_path / "two.wav", noisy, RATE, subtype="PCM_24")
    give(page, tmp_path / "two.wav")
    found, _, _ = saved(page, tmp_path / "got.wav")
    for channel in range(2):
        expected = enhanced_by_python(student, noisy[:, channel])
        assert np.abs(found[:, channel] - expected).max() <= TOLERANCE + ROUNDING


def test_a_flac_of_48_khz_is_resampled_as_kdse_enhance_does(page, student, tmp_path):
    wide = resample_poly(noisy_speech(8001), 3, 1)
    soundfile.write(tmp_path / "wide.flac", wide, 3 * RATE, subtype="PCM_24")
    wide, _ = soundfile.read(tmp_path / "wide.flac", dtype="float32")
    give(page, tmp_path / "wide.flac")
    assert "Resampled from 48 kHz" in page.inner_text("#result-facts")
    noisy = resample_poly(wide, 1, 3)
    assert np.abs(result(page, "noisy") - noisy).max() < 1e-6
    assert np.abs(result(page, "enhanced") - enhanced_by_python(student, noisy)).max() <= TOLERANCE


def test_a_compressed_file_is_decoded_by_the_browser(page, tmp_path):
    wave = noisy_speech(RATE)
    soundfile.write(tmp_path / "talk.ogg", wave, RATE)
    give(page, tmp_path / "talk.ogg")
    found = result(page, "noisy")
    assert abs(len(found) - len(wave)) < 0.1 * RATE
    shift = np.argmax(np.correlate(found, wave, "full")) - len(wave) + 1
    assert abs(shift) < 0.02 * RATE and np.corrcoef(found[500:15000], np.roll(wave, shift)[500:15000])[0, 1] > 0.9


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_the_mixed_download_is_the_formula(page, tmp_path, share):
    soundfile.write(tmp_path / "a.wav", noisy_speech(8000, seed=5), RATE, subtype="PCM_16")
    give(page, tmp_path / "a.wav")
    page.fill("#mix", str(share))
    found, _, _ = saved(page, tmp_path / "got.wav")
    page.fill("#mix", "0")
    noisy, enhanced = result(page, "noisy"), result(page, "enhanced")
    expected = (1 - share) * enhanced.astype(np.float64) + share * noisy
    assert np.abs(found[:, 0] - expected).max() <= ROUNDING + 1e-7
    original, _, name = saved(page, tmp_path / "original.wav", "#save-noisy")
    assert name == "a_noisy.wav" and np.array_equal(original[:, 0], noisy)


def test_the_microphone_records_and_enhances_as_python_does(page, student, tmp_path):
    asked = time.monotonic()
    page.click("#record")
    page.locator("#recording").wait_for()
    page.check("#listen")
    listening = time.monotonic()
    page.wait_for_timeout(1000)
    assert float(page.get_attribute("#meter", "aria-valuenow")) > -50
    least = time.monotonic() - listening
    page.click("#stop")
    page.locator("#result").wait_for()
    noisy, enhanced = result(page, "noisy"), result(page, "enhanced")
    assert len(noisy) == len(enhanced) and least - 0.2 < len(noisy) / RATE < time.monotonic() - asked
    assert noisy.std() > 0.01
    assert np.abs(enhanced - enhanced_by_python(student, noisy)).max() <= TOLERANCE
    assert saved(page, tmp_path / "got.wav")[2] == "recording_enhanced.wav"
    assert page.evaluate("document.activeElement.id") in ("play", "save")


@pytest.mark.parametrize("rates", [(44100, 16000), (8000, 16000), (48000, 16000), (11025, 16000)])
def test_resampling_is_scipys_polyphase_filter_for_any_chunking(page, rates):
    wave = np.random.default_rng(0).standard_normal(3001).astype(np.float32)
    found = floats(
        page,
        """(async () => {
            const { Resampler, join } = await import('./resample.js');
            const { wave, rates } = argument;
            const stream = new Resampler(...rates);
            const pieces = [];
            for (let at = 0, n = 1; at < wave.length; at += n, n = (7 * n) % 501) {
                pieces.push(stream.push(Float32Array.from(wave.slice(at, at + n))));
            }
            return join([...pieces, stream.flush()]);
        })()""",
        {"wave": wave.tolist(), "rates": rates},
    )
    divisor = np.gcd(*rates)
    expected = resample_poly(wave.astype(np.float64), rates[1] // divisor, rates[0] // divisor)
    assert len(found) == len(expected) and np.abs(found - expected).max() < 2e-6


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
def test_wav_files_are_read_sample_for_sample(page, tmp_path, subtype, form):
    wave = np.random.default_rng(1).uniform(-1, 1, (501, 2))
    soundfile.write(tmp_path / "a.wav", wave, 22050, subtype=subtype, format=form)
    expected, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    found = floats(
        page,
        """(async () => {
            const { readWav, wavLayout } = await import('./wav.js');
            const { buffer } = Uint8Array.from(atob(argument), (letter) => letter.charCodeAt(0));
            const layout = wavLayout(buffer);
            const [left, right] = readWav(buffer, layout);
            return Float32Array.from([layout.rate, ...left, ...right]);
        })()""",
        base64.b64encode((tmp_path / "a.wav").read_bytes()).decode(),
    )
    assert found[0] == 22050 and np.array_equal(found[1:], expected.T.ravel())


@pytest.mark.parametrize("samples", [100, 5000, 400_000])
def test_pictures_show_the_power_that_reports_show(page, samples):
    wave = noisy_speech(samples)
    found = floats(
        page,
        """(async () => {
            const { power } = await import('./spectrogram.js');
            const { buffer } = Uint8Array.from(atob(argument), (letter) => letter.charCodeAt(0));
            return power(new Float32Array(buffer)).power;
        })()""",
        base64.b64encode(wave.astype(np.float32).tobytes()).decode(),
    )
    expected = spectrogram.power(wave.astype(np.float32)).T
    assert found.size == expected.size
    assert np.abs(found.reshape(expected.shape) - expected).max() < 1e-5 * expected.max()
