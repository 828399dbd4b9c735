"""Bodies of mammals in several poses: head and shoulders, sitting, standing, lying.

The unit is the head's radius. A pose draws the whole animal, head included, in a frame whose origin is given with it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.download.drawn.anatomy import Animal
from pipeline.download.drawn.canvas import Canvas, Frame, Points, ellipse, floats, smooth, tube
from pipeline.download.drawn.faces import Head
from pipeline.download.drawn.textures import mix

FAR = 0.72  # how bright the legs on the far side are
Spine = list[tuple[float, float]]


def _tail_spine(kind: str, length: float, rng: np.random.Generator) -> Spine:
    """A tail's line from its root at the origin, backwards along negative x."""
    bend = rng.uniform(-1, 1)
    shapes: dict[str, list[Spine]] = {
        "slender": [
            [(0, 0), (-0.28, 0.02), (-0.42, -0.22), (-0.36, -0.55), (-0.46 - 0.1 * bend, -0.82), (-0.62, -0.92)],
            [(0, 0), (-0.25, 0.12), (-0.42, 0.34), (-0.66, 0.4), (-0.85, 0.26 + 0.1 * bend)],
            [(0, 0), (-0.3, -0.12), (-0.55, 0.0), (-0.78, 0.02), (-0.9, -0.16)],
        ],
        "sturdy": [
            [(0, 0), (-0.35, -0.18), (-0.62, -0.5), (-0.72, -0.8)],
            [(0, 0), (-0.3, 0.2), (-0.45, 0.55 + 0.1 * bend), (-0.62, 0.8)],
            [(0, 0), (-0.4, -0.02), (-0.8, -0.14 + 0.1 * bend)],
        ],
        "curled": [[(0, 0), (-0.3, -0.25), (-0.22, -0.6), (0.08, -0.62), (0.16, -0.36)]],
        "short": [[(0, 0), (-0.12, -0.12), (-0.2, -0.22)]],
        "tuft": [[(0, 0), (-0.15, 0.1), (-0.18, 0.5), (-0.15 + 0.06 * bend, 0.9)]],
        "hair": [[(0, 0), (-0.2, -0.02), (-0.3, 0.4), (-0.26, 0.85)]],
        "pompom": [[(0, 0), (-0.04, 0), (-0.08, 0)]],
    }
    chosen = shapes[kind][rng.integers(len(shapes[kind]))]
    return [(x * length, y * length) for x, y in chosen]


TAIL_WIDTHS = {
    "slender": (1.0, 1.0, 0.9, 0.8, 0.6),
    "sturdy": (1.1, 1.2, 1.0, 0.4),
    "curled": (1.1, 1.2, 0.9, 0.4),
    "short": (1.0, 0.9, 0.6),
    "tuft": (0.5, 0.4, 0.4, 1.1, 0.3),
    "hair": (0.8, 1.4, 1.6, 0.4),
    "pompom": (2.4, 2.6, 2.4),
}


@dataclass(frozen=True)
class Body:
    """One animal on one canvas, ready to be posed in a frame."""

    canvas: Canvas
    frame: Frame
    animal: Animal
    rng: np.random.Generator

    def paint(self, outline: Points, role: str = "body", along: float = 0, shade: float = 1, relief: float = 1) -> None:
        """Paint one part in the animal's coat."""
        coat = self.animal.coat
        cover = coat.cover(self.frame, role, along=along)
        dimmed = cover if shade == 1 else (lambda area: cover(area) * np.float32(shade))
        hair = coat.hair * self.frame.scale
        self.canvas.part(self.frame(outline), dimmed, hair=hair, relief=relief, rng=self.rng)

    def torso(self, points: Spine, along: float) -> None:
        self.paint(smooth(points), "body", along)

    def tail(self, x: float, y: float, turn: float = 0, side: int = 1) -> None:
        """The tail, rooted at (x, y), leaving to negative x (positive where side is -1), turned clockwise."""
        a = self.animal
        spine = floats(_tail_spine(a.tail, a.tail_length, self.rng)) * floats([side, 1])
        cos, sin = math.cos(turn), math.sin(turn)
        spine = spine @ floats([[cos, sin], [-sin, cos]]) + floats([x, y])
        widths = [a.tail_width * width for width in TAIL_WIDTHS[a.tail]]
        self.paint(tube(spine, widths), "tail", along=-0.8)

    def leg(self, spine: Spine, shade: float = 1, paw: float = 1) -> None:
        """A leg along its spine, hip first, with a paw that points `paw` along x."""
        w = self.animal.leg_width
        self.paint(tube(spine, (1.5 * w, 1.05 * w, 0.85 * w)), "leg", along=math.pi / 2, shade=shade)
        x, y = spine[-1]
        self.paint(ellipse(x + 0.3 * w * paw, y, 1.25 * w, 0.75 * w), "paw", along=math.pi / 2, shade=shade)
        if shade == 1:
            toes = mix(self.animal.coat.tone("paw"), (20, 16, 16), 0.55)
            strokes = [
                self.frame([(x + (0.3 * paw + d) * w, y + 0.1 * w), (x + (0.3 * paw + d) * w, y + 0.6 * w)])
                for d in (-0.35, 0.35)
            ]
            self.canvas.lines(strokes, toes, max(1.0, 0.02 * self.frame.scale))

    def head(self, x: float, y: float, profile: bool) -> None:
        rng = self.rng
        roll = rng.normal(0, 0.16)
        yaw = float(np.clip(rng.normal(0, 0.45), -1, 1))
        head = Head(self.canvas, self.frame.at(x, y, angle=roll), self.animal, yaw, rng)
        if profile:
            head.profile()
        else:
            head.front()

    def shadow(self, x: float, y: float, width: float, height: float) -> None:
        blur = max(2.0, 0.25 * self.frame.scale)
        self.canvas.glaze(self.frame(ellipse(x, y, width, height)), (12, 10, 12), 0.5, blur=blur)


def portrait(body: Body) -> None:
    """Head and shoulders; the origin is the head."""
    a, rng = body.animal, body.rng
    lean, wide = rng.uniform(-0.5, 0.5), rng.uniform(1.1, 1.6)
    body.torso(
        [
            (-0.6, 0.3),
            (0.6, 0.3),
            (0.8 + 0.3 * lean, 1.0),
            (wide + lean, 2.2),
            (wide + lean, 4.2),
            (lean - wide, 4.2),
            (lean - wide, 2.2),
            (-0.8 + 0.3 * lean, 1.0),
        ],
        math.pi / 2,
    )
    chest = ellipse(0.5 * lean, 1.7, 0.5 * wide, 0.9)
    body.canvas.glaze(body.frame(chest), a.coat.tone("chest"), 0.85, blur=0.2 * body.frame.scale)
    body.head(0, 0, profile=rng.random() < 0.12)


def sitting(body: Body) -> None:
    """Sitting, seen from the front; the origin is the head, the ground about 3.8 below it."""
    a, rng = body.animal, body.rng
    sway, hip = rng.uniform(-0.5, 0.5), rng.uniform(1.05, 1.35)
    neck, ground = 0.4 * a.neck, 3.1 + 0.35 * a.leg_length
    body.shadow(sway, ground, 1.7, 0.3)
    side = 1 if rng.random() < 0.5 else -1
    body.tail(sway - side * 0.9, ground - 0.35, turn=side * rng.uniform(-0.2, 0.5), side=side)
    for foot in (-1, 1):
        body.paint(ellipse(sway + foot * 0.82 * hip, ground - 0.65, 0.55, 0.75, foot * -0.2), "leg", shade=0.9)
        body.paint(ellipse(sway + foot * 0.95 * hip, ground - 0.08, 0.42, 0.2), "paw", shade=0.92)
    shoulder = 0.72
    body.torso(
        [
            (-0.55, 0.2),
            (0.55, 0.2),
            (shoulder + 0.1 * sway, 1.0 + neck),
            (sway + 0.8 * hip, 2.1),
            (sway + hip, ground - 0.75),
            (sway, ground - 0.2),
            (sway - hip, ground - 0.75),
            (sway - 0.8 * hip, 2.1),
            (-shoulder + 0.1 * sway, 1.0 + neck),
        ],
        math.pi / 2,
    )
    chest = ellipse(0.3 * sway, 1.35 + neck, 0.45, 0.75)
    body.canvas.glaze(body.frame(chest), a.coat.tone("chest"), 0.85, blur=0.18 * body.frame.scale)
    for foot in (-1, 1):
        body.leg([(0.4 * sway + foot * 0.38, 1.8), (0.6 * sway + foot * 0.4, 2.6), (0.7 * sway + foot * 0.42, ground)], paw=0)
    body.head(0, 0, profile=rng.random() < 0.08)


def _torso_side(body: Body, length: float, depth: float) -> None:
    half = length / 2
    body.torso(
        [
            (-half, -0.62 * depth),
            (-0.5 * half, -0.78 * depth),
            (0.4 * half, -0.72 * depth),
            (half, -0.7 * depth),
            (half + 0.42, 0),
            (half + 0.12, 0.68 * depth),
            (0, 0.78 * depth),
            (-0.55 * half, 0.55 * depth),
            (-half, 0.6 * depth),
            (-half - 0.32, 0),
        ],
        0,
    )
    saddle = body.animal.coat.pattern == "saddle"
    if saddle:
        belly = ellipse(0, 0.75 * depth, 0.9 * half, 0.3 * depth)
        body.canvas.glaze(body.frame(belly), body.animal.coat.tone("leg"), 0.8, blur=0.2 * body.frame.scale)


def standing(body: Body) -> None:
    """Standing or walking, seen from the side, facing positive x; the origin is the middle of the torso."""
    a, rng = body.animal, body.rng
    half, depth = a.body_length / 2, a.body_depth
    ground = 0.7 * depth + a.leg_length
    stride = rng.uniform(-0.45, 0.45)
    body.shadow(0, ground, half + 0.9, 0.25)
    profile = bool(rng.random() < 0.35)
    for shade, step in ((FAR, -stride), (1.0, stride)):
        if shade == 1:
            body.tail(-half - 0.15, -0.45 * depth)
            _torso_side(body, a.body_length, depth)
        front, hind = half - 0.1, -half + 0.12
        body.leg([(front, 0.25 * depth), (front + 0.5 * step, ground - 0.5 * a.leg_length), (front + step, ground)], shade)
        knee, hock = (
            (hind + 0.1 - 0.2 * step, ground - 0.75 * a.leg_length),
            (hind - 0.28 - 0.6 * step, ground - 0.38 * a.leg_length),
        )
        body.leg([(hind, 0.15 * depth), knee, hock, (hind - 0.1 - step, ground)], shade)
    rise = 0.5 * a.neck
    neck = [(half - 0.1, -0.15 * depth), (half + 0.35, -0.55 * depth - 0.4 * rise), (half + 0.6, -0.8 * depth - rise)]
    body.paint(tube(neck, (0.8, 0.66, 0.62)), "body", along=0.8, relief=0.7)
    body.head(half + 0.75, -0.85 * depth - rise - 0.15, profile)


def lying(body: Body) -> None:
    """Lying on its belly, seen from the side, head towards positive x; the origin is the middle of the torso."""
    a, rng = body.animal, body.rng
    half, depth = a.body_length / 2, a.body_depth
    ground = 0.85 * depth
    body.shadow(0.2, ground, half + 1.2, 0.25)
    body.tail(-half - 0.1, ground - 0.3, turn=rng.uniform(-0.5, 0.3))
    reach = rng.uniform(0.7, 1.3)
    body.leg([(half, 0.5 * depth), (half + 0.5, ground - 0.22), (half + reach + 0.2, ground - 0.22)], FAR)
    _torso_side(body, a.body_length, depth)
    body.paint(ellipse(-half + 0.35, 0.3 * depth, 0.75, 0.6 * depth, 0.3), "body", along=0.5)
    body.paint(ellipse(-half + 0.85, ground - 0.1, 0.5, 0.2), "paw")
    body.leg([(half - 0.1, 0.5 * depth), (half + 0.3, ground - 0.12), (half + reach, ground - 0.1)])
    rise = a.neck * rng.uniform(0.0, 0.7)
    neck = [(half - 0.2, -0.1 * depth), (half + 0.3, -0.4 * depth), (half + 0.55, -0.55 * depth - rise)]
    body.paint(tube(neck, (0.8, 0.7, 0.62)), "body", along=0.8, relief=0.7)
    body.head(half + 0.7, -0.5 * depth - rise - 0.1, profile=rng.random() < 0.25)


Pose = Callable[[Body], None]
