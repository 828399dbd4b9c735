"""What is around an animal or a thing: rooms, gardens and other backgrounds, and what lies about in them."""

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.download.drawn.canvas import Canvas, Frame, Image, ellipse, floats, plain_cover, smooth
from pipeline.download.drawn.textures import colour, cut, draw_offset, grain, mix, pick, smooth_noise, streaks

WALLS = (
    (214, 204, 188),
    (178, 190, 196),
    (150, 164, 150),
    (196, 168, 150),
    (120, 126, 138),
    (226, 222, 214),
    (92, 84, 82),
    (170, 146, 124),
)
WOODS = ((168, 122, 82), (120, 84, 56), (196, 160, 118), (88, 64, 48), (150, 132, 112))
CLOTHS = (
    (150, 70, 66),
    (72, 92, 122),
    (96, 116, 88),
    (188, 160, 110),
    (124, 96, 128),
    (206, 196, 184),
    (70, 68, 74),
    (178, 124, 84),
)
GREENS = ((86, 118, 58), (116, 140, 72), (64, 92, 56), (140, 150, 92), (104, 112, 70))
SKIES = ((150, 186, 216), (196, 208, 216), (224, 206, 190), (120, 148, 182), (170, 176, 184))


def _any(rng: np.random.Generator, colours: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    return colour(colours[rng.integers(len(colours))]) * rng.uniform(0.7, 1.12)


def _rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return floats([(left, top), (right, top), (right, bottom), (left, bottom)])


def _mottle(
    canvas: Canvas, top: int, bottom: int, strength: float, rng: np.random.Generator, streak: int | None = None
) -> None:
    """Roughen the rows between top and bottom, with fine grain or with streaks along one of the directions of fur."""
    top, bottom = max(0, top), min(canvas.height, bottom)
    if bottom - top < 2:
        return
    field = cut(grain() if streak is None else streaks()[streak], draw_offset(rng), (0, top, canvas.width, bottom))
    clouds = smooth_noise(rng, bottom - top, canvas.width, 7)
    _brighten(canvas.image[top:bottom], 1 + strength * (field + 0.9 * clouds))


def _brighten(rows: Image, gain: NDArray[Any]) -> None:
    """Multiply, in place and with saturation, by a gain of shape (height, width)."""
    rows[:] = cv2.multiply(rows, cv2.merge([gain] * 3), dtype=cv2.CV_8U)


def room(canvas: Canvas, rng: np.random.Generator) -> None:
    """A wall with its pattern, a skirting board and a floor."""
    h, w = canvas.height, canvas.width
    level = h * rng.uniform(0.45, 0.85)
    tilt = rng.uniform(-0.08, 0.08) * w
    wall = _any(rng, WALLS)
    canvas.image[:] = wall
    style = pick(rng, {"plain": 3, "stripes": 2, "dots": 1, "brick": 2, "panels": 1, "window": 2})
    WALL_STYLES[style](canvas, level, wall, rng)
    _mottle(canvas, 0, int(level), rng.uniform(0.01, 0.04), rng)
    floor = _any(rng, WOODS if rng.random() < 0.6 else CLOTHS)
    canvas.fill(floats([(0, level + tilt), (w, level - tilt), (w, h), (0, h)]), floor)
    if rng.random() < 0.6:
        centre, ends = rng.uniform(0, w), np.linspace(-1.5 * w, 2.5 * w, int(rng.integers(14, 30)))
        canvas.lines([floats([(centre + (x - centre) * 0.45, level), (x, h)]) for x in ends], floor * 0.72)
        _mottle(canvas, int(level), h, 0.04, rng, streak=0)
    else:
        _mottle(canvas, int(level), h, rng.uniform(0.04, 0.14), rng)
    if rng.random() < 0.6:
        board = floats([(0, level + tilt - 0.04 * h), (w, level - tilt - 0.04 * h), (w, level - tilt), (0, level + tilt)])
        canvas.fill(board, mix(wall, (245, 243, 238), 0.6))


def _no_pattern(canvas: Canvas, level: float, wall: np.ndarray, rng: np.random.Generator) -> None:
    """A wall in one colour."""


def _wall_stripes(canvas: Canvas, level: float, wall: np.ndarray, rng: np.random.Generator) -> None:
    width = canvas.width * rng.uniform(0.03, 0.1)
    ink = mix(wall, _any(rng, CLOTHS), rng.uniform(0.15, 0.5))
    for x in np.arange(rng.uniform(-width, 0), canvas.width, 2 * width):
        canvas.fill(_rectangle(x, 0, x + width, level + 20), ink)


def _wall_dots(canvas: Canvas, level: float, wall: np.ndarray, rng: np.random.Generator) -> None:
    step, radius = canvas.width * rng.uniform(0.06, 0.14), canvas.width * rng.uniform(0.01, 0.03)
    ink = mix(wall, _any(rng, CLOTHS), rng.uniform(0.2, 0.7))
    for row, y in enumerate(np.arange(0, level, step)):
        for x in np.arange(step / 2 * (row % 2), canvas.width, step):
            canvas.fill(ellipse(x, y, radius, radius), ink)


def _wall_bricks(canvas: Canvas, level: float, wall: np.ndarray, rng: np.random.Generator) -> None:
    brick = mix(_any(rng, ((162, 88, 68), (190, 180, 170), (140, 110, 96))), wall, 0.2)
    canvas.image[:] = mix(brick, (225, 218, 208), 0.5)
    tall, long = canvas.height * rng.uniform(0.05, 0.09), canvas.width * rng.uniform(0.12, 0.2)
    for row, y in enumerate(np.arange(0, level + tall, tall)):
        for x in np.arange(-long * (row % 2) / 2, canvas.width, long):
            canvas.fill(_rectangle(x + 1.5, y + 1.5, x + long - 1.5, y + tall - 1.5), brick * rng.uniform(0.82, 1.12))


def _wall_panels(canvas: Canvas, level: float, wall: np.ndarray, rng: np.random.Generator) -> None:
    width = canvas.width * rng.uniform(0.08, 0.2)
    for x in np.arange(rng.uniform(-width, 0), canvas.width, width):
        canvas.fill(_rectangle(x, 0, x + width, level + 20), wall * rng.uniform(0.9, 1.05))
        canvas.line(floats([(x, 0), (x, level + 20)]), wall * 0.6)


def _wall_window(canvas: Canvas, level: float, wall: np.ndarray, rng: np.random.Generator) -> None:
    w, h = canvas.width, canvas.height
    left, top = rng.uniform(-0.1, 0.6) * w, rng.uniform(-0.1, 0.15) * h
    right, bottom = left + rng.uniform(0.3, 0.6) * w, min(level - 5, top + rng.uniform(0.3, 0.6) * h)
    canvas.fill(_rectangle(left - 7, top - 7, right + 7, bottom + 7), mix(wall, (250, 248, 244), 0.7))
    canvas.fill(_rectangle(left, top, right, bottom), _any(rng, SKIES) * 1.1)
    canvas.fill(_rectangle(left, (top + 2 * bottom) / 3, right, bottom), _any(rng, GREENS))
    middle = (left + right) / 2
    canvas.fill(_rectangle(middle - 3, top, middle + 3, bottom), mix(wall, (250, 248, 244), 0.7))


WALL_STYLES: dict[str, Callable[[Canvas, float, np.ndarray, np.random.Generator], None]] = {
    "plain": _no_pattern,
    "stripes": _wall_stripes,
    "dots": _wall_dots,
    "brick": _wall_bricks,
    "panels": _wall_panels,
    "window": _wall_window,
}


def sofa(canvas: Canvas, rng: np.random.Generator) -> None:
    """The back, the seat and the cushions of a sofa, close up."""
    h, w = canvas.height, canvas.width
    canvas.image[:] = _any(rng, WALLS)
    cloth = _any(rng, CLOTHS)
    top, seat = h * rng.uniform(0.05, 0.3), h * rng.uniform(0.55, 0.8)
    canvas.part(_rounded(-20, top, w + 20, h + 30), plain_cover(cloth), relief=0.4)
    for left in np.arange(rng.uniform(-0.4, 0) * w, w, w * rng.uniform(0.4, 0.7)):
        canvas.part(_rounded(left + 2, top + 0.05 * h, left + 0.55 * w, seat + 10), plain_cover(cloth * 0.97), relief=0.7)
    canvas.part(_rounded(-30, seat, w + 30, h + 60), plain_cover(cloth * 1.06), relief=0.7)
    _mottle(canvas, int(top), h, rng.uniform(0.03, 0.08), rng, streak=int(rng.integers(8)))


def _rounded(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    inset = 0.12 * min(right - left, bottom - top)
    return smooth(
        [
            (left + inset, top),
            (right - inset, top),
            (right, top + inset),
            (right, bottom - inset),
            (right - inset, bottom),
            (left + inset, bottom),
            (left, bottom - inset),
            (left, top + inset),
        ]
    )


def blanket(canvas: Canvas, rng: np.random.Generator) -> None:
    """A rug or a blanket with stripes or checks, seen from above."""
    canvas.image[:] = cloth = _any(rng, CLOTHS)
    h, w = canvas.height, canvas.width
    frame = Frame.of_pixels().at(w / 2, h / 2, scale=max(h, w), angle=rng.uniform(-0.6, 0.6))
    ink, wide = mix(cloth, _any(rng, CLOTHS), rng.uniform(0.3, 1)), rng.uniform(0.02, 0.07)
    checks = rng.random() < 0.5
    for x in np.arange(-0.8, 0.8, wide * rng.uniform(1.8, 4)):
        canvas.glaze(frame(_rectangle(x, -1, x + wide, 1)), ink, 0.6)
        if checks:
            canvas.glaze(frame(_rectangle(-1, x, 1, x + wide)), ink, 0.6)
    _mottle(canvas, 0, h, rng.uniform(0.05, 0.12), rng, streak=int(rng.integers(8)))


def garden(canvas: Canvas, rng: np.random.Generator) -> None:
    """Sky, bushes or a fence, and grass, sand, snow or a path."""
    h, w = canvas.height, canvas.width
    level = h * rng.uniform(0.25, 0.7)
    high, low = _any(rng, SKIES), _any(rng, SKIES)
    share = np.linspace(0, 1, h, dtype=np.float32)[:, None, None]
    canvas.image[:] = np.clip(high * (1 - share) + low * share, 0, 255)
    for _ in range(rng.integers(0, 5)):
        bush = ellipse(rng.uniform(0, w), level, rng.uniform(0.1, 0.35) * w, rng.uniform(0.1, 0.3) * h)
        canvas.part(bush, plain_cover(_any(rng, GREENS)), hair=7, relief=0.7, rng=rng)
    if rng.random() < 0.35:
        _fence(canvas, level, rng)
    ground = _any(rng, pick_ground(rng))
    canvas.fill(_rectangle(0, level, w, h), ground)
    _mottle(canvas, int(level), h, rng.uniform(0.04, 0.14), rng, streak=int(rng.integers(3, 6)))
    blades = []
    for _ in range(int(rng.integers(0, 130))):
        x, y = rng.uniform(0, w), rng.uniform(level, h)
        size = (0.02 + 0.07 * (y - level) / h) * h
        blades.append(floats([(x, y), (x + rng.uniform(-0.5, 0.5) * size, y - size)]))
    if blades:
        canvas.lines(blades, ground * rng.uniform(0.65, 1.25))


def pick_ground(rng: np.random.Generator) -> tuple[tuple[int, int, int], ...]:
    """The colours of grass, or of sand, snow and paving."""
    return GREENS if rng.random() < 0.6 else ((214, 192, 150), (232, 236, 240), (140, 136, 132), (150, 110, 80))


def _fence(canvas: Canvas, level: float, rng: np.random.Generator) -> None:
    wood = _any(rng, WOODS)
    width, top = canvas.width * rng.uniform(0.04, 0.1), level - canvas.height * rng.uniform(0.15, 0.4)
    canvas.fill(_rectangle(0, top + 12, canvas.width, top + 20), wood * 0.8)
    for x in np.arange(rng.uniform(-width, 0), canvas.width, width * rng.uniform(1.1, 1.7)):
        shape = floats([(x, level + 5), (x, top + 5), (x + width / 2, top), (x + width, top + 5), (x + width, level + 5)])
        canvas.fill(shape, wood * rng.uniform(0.88, 1.1))


def bokeh(canvas: Canvas, rng: np.random.Generator) -> None:
    """Lights far out of focus."""
    h, w = canvas.height, canvas.width
    palette = (WALLS, GREENS, WOODS, SKIES)[rng.integers(4)]
    clouds = smooth_noise(rng, h, w, 3)[:, :, None]
    canvas.image[:] = np.clip(mix(_any(rng, palette), (40, 40, 44), rng.uniform(0, 0.6)) * (1 + 0.25 * clouds), 0, 255)
    for _ in range(int(rng.integers(5, 16))):
        radius = rng.uniform(0.03, 0.12) * w
        disc = ellipse(rng.uniform(0, w), rng.uniform(0, h), radius, radius)
        canvas.glaze(
            disc,
            mix(_any(rng, palette), (255, 244, 220), rng.uniform(0, 0.7)),
            rng.uniform(0.25, 0.7),
            blur=rng.uniform(0, 3),
        )


def shelf(canvas: Canvas, rng: np.random.Generator) -> None:
    """Shelves of books."""
    h, w = canvas.height, canvas.width
    wood = _any(rng, WOODS)
    canvas.image[:] = np.clip(wood * 0.6, 0, 255)
    tall = h * rng.uniform(0.25, 0.45)
    for bottom in np.arange(tall, h + tall, tall):
        x = rng.uniform(-10, 10)
        while x < w:
            wide = rng.uniform(0.03, 0.08) * w
            canvas.fill(_rectangle(x, bottom - tall * rng.uniform(0.6, 0.88), x + wide - 1, bottom), _any(rng, CLOTHS))
            x += wide
        canvas.fill(_rectangle(0, bottom, w, bottom + 0.03 * h), wood)


BACKGROUNDS: dict[Callable[[Canvas, np.random.Generator], None], float] = {
    room: 4,
    sofa: 2,
    blanket: 1.5,
    garden: 4,
    bokeh: 2,
    shelf: 1,
}


def draw_background(canvas: Canvas, rng: np.random.Generator) -> None:
    """Fill the canvas with one of the backgrounds, more or less in focus."""
    chosen = rng.uniform(0, sum(BACKGROUNDS.values()))
    for background, weight in BACKGROUNDS.items():
        chosen -= weight
        if chosen <= 0:
            background(canvas, rng)
            break


def defocus(canvas: Canvas, rng: np.random.Generator) -> None:
    """Put what has been drawn so far out of focus, more often a little than much."""
    blur = rng.choice((0, 0.8, 1.6, 3.0))
    if blur:
        canvas.image[:] = cv2.GaussianBlur(canvas.image, (0, 0), blur)


def draw_photo_finish(canvas: Canvas, rng: np.random.Generator) -> None:
    """Light, colour cast, contrast and sensor noise, over the whole picture."""
    h, w = canvas.height, canvas.width
    grid = floats([[rng.uniform(0.78, 1.12) for _ in range(3)] for _ in range(3)])
    light = floats(cv2.resize(grid, (w, h), interpolation=cv2.INTER_LINEAR))
    light += rng.uniform(0.005, 0.035) * cut(grain(), draw_offset(rng), (0, 0, w, h))
    gain = rng.uniform(0.72, 1.15) * rng.uniform(0.93, 1.07, 3)
    contrast, grey = rng.uniform(0.75, 1.15), rng.uniform(100, 140)
    _brighten(canvas.image, light)
    levels = np.arange(256)[:, None] * (gain * contrast) + grey * (1 - contrast)
    canvas.image[:] = cv2.LUT(canvas.image, np.clip(levels, 0, 255).astype(np.uint8)[None])
    if rng.random() < 0.15:
        canvas.image[:] = cv2.GaussianBlur(canvas.image, (0, 0), rng.uniform(0.6, 1.1))


def light_direction(rng: np.random.Generator) -> tuple[float, float]:
    """A unit vector towards the lamp, somewhere above."""
    angle = rng.uniform(-2.7, -0.45)
    return math.cos(angle), math.sin(angle)
