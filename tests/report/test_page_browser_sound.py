"""The player of the report page in a browser: what is heard is what was scored, at the same place in every system."""

from __future__ import annotations

import numpy as np
import pytest

from tests.report.page_reports import RATE, SYSTEMS, TONES, report

pytestmark = pytest.mark.integration

PLAYED = "() => kdsePage.player.playing"


def position(page) -> float:
    return page.evaluate("kdsePage.player.position")


def chosen(page) -> str:
    return page.evaluate("document.querySelector('#systems input:checked').value")


def test_the_decoded_sound_is_the_wave_times_the_stated_gain(page):
    for index, file in enumerate(report().listening[:2]):
        found = page.evaluate(
            """async (index) => {
                await kdsePage.open(index);
                return [...kdsePage.player.buffers].map(([name, buffer]) =>
                    [name, buffer.sampleRate, [...buffer.getChannelData(0)]]);
            }""",
            index,
        )
        gain_db = page.evaluate(f"JSON.parse(document.getElementById('catalogue').textContent).files[{index}].gainDb")
        assert [name for name, *_ in found] == list(SYSTEMS)
        for name, rate, samples in found:
            wave = file.waves[name] * 10 ** (gain_db / 20)
            assert rate == RATE and len(samples) == len(wave)
            assert np.abs(np.array(samples) - wave).max() < 1e-4


def test_the_sound_that_comes_out_is_that_of_the_chosen_system_and_time_passes(page):
    page.evaluate("kdsePage.player.setLoop(true)")
    page.click("#play")
    page.wait_for_function(PLAYED)
    heard = page.evaluate(
        """async (tones) => {
            const { player } = kdsePage;
            const listen = player.context.createAnalyser();
            listen.fftSize = 2048;
            player.voices.out.connect(listen);
            const heard = {};
            for (const [system, tone] of Object.entries(tones)) {
                player.choose(system);
                for (let look = 0; look < 40 && !(Math.abs(heard[system] - tone) < 4); look++) {
                    await new Promise((done) => setTimeout(done, 250));
                    const levels = new Float32Array(listen.frequencyBinCount);
                    listen.getFloatFrequencyData(levels);
                    heard[system] = levels.indexOf(Math.max(...levels)) * player.context.sampleRate / 2048;
                }
            }
            return heard;
        }""",
        TONES,
    )
    assert heard == pytest.approx(TONES, abs=RATE / 2048)
    first = page.evaluate("[kdsePage.player.context.currentTime, kdsePage.player.position]")
    page.wait_for_function("first => kdsePage.player.context.currentTime > first + 0.1", arg=first[0])
    second = page.evaluate("[kdsePage.player.context.currentTime, kdsePage.player.position]")
    assert (second[1] - first[1]) % 2 == pytest.approx(second[0] - first[0], abs=0.01)
    page.click("#play")
    assert page.get_attribute("#play", "aria-label") == "Play" and not page.evaluate(PLAYED)


def test_a_switch_is_exact_to_the_sample_and_fades_over_ten_milliseconds(page):
    """The player's own graph rendered offline: before and after the switch the output is the wave, shifted alike."""
    switch = 63 * 128 / RATE  # an offline context stops at blocks of 128 samples
    rendered, systems = page.evaluate(
        """async (switchAt) => {
            const { player } = kdsePage;
            const systems = [...player.buffers].map(([name, buffer]) => [name, [...buffer.getChannelData(0)]]);
            const other = new player.constructor(player.sampleRate);
            other.load(player.buffers, player.duration);
            other.choose('teacher');
            other.context = new OfflineAudioContext(1, player.sampleRate, player.sampleRate);
            other.playing = true;
            other.start();
            other.context.suspend(switchAt).then(() => { other.choose('student'); other.context.resume(); });
            const rendered = await other.context.startRendering();
            return [[...rendered.getChannelData(0)], Object.fromEntries(systems)];
        }""",
        switch,
    )
    out, teacher, student = map(np.array, (rendered, systems["teacher"], systems["student"]))
    delay, cut, fade = round(0.02 * RATE), round(switch * RATE), round(0.01 * RATE)
    assert np.abs(out[:delay]).max() == 0
    assert np.abs(out[delay:cut] - teacher[: cut - delay]).max() < 1e-5
    after = cut + fade + 1
    assert np.abs(out[after:] - student[after - delay : RATE - delay]).max() < 1e-5
    share = np.clip((np.arange(cut, after) - cut) / fade, 0, 1)
    n = np.arange(cut, after) - delay
    mixed = (1 - share) * teacher[n] + share * student[n]
    assert np.abs(out[cut:after] - mixed).max() < 1e-4


def test_switching_keeps_the_position(page):
    page.click("#play")
    page.wait_for_function("() => kdsePage.player.position > 0.2")
    before, after, clock = page.evaluate(
        """() => {
            const { player } = kdsePage;
            const before = [player.position, player.context.currentTime];
            document.querySelector('#systems input[value=student]').click();
            return [before[0], player.position, player.context.currentTime - before[1]];
        }"""
    )
    assert chosen(page) == "student" and abs(after - before - clock) < 0.05
    page.click("#play")
    paused = position(page)
    page.keyboard.press("1")
    assert chosen(page) == "noisy" and position(page) == paused


def test_at_the_end_it_stops_and_the_next_play_starts_anew(page):
    page.evaluate("kdsePage.player.seek(1.85)")
    page.click("#play")
    page.wait_for_function("() => !kdsePage.player.playing && kdsePage.player.position > 1.9")
    assert position(page) == pytest.approx(2.0) and page.get_attribute("#play", "aria-label") == "Play"
    page.click("#play")
    page.wait_for_function(PLAYED)
    assert position(page) < 1.0


def test_a_loop_goes_on_from_the_start(page):
    page.check("#loop")
    page.evaluate("kdsePage.player.seek(1.8)")
    page.click("#play")
    page.wait_for_function("() => kdsePage.player.playing && kdsePage.player.position < 1")
    assert page.evaluate(PLAYED)


def test_what_the_browser_cannot_decode_is_said_in_words(page):
    page.evaluate(
        """async () => {
            const block = document.getElementById('audio-0-2');
            const kept = block.textContent;
            block.textContent = 'AAAA';
            await kdsePage.open(0);
            block.textContent = kept;
        }"""
    )
    assert "could not decode teacher" in page.text_content("#trouble") and page.is_visible("#trouble")
    assert page.evaluate("[...kdsePage.player.buffers.keys()]") == ["noisy", "clean", "student"]


def test_a_browser_without_web_audio_says_so_and_sorts_tables(browser, address):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.add_init_script("delete window.AudioContext; delete window.OfflineAudioContext;")
    page = context.new_page()
    page.goto(address)
    page.wait_for_function("() => !document.getElementById('trouble').hidden")
    assert "could not decode" in page.text_content("#trouble")
    page.locator("table.sortable thead button").nth(1).click()
    assert page.locator("th[aria-sort]").count() == 1
    context.close()
