"""Where to write names beside points, so that they cover neither each other nor anything else: plain geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

#: Distances from a point that are tried, in heights of a name, and directions in degrees: right first.
DISTANCES = (0.7, 1.2, 1.8, 2.6, 3.6, 4.8, 6.2, 8.0)
DIRECTIONS = (0, 180, 90, 270, 35, 325, 145, 215, 60, 300, 120, 240)


class Box(NamedTuple):
    """A rectangle."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box, gap: float = 0.0) -> float:
        """Area shared with another box that is widened by ``gap``."""
        width = min(self.right, other.right) - max(self.left, other.left) + gap
        height = min(self.top, other.top) - max(self.bottom, other.bottom) + gap
        return max(0.0, width) * max(0.0, height)

    def outside(self, frame: Box) -> float:
        """How far it reaches over a frame, all sides together."""
        over = (frame.left - self.left, frame.bottom - self.bottom, self.right - frame.right, self.top - frame.top)
        return sum(max(0.0, side) for side in over)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """The place of this box that is nearest to a point."""
        return min(max(x, self.left), self.right), min(max(y, self.bottom), self.top)


def place_names(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    obstacles: Sequence[Box],
    frame: Box,
    gap: float = 0.0,
) -> list[Box]:
    """A box for every point's name, as near to the point as there is room, all in one unit, such as pixels.

    Points with many neighbours are served first. A name for which there is no room gets the place where it covers
    least.

    Args:
        points, sizes: where the points are; width and height of their names.
        obstacles: what must not be covered, the points' markers among them.
        frame, gap: what names must stay in, and room to keep between boxes.
    """
    taken = list(obstacles)
    placed: dict[int, Box] = {}
    near = 6 * max((height for _, height in sizes), default=0.0)
    crowd = [sum(math.dist(a, b) < near for b in points) for a in points]
    for i in sorted(range(len(points)), key=lambda i: (-crowd[i], -points[i][1], points[i][0])):
        best, least = Box(0, 0, 0, 0), math.inf
        for distance in DISTANCES:
            for direction in DIRECTIONS:
                box = _beside(points[i], sizes[i], distance * sizes[i][1], direction)
                cost = sum(box.overlap(other, gap) for other in taken) + box.outside(frame) * sizes[i][0]
                if cost < least:
                    best, least = box, cost
            if least == 0:
                break
        placed[i] = best
        taken.append(best)
    return [placed[i] for i in range(len(points))]


def _beside(point: tuple[float, float], size: tuple[float, float], distance: float, direction: float) -> Box:
    across, up = math.cos(math.radians(direction)), math.sin(math.radians(direction))
    left = point[0] + across * distance + (across - 1) / 2 * size[0]
    bottom = point[1] + up * distance + (up - 1) / 2 * size[1]
    return Box(left, bottom, left + size[0], bottom + size[1])
