"""The other classes, which weights are pretrained on: mammals, other animals, and things.

`OTHER_CLASSES` maps the name of a class to the function that draws one photo of it.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from pipeline.download.drawn.animals import Subject, compose, draw_mammal
from pipeline.download.drawn.canvas import Canvas, Colour, Frame, Image, ellipse, floats, mirrored, plain_cover, smooth, tube
from pipeline.download.drawn.other_mammals import MAMMALS
from pipeline.download.drawn.scenes import CLOTHS, GREENS, WALLS, WOODS
from pipeline.download.drawn.textures import Coat, colour, draw_coat, mix

EYES = ((206, 160, 50), (88, 52, 26), (176, 112, 44), (58, 34, 20))
BEAKS = ((206, 160, 84), (84, 76, 70), (190, 120, 60))


def _any(rng: np.random.Generator, colours: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    return colour(colours[rng.integers(len(colours))]) * rng.uniform(0.75, 1.1)


class _Painter:
    """Paints the parts of one subject in a coat."""

    def __init__(self, canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
        self.canvas, self.frame, self.rng = canvas, frame, rng
        self.coat: Coat = draw_coat(rng, canvas.height, canvas.width, frame.scale)

    def fur(self, outline: np.ndarray, role: str = "body", along: float = math.pi / 2, hair: float = 0) -> None:
        cover = self.coat.cover(self.frame, role, along=along)
        self.canvas.part(self.frame(outline), cover, hair=hair * self.coat.hair * self.frame.scale, rng=self.rng)

    def flat(self, outline: np.ndarray, ink: Colour, relief: float = 0.8) -> None:
        self.canvas.part(self.frame(outline), plain_cover(ink), relief=relief)

    def line(self, points: np.ndarray, ink: Colour, width: float) -> None:
        self.canvas.line(self.frame(points), ink, max(1.0, width * self.frame.scale))

    def eye(self, x: float, y: float, radius: float, pupil: tuple[float, float] = (0.55, 0.55)) -> None:
        self.canvas.fill(self.frame(ellipse(x, y, 1.2 * radius, 1.2 * radius)), (34, 28, 28))
        self.canvas.fill(self.frame(ellipse(x, y, radius, radius)), EYES[self.rng.integers(len(EYES))])
        self.canvas.fill(self.frame(ellipse(x, y, pupil[0] * radius, pupil[1] * radius)), (14, 11, 12))
        glint = (x + 0.35 * radius * self.canvas.light[0], y + 0.35 * radius * self.canvas.light[1])
        self.canvas.fill(self.frame(ellipse(*glint, 0.2 * radius, 0.2 * radius)), (250, 250, 248))


def owl(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """An owl from the front: ear tufts, discs around the eyes, a hooked beak, wings."""
    paint = _Painter(canvas, frame, rng)
    paint.fur(smooth([(-0.7, 0.2), (0.7, 0.2), (1.05, 1.4), (0.75, 2.7), (0, 3.0), (-0.75, 2.7), (-1.05, 1.4)]), hair=1)
    for side in (-1, 1):
        paint.fur(smooth([(side * 0.7, 0.6), (side * 1.2, 1.5), (side * 0.95, 2.7), (side * 0.65, 1.7)]), "leg", along=1.2)
        paint.line(floats([(side * 0.3, 2.9), (side * 0.3, 3.15)]), BEAKS[0], 0.12)
    rows = [(x, y) for y in np.arange(1.1, 2.6, 0.3) for x in (-0.4, -0.13, 0.13, 0.4)]
    ticks = [frame(smooth([(x - 0.09, y), (x, y + 0.1), (x + 0.09, y)], closed=False)) for x, y in rows]
    canvas.lines(ticks, paint.coat.mark, max(1.0, 0.03 * frame.scale))
    half = [
        (0, -0.72),
        (0.5, -0.72),
        (0.85, -0.98 - rng.uniform(0, 0.3)),
        (0.96, -0.4),
        (0.95, 0.2),
        (0.6, 0.72),
        (0, 0.85),
    ]
    paint.fur(smooth(mirrored(half)), "head", hair=1)
    for side in (-1, 1):
        paint.fur(ellipse(side * 0.44, -0.05, 0.46, 0.5, side * 0.2), "muzzle", hair=0.5)
        paint.eye(side * 0.4, -0.08, rng.uniform(0.22, 0.28))
    paint.flat(smooth([(-0.13, 0.08), (0.13, 0.08), (0.05, 0.35), (0, 0.42), (-0.05, 0.35)]), BEAKS[rng.integers(3)])


def frog(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """A frog from the front: eyes on top of the head, a mouth from side to side, folded legs."""
    paint = _Painter(canvas, frame, rng)
    for side in (-1, 1):
        paint.fur(ellipse(side * 1.1, 1.2, 0.5, 0.85, side * 0.5), "leg")
        paint.fur(ellipse(side * 1.2, 1.95, 0.6, 0.16, side * 0.1), "paw")
    paint.fur(smooth([(-0.8, 0.2), (0.8, 0.2), (1.05, 1.2), (0.6, 1.95), (-0.6, 1.95), (-1.05, 1.2)]))
    canvas.glaze(frame(ellipse(0, 1.3, 0.6, 0.6)), paint.coat.tone("chest"), 0.8, blur=0.15 * frame.scale)
    for side in (-1, 1):
        paint.fur(tube([(side * 0.55, 1.2), (side * 0.6, 1.7), (side * 0.5, 2.0)], (0.2, 0.15, 0.16)), "leg")
        paint.fur(ellipse(side * 0.58, -0.62, 0.36, 0.36), "head")
    paint.fur(smooth(mirrored([(0, -0.6), (0.6, -0.55), (1.12, 0.02), (0.9, 0.5), (0, 0.72)])), "head")
    for side in (-1, 1):
        paint.eye(side * 0.6, -0.66, 0.23, (0.75, 0.35) if rng.random() < 0.7 else (0.5, 0.5))
        canvas.fill(frame(ellipse(side * 0.12, -0.12, 0.04, 0.03)), (30, 26, 26))
    lips = smooth([(-1.0, 0.1), (-0.5, 0.34), (0, 0.38), (0.5, 0.34), (1.0, 0.1)], closed=False)
    paint.line(lips, mix(paint.coat.tone("head"), (20, 16, 16), 0.7), 0.035)


def bird(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """A small bird from the side: beak, wing, fanned tail and thin legs."""
    paint = _Painter(canvas, frame, rng)
    ink = BEAKS[rng.integers(3)]
    for x in (-0.1, 0.25):
        paint.line(floats([(x, 0.8), (x + 0.05, 1.5)]), ink, 0.07)
        paint.line(floats([(x - 0.15, 1.5), (x + 0.3, 1.5)]), ink, 0.06)
    paint.fur(smooth([(-0.9, 0.0), (-2.1, rng.uniform(-0.4, 0.7)), (-2.2, 0.75), (-0.8, 0.5)]), "tail", along=0.1)
    body = [
        (-1.1, 0.2),
        (-0.6, -0.4),
        (0.2, -0.8),
        (0.55, -1.25),
        (1.05, -1.2),
        (1.2, -0.75),
        (1.0, -0.1),
        (0.7, 0.6),
        (0, 0.95),
    ]
    paint.fur(smooth(body), along=0.4, hair=0.7)
    canvas.glaze(frame(ellipse(0.55, 0.15, 0.45, 0.55)), paint.coat.tone("chest"), 0.8, blur=0.15 * frame.scale)
    paint.fur(smooth([(0.3, -0.4), (-0.4, -0.25), (-1.4, 0.4), (-0.5, 0.55), (0.3, 0.25)]), "leg", along=0.4)
    paint.flat(floats([(1.14, -0.98), (1.14 + rng.uniform(0.3, 0.7), -0.78), (1.14, -0.68)]), ink)
    paint.eye(0.88, -0.9, 0.11)


def fish(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """A fish from the side: fins, a forked tail and scales."""
    paint = _Painter(canvas, frame, rng)
    tall = rng.uniform(0.6, 1.0)
    paint.fur(smooth([(-1.2, 0), (-2.1, -0.75), (-1.85, 0), (-2.1, 0.75)]), "tail", along=0)
    paint.fur(smooth([(-0.7, -0.5 * tall), (-0.2, -1.25 * tall), (0.7, -0.8 * tall), (0.3, -0.4 * tall)]), "ear")
    paint.fur(smooth([(-0.3, 0.5 * tall), (-0.4, 1.2 * tall), (0.4, 0.7 * tall)]), "ear")
    paint.fur(
        smooth(
            [
                (-1.4, 0.1),
                (-0.6, -0.6 * tall),
                (0.5, -0.78 * tall),
                (1.5, 0.05),
                (0.5, 0.75 * tall),
                (-0.6, 0.55 * tall),
            ]
        ),
        along=0,
    )
    places = [(x, y) for x in np.arange(-0.9, 0.6, 0.28) for y in (-0.3 * tall, 0.0, 0.3 * tall)]
    scales = [frame(smooth([(x, y - 0.1), (x - 0.1, y), (x, y + 0.1)], closed=False)) for x, y in places]
    canvas.lines(scales, paint.coat.mark, max(1.0, 0.025 * frame.scale))
    paint.fur(smooth([(0.3, 0.1), (-0.3, 0.0), (-0.4, 0.45), (0.1, 0.35)]), "leg", along=0)
    paint.eye(1.0, -0.15, 0.16)
    paint.line(floats([(1.48, 0.12), (1.2, 0.22)]), (40, 32, 32), 0.04)


def butterfly(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """A butterfly from above: four wings with spots, a thin body, feelers."""
    paint = _Painter(canvas, frame, rng)
    spread, spot = rng.uniform(0.7, 1.1), mix(paint.coat.mark, _any(rng, CLOTHS), rng.uniform(0, 0.8))
    for side in (-1, 1):
        x = side * spread
        paint.fur(smooth([(0, 0.1), (0.9 * x, 0.2), (1.25 * x, 0.9), (0.6 * x, 1.4), (0.1 * x, 0.7)]), "leg", along=0.8)
        paint.fur(smooth([(0, 0.1), (0.4 * x, -0.9), (1.3 * x, -1.35), (1.6 * x, -0.7), (1.0 * x, 0.15)]), "body", along=0.8)
        for place in ((1.15, -0.85, 0.2), (0.75, -0.5, 0.14), (0.8, 0.75, 0.2)):
            paint.flat(ellipse(place[0] * x, place[1], place[2], place[2]), spot, relief=0.3)
        feeler = smooth([(0, -0.5), (side * 0.2, -1.0), (side * 0.45, -1.2)], closed=False)
        paint.line(feeler, (40, 32, 30), 0.03)
    paint.flat(ellipse(0, 0.15, 0.11, 0.75), mix(paint.coat.mark, (20, 16, 16), 0.6))


def car(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """A car from the side."""
    paint = _Painter(canvas, frame, rng)
    ink, roof = mix(paint.coat.base, _any(rng, CLOTHS), rng.uniform(0, 1)), rng.uniform(0.6, 0.95)
    canvas.glaze(frame(ellipse(0, 0.95, 2.3, 0.2)), (12, 10, 12), 0.5, blur=0.15 * frame.scale)
    paint.flat(smooth([(-1.3, 0), (-0.9, -roof), (0.5, -roof), (1.2, 0.05)]), ink)
    paint.flat(smooth([(-2.2, 0.1), (-1.2, -0.12), (1.2, -0.1), (2.1, 0.2), (2.2, 0.7), (0, 0.78), (-2.2, 0.7)]), ink)
    for left, right in ((-1.0, -0.15), (-0.02, 0.75)):
        glass = [(left + 0.1, -0.1), (left + 0.25, -roof + 0.15), (right - 0.08, -roof + 0.15), (right, -0.1)]
        paint.flat(floats(glass), (110, 132, 146), relief=0.3)
    for x in (-1.3, 1.25):
        paint.flat(ellipse(x, 0.7, 0.42, 0.42), (34, 34, 36))
        paint.flat(ellipse(x, 0.7, 0.22, 0.22), (168, 168, 172))
    paint.flat(ellipse(2.08, 0.3, 0.12, 0.13), (246, 234, 190))


def house(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """A house with a pitched roof, a door and windows."""
    paint = _Painter(canvas, frame, rng)
    wall, top = mix(_any(rng, WALLS), paint.coat.base, rng.uniform(0, 1)), -rng.uniform(1.1, 1.7)
    paint.flat(floats([(0.7, top), (1.05, top), (1.05, -0.3), (0.7, -0.3)]), _any(rng, WOODS))
    paint.flat(floats([(-1.4, -0.4), (1.4, -0.4), (1.4, 1.4), (-1.4, 1.4)]), wall, relief=0.3)
    paint.flat(floats([(-1.75, -0.3), (0, top - 0.15), (1.75, -0.3)]), _any(rng, WOODS), relief=0.5)
    paint.flat(floats([(-0.25, 0.4), (0.3, 0.4), (0.3, 1.4), (-0.25, 1.4)]), _any(rng, CLOTHS), relief=0.4)
    for x in (-0.85, 0.85):
        frame_outline = floats([(x - 0.34, 0), (x + 0.34, 0), (x + 0.34, 0.65), (x - 0.34, 0.65)])
        paint.flat(frame_outline, (240, 238, 232), relief=0)
        paint.flat((frame_outline - (x, 0.32)) * 0.8 + floats([x, 0.32]), (120, 146, 160), relief=0.2)
        paint.line(floats([(x, 0), (x, 0.65)]), (240, 238, 232), 0.05)


def flower(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """A flower with petals around a disc, a stem and leaves."""
    paint = _Painter(canvas, frame, rng)
    green, ink = _any(rng, GREENS), mix(paint.coat.base, _any(rng, CLOTHS), rng.uniform(0, 1))
    paint.flat(tube([(0, 0.2), (0.15, 1.4), (0, 2.8)], (0.07, 0.08, 0.09)), green)
    for side in (-1, 1):
        paint.flat(tube([(0.1, 2.1), (side * 0.6, 1.7), (side * 1.1, 1.5)], (0.06, 0.28, 0.02)), green * 1.1)
    petals, long = int(rng.integers(6, 14)), rng.uniform(0.8, 1.1)
    for turn in np.linspace(0, 2 * np.pi, petals, endpoint=False):
        end = (long * math.cos(turn), long * math.sin(turn))
        paint.flat(tube([(0, 0), (0.6 * end[0], 0.6 * end[1]), end], (0.1, 2.0 / petals, 0.12)), ink * rng.uniform(0.92, 1.06))
    paint.fur(ellipse(0, 0, 0.34, 0.34), "ear")


SUBJECTS: dict[str, tuple[Subject, tuple[float, float], tuple[float, float]]] = {
    "owl": (owl, (0, 1.1), (3.4, 4.8)),
    "frog": (frog, (0, 0.6), (3.8, 3.8)),
    "bird": (bird, (-0.3, 0.1), (4.8, 3.6)),
    "fish": (fish, (-0.3, 0), (4.6, 3.2)),
    "butterfly": (butterfly, (0, 0), (3.8, 3.4)),
    "car": (car, (0, 0.1), (5.2, 3.0)),
    "house": (house, (0, 0), (4.2, 4.0)),
    "flower": (flower, (0, 0.7), (3.2, 4.4)),
}


def _draw_subject(name: str, rng: np.random.Generator) -> Image:
    subject, middle, extent = SUBJECTS[name]
    return compose(rng, subject, middle, extent)


OTHER_CLASSES: dict[str, Callable[[np.random.Generator], Image]] = {
    **{species.name: partial(draw_mammal, species) for species in MAMMALS},
    **{name: partial(_draw_subject, name) for name in SUBJECTS},
}
