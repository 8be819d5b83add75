"""Small reports for the tests of the page: tones that tell systems apart, hostile names, damaged signals."""

from __future__ import annotations

import io
import math

import numpy as np

from kdse.report.contents import Figure, ListeningFile, Report
from kdse.report.tables.table import Cell, Column, Table

RATE = 16000
HOSTILE = "</script><script>alert('x')</script> <!-- <script \"quoted\" & <b>"
SYSTEMS = ("noisy", "clean", "teacher", "student")
#: Hz of each system's tone; with 512 points, bins 16, 32, 64 and 96.
TONES = dict(zip(SYSTEMS, (500, 1000, 2000, 3000), strict=True))


def tone(frequency_hz: float, seconds: float = 2.0, level: float = 0.1, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * frequency_hz * time)).astype(np.float32)


def listening_file(name: str, group: str = "a", snr_db: float = 5.0, seed: int = 0, **changes) -> ListeningFile:
    rng = np.random.default_rng(seed)
    waves = {system: tone(frequency, level=0.1 + 0.02 * seed) for system, frequency in TONES.items()}
    waves["noisy"] = waves["noisy"] + 0.003 * rng.standard_normal(2 * RATE).astype(np.float32)
    noisy = {"si_sdr": 5.0 + seed, "pesq_wb": 1.5}
    scores = {
        "noisy": noisy,
        "teacher": {"si_sdr": 12.0 + seed, "pesq_wb": 2.5},
        "student": {"si_sdr": float(rng.uniform(3, 15)), "pesq_wb": float(rng.uniform(1, 4))},
    }
    settings = {"waves": waves, "scores": scores, **changes}
    return ListeningFile(name=name, group=group, snr_db=snr_db, **settings)


def table() -> Table:
    columns = (Column("set", "test set"), Column("system", "system"), Column("si_sdr", "SI-SDR dB", "higher"))
    columns += (Column("rtf", "RTF", "lower"),)
    rows, blocks = [], []
    values = [("noisy", 10.0, None), ("teacher", 9.0, 0.5), ("student", -2.5, 0.25), ("tiny", None, 0.125)]
    for block, name in enumerate(("one", "two")):
        for system, score, rtf in values:
            cells = Cell("" if score is None else f"{score:.1f} dB", score, best=score == 10, noise=score == 9)
            rows.append((Cell(name, name), Cell(system, system), cells, Cell("" if rtf is None else str(rtf), rtf)))
            blocks.append(block)
    return Table("scores", "Scores <of> systems", 'Means & "intervals".', columns, tuple(rows), tuple(blocks))


def figure() -> Figure:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (300, 200), "teal").save(out, "PNG")
    return Figure("curve", "A curve", 'Falls from 2 to 1 "dB" & stays', out.getvalue())


def report(**changes) -> Report:
    files = [
        listening_file("first", seed=1),
        listening_file("second", seed=2, snr_db=-5.0),
        listening_file(HOSTILE + "long_" * 60, group="b", snr_db=math.nan, seed=3),
        listening_file("fourth", group="b", snr_db=0.0, seed=4),
        damaged_file(),
    ]
    settings = {
        "title": f"Report {HOSTILE}", "notes": ["A note <b>."], "warnings": ["A warning <b>."], "tables": [table()],
        "figures": [figure()], "listening": files, "sample_rate_hz": RATE, "metrics": ("si_sdr", "pesq_wb"),
        "facts": {"Command": "kdse report <x>", "Versions": "1"},
    }  # fmt: skip
    return Report(**{**settings, **changes})


def damaged_file() -> ListeningFile:
    """The teacher's score failed, the student's wave holds NaN, and clean is silent."""
    file = listening_file("damaged", seed=5)
    file.waves["student"][7] = np.nan
    file.waves["clean"][:] = 0
    file.scores["teacher"]["si_sdr"] = math.nan
    return file
