"""The curves of a record, and their cliffs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]


class Point(NamedTuple):
    """A point of a curve: the milliseconds per task, and the whole time in units of its arithmetic floor."""

    at: float
    milliseconds: float
    over_floor: float


class Cliff(NamedTuple):
    """A point, and how many times as high it is as the higher of its neighbors."""

    at: float
    height: float


class Curve(NamedTuple):
    """Points in order, of one quantity, for one pass and one way to run it."""

    subject: str
    what: str
    who: str
    points: list[Point]

    def extremes(self) -> tuple[Point, Point]:
        """Return the points nearest to the floor and farthest from it."""
        ordered = sorted(self.points, key=lambda point: point.over_floor)
        return ordered[0], ordered[-1]

    def over(self, other: Curve) -> dict[float, float]:
        """Return the ratios to the times of the other curve, where both have a point."""
        theirs = {point.at: point.milliseconds for point in other.points}
        return {point.at: point.milliseconds / theirs[point.at] for point in self.points if point.at in theirs}

    def steepest(self) -> Cliff | None:
        """Return the highest cliff, if there is one; the ends of a curve are never cliffs."""
        found = [
            Cliff(point.at, point.over_floor / max(left.over_floor, right.over_floor))
            for left, point, right in zip(self.points, self.points[1:], self.points[2:], strict=False)
        ]
        steepest = max(found, key=lambda cliff: cliff.height, default=None)
        return steepest if steepest is not None and steepest.height > 1 else None


def curves_of(rows: Sequence[Row]) -> list[Curve]:
    """Return the curves of ``bench_scaling``, in the order of the rows."""
    found: dict[tuple[str, str, str], list[Point]] = {}
    for row in (row for row in rows if row["median_ms"] is not None):
        point = Point(row["at"], row["median_ms"] / row["tasks"], row["over_floor"])
        found.setdefault((row["subject"], row["what"], row["who"]), []).append(point)
    return [Curve(*name, sorted(points)) for name, points in found.items()]
