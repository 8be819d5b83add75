"""The report as one HTML file that needs no network: sortable tables, figures, and a page to listen to the systems."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from kdse.machine.files import write_text
from kdse.report.contents import Report
from kdse.report.page import listening as page_listening
from kdse.report.page import spectrogram
from kdse.report.page.tables import data_uri, figure_html, table_html

#: Scripts in the order they run; each is one idea.
_SCRIPTS = ("tables.js", "player.js", "files.js", "spectrograms.js", "listening.js")


def write_page(report: Report, path: str | Path) -> Path:
    """Writes the report to one HTML file; returns its path. Nobody sees half of it, and it asks no server for anything.

    Sound is FLAC (16 bit, as many samples as the waves), all signals of a file with one gain; a signal that is empty
    or holds NaN or infinite samples is named on the page and left out. The time and size are those of the sound:
    about 0.4 MB for ten seconds of one system at 16 kHz.

    Raises:
        ValueError: naming what does not fit: a file whose waves differ in length, a row with too few cells, a figure
            that is not a PNG; or the page, if it cannot be written.
    """
    page_listening.check(report.listening, report.sample_rate_hz)
    style = _asset("style.css")
    script = "(() => {\n'use strict';\n" + "\n".join(_asset(name) for name in _SCRIPTS) + "})();\n"
    sections, contents = _sections(report)
    text = Template(_asset("page.html")).substitute(
        policy=_policy(style, script),
        title=escape(report.title),
        style=style,
        script=script,
        notes="".join(f"<p>{escape(note)}</p>\n" for note in report.notes),
        warnings=_warnings(report.warnings),
        contents=contents,
        sections=sections,
        data=_data(report),
    )
    return write_text(path, text)


def _sections(report: Report) -> tuple[str, str]:
    """The sections of the page that have something to show, and the links to them."""
    listening = Template(_asset("listening.html")).substitute(colour_bar=data_uri(spectrogram.colour_bar()))
    if not report.listening:
        listening = "<p>This report has no files to listen to.</p>\n"
    facts = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>\n" for k, v in report.facts.items())
    found = {
        "Results": "".join(table_html(table, number) for number, table in enumerate(report.tables)),
        "Figures": "".join(figure_html(figure) for figure in report.figures),
        "Listening": listening,
        "How it was made": facts and f"<dl>\n{facts}</dl>\n",
    }
    sections, links = [], []
    for name, content in found.items():
        if content:
            key = name.split()[0].lower()
            links.append(f'<a href="#{key}">{name}</a>')
            sections.append(
                f'<section id="{key}" aria-labelledby="{key}-title">\n<h2 id="{key}-title">{name}</h2>\n'
                f'<div class="content">\n{content}</div>\n</section>\n'
            )
    return "".join(sections), "\n".join(links)


def _warnings(warnings: list[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>\n" for warning in warnings)
    heading = '<h2 id="warnings">Warnings</h2>'
    return f'<section class="warnings" aria-labelledby="warnings">{heading}\n<ul>{items}</ul></section>'


def _data(report: Report) -> str:
    """The catalogue of files and every file's sound and pictures, as script elements that do not run."""
    if not report.listening:
        return ""
    catalogue = page_listening.catalogue(report.listening, report.sample_rate_hz, report.metrics)
    blocks: list[str] = []
    for index, file in enumerate(report.listening):
        about, made = page_listening.parts(index, file, report.sample_rate_hz, report.metrics)
        catalogue["files"].append(about)
        blocks.extend(made)
    catalogue["megabytes"] = round(sum(map(len, blocks)) / 1e6, 1)
    return f'<script type="application/json" id="catalogue">{page_listening.to_json(catalogue)}</script>\n' + "".join(
        blocks
    )


def _policy(style: str, script: str) -> str:
    """Content security policy: this style, this script, images in the page, nothing from anywhere else."""
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "media-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return (resources.files("kdse.report.page") / "assets" / name).read_text(encoding="utf-8")
