"""Things that lie about in a scene, and things that stand in front of what the photo shows."""

from collections.abc import Callable

import numpy as np

from pipeline.download.drawn.canvas import Canvas, Frame, ellipse, mirrored, plain_cover, smooth, tube
from pipeline.download.drawn.scenes import CLOTHS, GREENS, WOODS
from pipeline.download.drawn.textures import FAMILIES, colour, mix

SKINS = ((236, 196, 170), (198, 148, 116), (140, 96, 72), (96, 64, 50))


def _any(rng: np.random.Generator, colours: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    return colour(colours[rng.integers(len(colours))]) * rng.uniform(0.75, 1.1)


def ball(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """A ball with a band."""
    ink = _any(rng, CLOTHS)
    canvas.glaze(frame(ellipse(0.1, 0.95, 1, 0.25)), (10, 10, 10), 0.4, blur=0.15 * frame.scale)
    canvas.part(frame(ellipse(0, 0, 1, 1)), plain_cover(ink), relief=1.2)
    band = tube([(-0.9, -0.2), (0, 0.15), (0.9, -0.2)], (0.08, 0.16, 0.08))
    canvas.glaze(frame(band), (240, 236, 226), 0.7)


def bowl(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """A bowl with something in it."""
    ink = _any(rng, CLOTHS)
    canvas.part(frame(smooth([(-1, -0.3), (1, -0.3), (0.8, 0.5), (0, 0.6), (-0.8, 0.5)])), plain_cover(ink))
    canvas.fill(frame(ellipse(0, -0.32, 1, 0.25)), ink * 0.6)
    canvas.part(frame(ellipse(0, -0.34, 0.8, 0.17)), plain_cover(_any(rng, WOODS)))


def plant(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """A plant in a pot."""
    green = _any(rng, GREENS)
    for _ in range(int(rng.integers(5, 10))):
        x, y = rng.uniform(-1.1, 1.1), rng.uniform(-2.2, -0.9)
        leaf = tube([(0, 0), (0.5 * x, 0.7 * y), (x, y)], (0.06, 0.22, 0.02))
        canvas.part(frame(leaf), plain_cover(green * rng.uniform(0.75, 1.2)), relief=0.6)
    canvas.part(frame([(-0.6, -0.1), (0.6, -0.1), (0.45, 0.9), (-0.45, 0.9)]), plain_cover(_any(rng, WOODS)))


def books(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """A pile of books."""
    for level in range(int(rng.integers(2, 5))):
        left, y = rng.uniform(-1.2, -0.9), 0.8 - 0.35 * level
        box = frame([(left, y - 0.33), (left + 2.1, y - 0.33), (left + 2.1, y), (left, y)])
        canvas.part(box, plain_cover(_any(rng, CLOTHS)), relief=0.5)


def cushion(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """A cushion."""
    half = [(0, -0.85), (0.9, -1), (0.85, 0), (0.9, 1), (0, 0.85)]
    ink = _any(rng, CLOTHS)
    canvas.part(frame(smooth(mirrored(half))), plain_cover(ink), relief=1.1)
    canvas.line(frame([(-0.7, 0), (0.7, 0)]), ink * 0.75, 0.06 * frame.scale)


def box(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """An open box."""
    ink = _any(rng, WOODS)
    canvas.part(frame([(-1, -0.6), (1, -0.6), (1, 0.8), (-1, 0.8)]), plain_cover(ink), relief=0.4)
    canvas.fill(frame([(-1, -0.6), (1, -0.6), (1.3, -0.95), (-0.75, -0.95)]), ink * 0.6)
    canvas.line(frame([(0, -0.6), (0, 0.8)]), ink * 0.8, 0.1 * frame.scale)


def mug(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """A mug."""
    ink = _any(rng, CLOTHS)
    canvas.line(frame(ellipse(0.75, 0, 0.4, 0.45)), ink * 0.85, 0.2 * frame.scale)
    canvas.part(frame([(-0.7, -0.8), (0.7, -0.8), (0.6, 0.8), (-0.6, 0.8)]), plain_cover(ink), relief=0.9)
    canvas.fill(frame(ellipse(0, -0.8, 0.7, 0.16)), ink * 0.5)


def yarn(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """A ball of yarn."""
    ink = _any(rng, CLOTHS)
    canvas.part(frame(ellipse(0, 0, 1, 0.95)), plain_cover(ink), relief=1)
    threads = [frame(ellipse(0, 0, 0.9, rng.uniform(0.15, 0.7), rng.uniform(0, 3))) for _ in range(5)]
    canvas.lines(threads, ink * 0.75, 0.04 * frame.scale)


Thing = Callable[[Canvas, Frame, np.random.Generator], None]
THINGS: tuple[Thing, ...] = (ball, bowl, plant, books, cushion, box, mug, yarn)


def scatter(canvas: Canvas, rng: np.random.Generator) -> None:
    """Put up to four things into the scene, behind what the photo shows."""
    for _ in range(int(rng.integers(0, 5))):
        _place(canvas, rng, low=0.45)


def _place(canvas: Canvas, rng: np.random.Generator, low: float) -> None:
    thing = THINGS[rng.integers(len(THINGS))]
    scale = rng.uniform(0.05, 0.14) * min(canvas.height, canvas.width)
    x, y = rng.uniform(0, 1) * canvas.width, rng.uniform(low, 1) * canvas.height
    thing(canvas, Frame.of_pixels().at(x, y, scale=scale, angle=rng.normal(0, 0.15)), rng)


def thing_in_front(canvas: Canvas, rng: np.random.Generator) -> None:
    """One of the things near the lower edge."""
    _place(canvas, rng, low=0.8)


def bars(canvas: Canvas, rng: np.random.Generator) -> None:
    """The bars of a gate or of a cage."""
    step = canvas.width * rng.uniform(0.14, 0.3)
    width = canvas.width * rng.uniform(0.008, 0.025)
    lean = rng.uniform(-0.15, 0.15) * canvas.width
    ink = _any(rng, (*WOODS, (60, 60, 64), (190, 192, 196)))
    for x in np.arange(rng.uniform(0, step), canvas.width, step):
        canvas.part(
            tube([(x - lean, -9), (x, canvas.height / 2), (x + lean, canvas.height + 9)], (width, width)),
            plain_cover(ink),
        )


def leaves(canvas: Canvas, rng: np.random.Generator) -> None:
    """A twig with leaves that reaches in from one corner."""
    w, h = canvas.width, canvas.height
    side, top = int(rng.integers(2)), int(rng.integers(2))
    frame = Frame.of_pixels().at(w * side, h * top, scale=min(w, h), stretch=(1 - 2 * side, 1 - 2 * top))
    end = (rng.uniform(0.25, 0.6), rng.uniform(0.15, 0.45))
    canvas.part(frame(tube([(-0.05, 0), (0.5 * end[0], 0.6 * end[1]), end], (0.012, 0.008))), plain_cover(_any(rng, WOODS)))
    green = _any(rng, GREENS)
    for share in np.linspace(0.1, 1, int(rng.integers(4, 9))):
        x, y = end[0] * share, end[1] * share
        angle = rng.uniform(0, 6.3)
        leaf = frame.at(x, y, scale=rng.uniform(0.07, 0.13), angle=angle)
        canvas.part(leaf(tube([(0, 0), (0.5, 0.1), (1, 0)], (0.05, 0.3, 0.02))), plain_cover(green * rng.uniform(0.75, 1.2)))


def hand(canvas: Canvas, rng: np.random.Generator) -> None:
    """A hand that reaches in from the side."""
    skin, side = _any(rng, SKINS), int(rng.integers(0, 2))
    y = rng.uniform(0.3, 1) * canvas.height
    size = 0.22 * min(canvas.width, canvas.height)
    frame = Frame.of_pixels().at(canvas.width * side, y, scale=size, angle=rng.uniform(-0.5, 0.5), stretch=(1 - 2 * side, 1))
    canvas.part(frame(tube([(-1.2, 0.2), (-0.2, 0.1)], (0.5, 0.45))), plain_cover(_any(rng, CLOTHS)))
    canvas.part(frame(tube([(-0.4, 0.1), (0.3, 0), (0.7, 0)], (0.3, 0.34, 0.3))), plain_cover(skin))
    for finger in (-0.25, -0.08, 0.09, 0.26):
        canvas.part(
            frame(tube([(0.6, finger), (1.0, finger * 1.3), (1.3, finger * 1.3 + 0.05)], (0.1, 0.09, 0.07))),
            plain_cover(skin),
        )


def grass_blades(canvas: Canvas, rng: np.random.Generator) -> None:
    """Long grass along the lower edge."""
    green = _any(rng, GREENS)
    for shade in (0.8, 1.0, 1.2):
        blades = []
        for _ in range(int(rng.integers(8, 26))):
            x, size = rng.uniform(0, canvas.width), rng.uniform(0.08, 0.3) * canvas.height
            bend = rng.uniform(-0.5, 0.5) * size
            blades.append(
                smooth(
                    [
                        (x, canvas.height),
                        (x + 0.2 * bend, canvas.height - 0.6 * size),
                        (x + bend, canvas.height - size),
                    ],
                    closed=False,
                )
            )
        canvas.lines(blades, green * shade, int(rng.integers(1, 4)))


def blur_spot(canvas: Canvas, rng: np.random.Generator) -> None:
    """Something close to the lens, far out of focus."""
    w, h = canvas.width, canvas.height
    x, y = rng.choice((0.0, 1.0)) * w, rng.uniform(0.2, 1) * h
    spot = ellipse(x, y, rng.uniform(0.15, 0.35) * w, rng.uniform(0.2, 0.5) * h, rng.uniform(0, 3))
    ink = _any(rng, CLOTHS) if rng.random() < 0.5 else mix(FAMILIES[rng.integers(len(FAMILIES))][1], (90, 90, 90), 0.2)
    canvas.glaze(spot, ink, 0.92, blur=rng.uniform(5, 14))


Occluder = Callable[[Canvas, np.random.Generator], None]
OCCLUDERS: tuple[Occluder, ...] = (thing_in_front, bars, leaves, hand, grass_blades, blur_spot)


def cover_partly(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw, in about half of the photos, something in front."""
    if rng.random() < 0.5:
        OCCLUDERS[rng.integers(len(OCCLUDERS))](canvas, rng)
