"""JSON and colours inside a page, for the report's page and the page of `kdse web`."""

from __future__ import annotations

import functools
import json
from typing import Any

#: Colours of a spectrogram. 64 make steps of 1.3 dB, which nobody sees, and pictures a quarter smaller than 256 do.
COLOURS = 64


def embedded_json(data: Any) -> str:
    """JSON that may stand inside a script element: no character in it can end the element or start a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@functools.cache
def palette() -> bytes:
    """Magma, perceptually uniform (S. van der Walt and N. Smith, matplotlib), as RGB bytes."""
    import matplotlib
    import numpy as np

    colours = matplotlib.colormaps["magma"](np.linspace(0, 1, COLOURS))[:, :3]
    return np.rint(255 * colours).astype(np.uint8).tobytes()
