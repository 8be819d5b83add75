"""The report page as a file: complete in itself, well formed, nothing in it taken for markup."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from kdse.report.contents import Figure, ListeningFile
from kdse.report.page.page import table_html, write_page
from kdse.report.tables.table import Cell, Column, Table
from tests.report.page_reports import HOSTILE, RATE, damaged_file, listening_file, report, table, tone

VOID = {"meta", "link", "input", "img", "path", "br"}


class Reader(HTMLParser):
    """Elements in order as (tag, attributes, text); fails where an end tag does not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[int] = []
        self.elements: list[tuple[str, dict[str, str], str]] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), ""))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), ""))

    def handle_endtag(self, tag):
        assert tag == self.elements[self.open.pop()][0]

    def handle_data(self, data):
        if self.open:
            tag, attributes, text = self.elements[self.open[-1]]
            self.elements[self.open[-1]] = (tag, attributes, text + data)

    def all(self, tag: str) -> list[tuple[dict[str, str], str]]:
        return [(attributes, text) for name, attributes, text in self.elements if name == tag]

    def by_id(self, key: str) -> str:
        return next(text for _, attributes, text in self.elements if attributes.get("id") == key)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return Reader(write_page(report(), tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8"))


def written(tmp_path, **changes) -> Reader:
    return Reader(write_page(report(**changes), tmp_path / "report.html").read_text(encoding="utf-8"))


def test_the_page_refers_to_nothing_outside_itself(page):
    for _, attributes, _ in page.elements:
        for name, value in attributes.items():
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                assert value.startswith(("data:", "#")), (name, value[:80])
    style, script = page.all("style")[0][1], page.all("script")[-1][1]
    assert "url(" not in style and "@import" not in style
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(", script)


def test_the_policy_allows_this_style_and_script_and_no_others(page):
    policy = next(a["content"] for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts["default-src"] == "'none'" and "unsafe" not in policy
    for directive, text in (("style-src", page.all("style")[0][1]), ("script-src", page.all("script")[-1][1])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert parts[directive] == f"'sha256-{digest}'"
    assert not any("style" in a or any(name.startswith("on") for name in a) for _, a, _ in page.elements)


def test_names_are_text_and_not_markup(page):
    assert page.all("h1")[0][1] == f"Report {HOSTILE}"
    catalogue = json.loads(page.by_id("catalogue"))
    assert catalogue["files"][2]["name"].startswith(HOSTILE)
    running = [a for a, _ in page.all("script") if not a.get("type")]
    assert len(running) == 1 and "alert('x')" not in page.all("script")[-1][1]


def test_sound_in_the_page_is_the_wave_times_the_stated_gain(page):
    catalogue = json.loads(page.by_id("catalogue"))
    file, about = report().listening[1], catalogue["files"][1]
    gain = 10 ** (about["gainDb"] / 20)
    peaks = {}
    for system in about["systems"]:
        data = base64.b64decode(page.by_id(f"audio-{system['block']}"))
        decoded, rate = soundfile.read(io.BytesIO(data))
        assert rate == RATE == catalogue["rate"] and data[:4] == b"fLaC"
        assert np.abs(decoded - gain * file.waves[system["name"]]).max() < 1e-4
        peaks[system["name"]] = np.abs(decoded).max()
    assert 20 * math.log10(max(peaks.values())) == pytest.approx(-1, abs=0.01)
    assert max(peaks, key=peaks.get) == about["loudest"]


def test_a_signal_that_cannot_be_played_is_named_and_left_out(page):
    about = json.loads(page.by_id("catalogue"))["files"][4]
    systems = {system["name"]: system for system in about["systems"]}
    assert systems["student"]["block"] is None and "NaN" in systems["student"]["note"]
    assert systems["clean"]["block"] and systems["clean"]["note"] == "silent"
    assert systems["teacher"]["scores"] == {"si_sdr": None, "pesq_wb": 2.5}
    assert systems["clean"]["scores"] == {}


def test_the_level_of_every_signal_relative_to_noisy_is_stated(tmp_path):
    waves = {"noisy": tone(500), "quiet": tone(1000, level=0.05)}
    file = ListeningFile("x", "", 0.0, waves, {})
    page = written(tmp_path, listening=[file])
    noisy, quiet = json.loads(page.by_id("catalogue"))["files"][0]["systems"]
    assert noisy["levelDb"] == pytest.approx(0) and quiet["levelDb"] == pytest.approx(-6.02, abs=0.01)


def test_waves_of_different_lengths_are_refused_with_the_name_of_the_file(tmp_path):
    file = ListeningFile("short one", "", 0.0, {"noisy": np.zeros(5), "clean": np.zeros(4)}, {})
    with pytest.raises(ValueError, match="short one: .*noisy 5, clean 4"):
        written(tmp_path, listening=[file])
    with pytest.raises(ValueError, match="stereo: noisy has shape"):
        written(tmp_path, listening=[ListeningFile("stereo", "", 0.0, {"noisy": np.zeros((2, 5))}, {})])


@pytest.mark.parametrize("samples", [0, 1, 3])
def test_the_shortest_files_make_a_page(tmp_path, samples):
    file = ListeningFile("x", "", math.nan, {"noisy": np.full(samples, 0.5, dtype=np.float32)}, {})
    about = json.loads(written(tmp_path, listening=[file]).by_id("catalogue"))["files"][0]
    assert about["seconds"] == samples / RATE and about["snrDb"] is None
    assert (about["systems"][0]["block"] is None) == (samples == 0)


def test_a_report_without_files_says_so_and_has_no_player(tmp_path):
    page = written(tmp_path, listening=[], figures=[], tables=[], facts={}, warnings=[])
    assert not [a for _, a, _ in page.elements if a.get("id") in ("play", "catalogue", "figures", "results", "how")]
    assert any("no files to listen to" in text for _, text in page.all("p"))


def test_a_metric_that_is_not_registered_is_shown_as_it_is(tmp_path):
    file = listening_file("x", scores={"noisy": {"novel": 0.5}})
    metric = json.loads(written(tmp_path, listening=[file], metrics=("novel",)).by_id("catalogue"))["metrics"][0]
    assert metric["title"] == "novel" and metric["factor"] == 1


def test_figures_carry_their_text_and_their_size(page):
    image = next(a for a, _ in page.all("img") if a["alt"].startswith("Falls"))
    assert image["alt"] == 'Falls from 2 to 1 "dB" & stays' and (image["width"], image["height"]) == ("300", "200")


def test_a_figure_that_is_not_a_png_is_named(tmp_path):
    with pytest.raises(ValueError, match="figure pie: not a PNG"):
        written(tmp_path, figures=[Figure("pie", "", "", b"<svg/>")])


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_page(report(listening=[]), tmp_path / "report.html")
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(ValueError, match="differ in length"):
        bad = ListeningFile("x", "", 0.0, {"noisy": np.zeros(5), "clean": np.zeros(4)}, {})
        write_page(report(listening=[bad]), tmp_path / "report.html")
    with pytest.raises(ValueError, match="could not be written"):
        write_page(report(listening=[]), tmp_path / "report.html" / "below.html")
    assert (tmp_path / "report.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_columns_that_name_a_block_become_its_heading():
    read = Reader(table_html(table(), 0))
    heads = [text for attributes, text in read.all("span") if text.startswith("test set")]
    assert heads == ["test set one", "test set two"]
    assert len(read.all("tbody")) == 2 and len(read.all("button")) == 3
    assert [a["colspan"] for a, _ in read.all("th") if a["scope"] == "rowgroup"] == ["3", "3"]


def test_rows_have_a_name_and_numbers_a_value_to_sort_by():
    read = Reader(table_html(table(), 0))
    names = [text for a, text in read.all("th") if a["scope"] == "row"]
    assert names == ["noisy", "teacher", "student", "tiny"] * 2
    values = [a.get("data-number") for a, _ in read.all("td")]
    assert values[:8] == ["10.0", None, "9.0", "0.5", "-2.5", "0.25", None, "0.125"]


def test_best_and_noise_are_marked_and_explained():
    html = table_html(table(), 0)
    assert "<strong>10.0" in html and "(best)" in html and html.count("≈") == 3
    legend = html.split('class="legend"')[1]
    assert "Bold" in legend and "≈" in legend and "within each block" in legend and "Means &amp;" in legend
    told = replace(table(), caption="Bold: best. ≈: noise.")
    assert table_html(told, 0).split('class="legend"')[1].count("Bold") == 1
    bare = Table("k", "t", "", (Column("a", "a"),), ((Cell("1", 1),),))
    assert "legend" not in table_html(bare, 0)


@pytest.mark.parametrize("value, text", [(math.inf, "Infinity"), (-math.inf, "-Infinity"), (np.float32(0.5), "0.5")])
def test_values_that_javascript_writes_otherwise(value, text):
    assert f'data-number="{text}"' in table_html(Table("k", "t", "", (Column("a", "a"),), ((Cell("x", value),),)), 0)


def test_nan_has_no_value_to_sort_by():
    one = Table("k", "t", "", (Column("a", "a"),), ((Cell("failed", math.nan),), (Cell("1", 1.0),)))
    assert table_html(one, 0).count("data-number") == 1


def test_a_table_that_does_not_fit_is_named():
    columns = (Column("a", "a"), Column("b", "b"))
    with pytest.raises(ValueError, match="table bad: a row has 1 cells for 2 columns"):
        table_html(Table("bad", "t", "", columns, ((Cell("x"),),)), 0)
    with pytest.raises(ValueError, match="table bad: blocks has 2 entries for 1 rows"):
        table_html(Table("bad", "t", "", columns, ((Cell("x"), Cell("y")),), (0, 1)), 0)


def test_an_empty_table_and_a_damaged_file_make_a_page(tmp_path):
    empty = Table("empty", "Empty", "", (Column("a", "a"),), ())
    assert written(tmp_path, tables=[empty], listening=[damaged_file()]).by_id("table-0") == "Empty"
