"""Photos of mammals: the pose, the frame of the photo, and the order in which everything is drawn."""

import math
from collections.abc import Callable

import numpy as np

from pipeline.download.drawn.anatomy import Species, draw_animal
from pipeline.download.drawn.bodies import Body, Pose, lying, portrait, sitting, standing
from pipeline.download.drawn.canvas import Canvas, Frame, Image
from pipeline.download.drawn.clutter import cover_partly, scatter
from pipeline.download.drawn.scenes import defocus, draw_background, draw_photo_finish, light_direction
from pipeline.download.drawn.textures import draw_coat, pick

SHORTEST_SIDE = 180  # of a photo, in pixels
Subject = Callable[[Canvas, Frame, np.random.Generator], None]
POSES: dict[str, Pose] = {
    "portrait": portrait,
    "close": portrait,
    "sitting": sitting,
    "standing": standing,
    "lying": lying,
}
POSE_WEIGHTS = {"portrait": 3.0, "close": 1.4, "sitting": 2.4, "standing": 2.0, "lying": 1.8}
# The middle and the size, in head radii, of what each pose should show of the animal.
EXTENTS = {
    "portrait": ((0, 0.4), (3.4, 3.6)),
    "close": ((0, 0.1), (2.2, 2.2)),
    "sitting": ((0, 1.4), (3.8, 5.8)),
    "standing": ((0.75, 0.1), (7.0, 5.2)),
    "lying": ((0.8, -0.3), (6.6, 3.8)),
}


def draw_size(rng: np.random.Generator) -> tuple[int, int]:
    """The height and the width of a photo, of a varied shape."""
    long, ratio = rng.uniform(230, 360), math.exp(rng.normal(0.18, 0.18))
    short = max(long / max(ratio, 1), SHORTEST_SIDE)
    return (int(short), int(long)) if rng.random() < 0.6 else (int(long), int(short))


def compose(rng: np.random.Generator, subject: Subject, middle: tuple[float, float], extent: tuple[float, float]) -> Image:
    """A photo of a subject in some scene, something in front of it perhaps.

    Args:
        rng: of everything random.
        subject: draws what the photo shows in a frame.
        middle: the point of that frame that comes near the middle of the photo.
        extent: the width and height, in units of that frame, that about fill the photo.
    """
    height, width = draw_size(rng)
    canvas = Canvas(height, width, light_direction(rng))
    draw_background(canvas, rng)
    scatter(canvas, rng)
    defocus(canvas, rng)
    scale = min(width / extent[0], height / extent[1]) * rng.uniform(0.8, 1.15)
    x, y = width * rng.uniform(0.42, 0.58), height * rng.uniform(0.42, 0.6)
    mirror = 1 if rng.random() < 0.5 else -1
    frame = Frame.of_pixels().at(x, y, scale=scale, angle=rng.normal(0, 0.12), stretch=(mirror, 1))
    subject(canvas, frame.at(-middle[0], -middle[1]), rng)
    cover_partly(canvas, rng)
    draw_photo_finish(canvas, rng)
    return canvas.image


def draw_mammal(species: Species, rng: np.random.Generator) -> Image:
    """One photo of an animal of the species, (height, width, 3) in RGB."""
    pose = pick(rng, POSE_WEIGHTS)

    def subject(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
        coat = draw_coat(rng, canvas.height, canvas.width, frame.scale)
        POSES[pose](Body(canvas, frame, draw_animal(species, coat, rng), rng))

    return compose(rng, subject, *EXTENTS[pose])
