"""Labels of the points in a plot, placed where they overlap least."""

from typing import TYPE_CHECKING

import numpy as np

from asc.report.palette import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OFFSETS = [(x, y) for y in (5, -5, 15, -15) for x in (4, -4)] + [(6, 0), (-6, 0)]  # points: where a label may go
BACKGROUND = {"color": LIGHT["paper"], "alpha": 0.7, "linewidth": 0, "pad": 0}  # legible on a line
STYLE: dict = {"fontsize": 8, "color": LIGHT["ink"], "parse_math": False, "bbox": BACKGROUND}
MOST = 14  # labels of a panel: more would hide its points


def label_points(axes: "Axes", points: list[tuple[float, float]], bars: list[float], labels: dict[int, str]) -> None:
    """Label points, each at the offset that overlaps least with points, error bars and earlier labels.

    Args:
        axes: whose size is final.
        points: of the plot, in data coordinates.
        bars: half the height of each point's error bar, 0 for none.
        labels: of some of the points, by index.
    """
    pixel = axes.figure.dpi / 72  # pixels of a point of text
    corners = []  # of boxes (left, bottom, right, top) in pixels
    for (x, y), bar in zip(points, bars, strict=True):
        (left, low), (_, middle), (_, high) = axes.transData.transform([(x, y - bar), (x, y), (x, y + bar)])
        corners += [(left - 2, low - 2, left + 2, high + 2), (left - 5, middle - 5, left + 5, middle + 5)]
    occupied, frame = np.array(corners), np.array(axes.bbox.extents)
    for index, text in labels.items():
        label = axes.annotate(text, points[index], (0, 0), textcoords="offset points", **STYLE)
        width, height = label.get_window_extent().size
        anchor = axes.transData.transform(points[index])
        boxes = np.array([box_at(anchor, offset, width, height, pixel) for offset in OFFSETS])
        outside = width * height - overlap(boxes, frame[None])
        best = int(np.argmin(overlap(boxes, occupied) + outside))
        label.xyann = OFFSETS[best]
        label.set_horizontalalignment("left" if OFFSETS[best][0] > 0 else "right")
        label.set_verticalalignment("center" if OFFSETS[best][1] == 0 else "bottom" if OFFSETS[best][1] > 0 else "top")
        occupied = np.vstack([occupied, boxes[best]])


def box_at(anchor: np.ndarray, offset: tuple[int, int], width: float, height: float, pixel: float) -> list[float]:
    """The box (left, bottom, right, top) of a label at an offset from its point, pixels."""
    x, y = anchor[0] + offset[0] * pixel, anchor[1] + offset[1] * pixel
    left = x if offset[0] > 0 else x - width
    bottom = y - height / 2 if offset[1] == 0 else y if offset[1] > 0 else y - height
    return [left, bottom, left + width, bottom + height]


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Area (m,) of each of boxes (m, 4) that lies over others (n, 4), summed.

    >>> overlap(np.array([[0, 0, 2, 2]]), np.array([[1, 1, 3, 3], [0, 0, 1, 2], [5, 5, 6, 6]]))
    array([3.])
    """
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return (high - low).clip(0).prod(-1, dtype=float).sum(1)
