"""Ears of every shape; the frame of an ear has its origin at the root, the ear standing up along negative y.

Positive x points away from the middle of the head; the caller mirrors the frame for the other side.
"""

import numpy as np

from pipeline.download.drawn.canvas import Canvas, Frame, Points, ellipse, floats, plain_cover, smooth
from pipeline.download.drawn.textures import Coat, mix

HANGING = {"floppy", "lop", "button", "folded"}  # drawn over the head rather than behind it
PINK = (206, 148, 138)


def _pieces(*curves: list[tuple[float, float]]) -> Points:
    """An outline of smooth curves that meet in corners."""
    return np.concatenate([smooth(curve, closed=False) for curve in curves])


OUTLINES: dict[str, Points] = {
    "pointed": _pieces([(-0.5, 0.25), (-0.42, -0.35), (-0.02, -1.02)], [(-0.02, -1.02), (0.34, -0.45), (0.52, 0.3)]),
    "pricked": smooth([(-0.36, 0.3), (-0.38, -0.5), (-0.14, -1.08), (0.05, -1.16), (0.22, -0.95), (0.4, -0.3), (0.4, 0.3)]),
    "floppy": smooth(
        [(-0.35, 0.02), (0.05, -0.2), (0.42, -0.02), (0.6, 0.5), (0.56, 1.05), (0.28, 1.3), (0.0, 1.05), (-0.1, 0.55)]
    ),
    "lop": smooth([(-0.3, 0.0), (0.05, -0.25), (0.4, -0.05), (0.55, 0.7), (0.5, 1.5), (0.25, 1.8), (0.02, 1.5), (0.0, 0.7)]),
    "button": smooth([(-0.42, 0.25), (-0.36, -0.4), (-0.05, -0.66), (0.4, -0.56), (0.5, 0.2), (0.1, 0.4)]),
    "folded": smooth([(-0.5, 0.25), (-0.44, -0.2), (-0.12, -0.44), (0.34, -0.36), (0.52, 0.1), (0.1, 0.34)]),
    "round": ellipse(0.05, -0.3, 0.58, 0.58),
    "long": smooth([(-0.22, 0.3), (-0.32, -0.8), (-0.14, -1.8), (0.06, -1.95), (0.24, -1.7), (0.32, -0.7), (0.24, 0.3)]),
    "leaf": smooth([(-0.16, 0.25), (-0.34, -0.35), (-0.12, -0.95), (0.06, -1.12), (0.22, -0.9), (0.32, -0.35), (0.18, 0.25)]),
    "fan": smooth([(-0.5, 0.5), (-0.75, -0.3), (-0.4, -1.1), (0.3, -1.3), (0.85, -0.7), (0.8, 0.2), (0.3, 0.8)]),
}
FLAPS: dict[str, Points] = {
    "button": _pieces(
        [(-0.4, -0.38), (0.0, -0.68), (0.44, -0.56)],
        [(0.44, -0.56), (0.6, -0.1), (0.4, 0.26)],
        [(0.4, 0.26), (0.0, 0.0), (-0.4, -0.38)],
    ),
    "folded": _pieces(
        [(-0.46, -0.16), (-0.12, -0.46), (0.36, -0.36)],
        [(0.36, -0.36), (0.46, 0.0), (0.3, 0.42)],
        [(0.3, 0.42), (0.0, 0.06), (-0.46, -0.16)],
    ),
}


def draw_ear(canvas: Canvas, frame: Frame, kind: str, coat: Coat, rng: np.random.Generator) -> None:
    """Draw one ear of a kind named in `OUTLINES`."""
    outline = OUTLINES[kind]
    hair = coat.hair * frame.scale
    cover = coat.cover(frame, "ear", along=np.pi / 2)
    canvas.part(frame(outline), cover, hair=hair, rng=rng)
    if kind in FLAPS:
        shadow = FLAPS[kind] + floats([0, 0.06])
        canvas.glaze(frame(shadow), (20, 14, 12), 0.45, blur=0.06 * frame.scale)
        canvas.part(frame(FLAPS[kind]), cover, hair=0.5 * hair, rng=rng)
    elif kind in ("floppy", "lop"):
        fold = frame(smooth([(-0.2, 0.08), (0.1, 0.3), (0.2, 0.9)], closed=False))
        canvas.line(fold, mix(coat.tone("ear"), (0, 0, 0), 0.35), max(1.0, 0.03 * frame.scale))
    else:
        centre = floats([0.02, outline[:, 1].mean() * 0.85])
        inner = (outline - centre) * floats([0.6, 0.72]) + centre
        skin = mix(mix(PINK, coat.tone("ear"), 0.35), (90, 50, 46), rng.uniform(0, 0.35))
        canvas.part(frame(inner), plain_cover(skin), relief=-0.6)
