"""The canvas that photos are drawn on: frames of reference, smooth outlines, and anti-aliased, shaded shapes.

Points are float arrays of shape (n, 2) in the units of a `Frame`, x to the right and y downwards; colours are RGB in
0..255.

    canvas = Canvas(240, 320, light=(-0.6, -0.8))
    frame = Frame.of_canvas(canvas).at(160, 120, scale=50)
    canvas.part(frame(ellipse(0, 0, 1, 0.8)), plain_cover((198, 122, 62)))
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

# Intel's own routines inside OpenCV round otherwise on each kind of processor; OpenCV's draw the same on all recent ones.
cv2.ipp.setUseIPP(False)

Points = NDArray[np.float32]
Image = NDArray[Any]  # of uint8; OpenCV's own annotations do not say
Colour = Sequence[float] | NDArray[Any]
Area = tuple[int, int, int, int]  # left, top, right, bottom in pixels
Cover = Callable[[Area], NDArray[np.float32]]  # the colours, (height, width, 3), of an area of the canvas

SUBPIXEL_BITS = 4  # OpenCV takes fixed-point coordinates: sixteenths of a pixel
RELIEF_CELLS = 22  # shading is worked out on a small grid and enlarged: smooth, and cheap at any size


def floats(values: ArrayLike) -> NDArray[np.float32]:
    """An array in the precision that everything here calculates with."""
    return np.asarray(values, np.float32)


@dataclass(frozen=True)
class Frame:
    """An affine frame of reference; calling it turns points in its units into pixels."""

    matrix: NDArray[np.float32]

    @classmethod
    def of_pixels(cls) -> "Frame":
        """The canvas's own frame: one unit is one pixel."""
        return cls(np.eye(2, 3, dtype=np.float32))

    def __call__(self, points: ArrayLike) -> Points:
        array = np.asarray(points, dtype=np.float32)
        return array @ self.matrix[:, :2].T + self.matrix[:, 2]

    def at(self, x: float, y: float, *, scale: float = 1, angle: float = 0, stretch: tuple[float, float] = (1, 1)) -> "Frame":
        """A frame within this one: its origin at (x, y), turned clockwise by `angle` radians; stretch < 0 mirrors."""
        cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
        inner = np.array([[cos * stretch[0], -sin * stretch[1]], [sin * stretch[0], cos * stretch[1]]], np.float32)
        return Frame(np.column_stack([self.matrix[:, :2] @ inner, self([x, y])]))

    @property
    def scale(self) -> float:
        """Pixels for one unit."""
        return math.sqrt(abs(float(np.linalg.det(self.matrix[:, :2]))))


def _spline_weights(samples: int) -> NDArray[np.float32]:
    t = np.linspace(0, 1, samples, endpoint=False, dtype=np.float32)
    weights = [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]
    return floats(np.stack(weights, axis=1) / 2)


SPLINE = _spline_weights(6)
_TURN = np.linspace(0, 2 * np.pi, 28, endpoint=False, dtype=np.float32)
CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)


def smooth(points: ArrayLike, closed: bool = True) -> Points:
    """A Catmull-Rom curve through the points, sampled six times between neighbours."""
    array = np.asarray(points, dtype=np.float32)
    if closed:
        padded = np.concatenate([array[-1:], array, array[:2]])
    else:
        padded = np.concatenate([2 * array[:1] - array[1:2], array, 2 * array[-1:] - array[-2:-1]])
    neighbours = np.stack([padded[i : len(padded) - 3 + i] for i in range(4)], axis=1)
    curve = np.einsum("sk,nkd->nsd", SPLINE, neighbours).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, array[-1:]])


def ellipse(x: float, y: float, width: float, height: float, angle: float = 0) -> Points:
    """An ellipse with the given half axes."""
    cos, sin = math.cos(angle), math.sin(angle)
    axes = floats([[width * cos, width * sin], [-height * sin, height * cos]])
    return CIRCLE @ axes + floats([x, y])


def tube(spine: ArrayLike, half_widths: Sequence[float]) -> Points:
    """The outline of a tube along a smooth spine; its half width runs through `half_widths` from start to end."""
    line = smooth(spine, closed=False)
    along = np.linspace(0, len(half_widths) - 1, len(line))
    width = np.interp(along, np.arange(len(half_widths)), half_widths).astype(np.float32)[:, None]
    tangent = np.gradient(line, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-6
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    cap = np.linspace(np.pi / 2, -np.pi / 2, 7, dtype=np.float32)[1:-1, None]
    tip = line[-1] + width[-1] * (np.cos(cap) * tangent[-1] + np.sin(cap) * normal[-1])
    start = line[0] - width[0] * (np.cos(cap) * tangent[0] + np.sin(cap) * normal[0])
    return np.concatenate([line + normal * width, tip, (line - normal * width)[::-1], start]).astype(np.float32)


def mirrored(right_half: ArrayLike) -> Points:
    """The whole outline of a symmetrical shape from its right half, top to bottom."""
    half = np.asarray(right_half, dtype=np.float32)
    left = half[::-1] * floats([-1, 1])
    return np.concatenate([half, left[np.abs(left[:, 0]) > 1e-6]])


def fixed_point(points: Points) -> NDArray[np.int32]:
    """Points as OpenCV takes them."""
    return np.round(points * (1 << SUBPIXEL_BITS)).astype(np.int32)


def plain_cover(colour: Colour) -> Cover:
    """One colour everywhere."""
    return lambda area: np.full((area[3] - area[1], area[2] - area[0], 3), colour, np.float32)


def hairs(outline: Points, length: float, rng: np.random.Generator) -> Points:
    """Short strokes, (n, 2, 2), that leave the outline outwards."""
    steps = np.roll(outline, -1, axis=0) - outline
    distances = np.linalg.norm(steps, axis=1)
    number = int(min(distances.sum() / 2.2, 260))
    picked = np.searchsorted(np.cumsum(distances), rng.uniform(0, distances.sum(), number)).clip(0, len(outline) - 1)
    tangent = steps[picked] / (distances[picked, None] + 1e-6)
    turns = float(np.sum(outline[:, 0] * np.roll(outline[:, 1], -1) - np.roll(outline[:, 0], -1) * outline[:, 1]))
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1) * math.copysign(1, turns)
    start = outline[picked] + steps[picked] * rng.uniform(0, 1, (number, 1))
    lean = tangent * rng.uniform(-0.2, 0.9, (number, 1)) + floats([0, 0.35])
    end = start + (normal + lean) * length * rng.uniform(0.25, 1, (number, 1))
    return np.stack([start - normal * 1.5, end], axis=1).astype(np.float32)


class Canvas:
    """An RGB picture, `image` of shape (height, width, 3); the unit vector `light` points towards the lamp."""

    def __init__(self, height: int, width: int, light: tuple[float, float]) -> None:
        self.image: Image = np.zeros((height, width, 3), np.uint8)
        self.light = light

    @property
    def height(self) -> int:
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        return int(self.image.shape[1])

    def fill(self, outline: Points, colour: Colour) -> None:
        """Fill an outline, in pixels, with one opaque colour."""
        cv2.fillPoly(self.image, [fixed_point(outline)], _scalar(colour), cv2.LINE_AA, SUBPIXEL_BITS)

    def line(self, points: Points, colour: Colour, width: float = 1) -> None:
        """Draw an open line through the points, in pixels."""
        self.lines([points], colour, width)

    def lines(self, many: Sequence[Points] | Points, colour: Colour, width: float = 1) -> None:
        """Draw several open lines at once."""
        curves = [fixed_point(points) for points in many]
        cv2.polylines(self.image, curves, False, _scalar(colour), max(1, round(width)), cv2.LINE_AA, SUBPIXEL_BITS)

    def glaze(self, outline: Points, colour: Colour, strength: float, blur: float = 0) -> None:
        """Lay a translucent shape (0 < strength <= 1) over the picture, its edge blurred over `blur` pixels."""
        area = self._area(outline, margin=2 + 2 * blur)
        if area is None:
            return
        mask = self._mask(outline, area)
        if blur >= 1:
            mask = _blurred(mask, blur)
        self._blend(area, mask, np.asarray(colour, np.float32), strength)

    def part(
        self,
        outline: Points,
        cover: Cover,
        *,
        relief: float = 1,
        hair: float = 0,
        rng: np.random.Generator | None = None,
    ) -> None:
        """Paint a rounded part of a body: a cover, lit from one side and darker at its edge.

        Args:
            outline: in pixels.
            cover: gives the colours of an area.
            relief: how strongly the light models the part; 0 for a flat one.
            hair: length, in pixels, of the hairs at the outline.
            rng: where the hairs come from; needed with `hair`.
        """
        area = self._area(outline, margin=3 + hair)
        if area is None:
            return
        mask = self._mask(outline, area)
        if hair >= 1.5 and rng is not None:
            strokes = fixed_point(hairs(outline, hair, rng) - floats(area[:2]))
            cv2.polylines(mask, list(strokes), False, 215, 1, cv2.LINE_AA, SUBPIXEL_BITS)
        colours = cover(area)
        if relief:
            colours = floats(cv2.multiply(colours, cv2.merge([self._relief(mask, relief)] * 3)))
        self._blend(area, mask, colours, 1)

    def _area(self, outline: Points, margin: float) -> Area | None:
        """The part of the canvas that an outline reaches; None where it reaches none."""
        left, top = np.floor(outline.min(axis=0) - margin).astype(int)
        right, bottom = np.ceil(outline.max(axis=0) + margin).astype(int) + 1
        area = (max(int(left), 0), max(int(top), 0), min(int(right), self.width), min(int(bottom), self.height))
        return area if area[2] - area[0] > 1 and area[3] - area[1] > 1 else None

    @staticmethod
    def _mask(outline: Points, area: Area) -> Image:
        mask = np.zeros((area[3] - area[1], area[2] - area[0]), np.uint8)
        cv2.fillPoly(mask, [fixed_point(outline - floats(area[:2]))], 255, cv2.LINE_AA, SUBPIXEL_BITS)
        return mask

    def _relief(self, mask: Image, strength: float) -> NDArray[np.float32]:
        """Light and shade of a cushion with this mask, around 1."""
        height, width = mask.shape
        step = max(height, width) / RELIEF_CELLS
        cells = (max(3, round(width / step)), max(3, round(height / step)))
        small = cv2.resize(mask, cells, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        soft = cv2.GaussianBlur(cv2.copyMakeBorder(small, 3, 3, 3, 3, cv2.BORDER_REPLICATE), (0, 0), 1.9)
        right, down = 1.2 * self.light[0], 1.2 * self.light[1]
        lit = cv2.filter2D(soft, -1, floats([[0, down, 0], [right, 0, -right], [0, -down, 0]]))
        shade = np.clip(1.02 + strength * (lit - 0.36 * (1 - soft)), 0.5, 1.5)[3:-3, 3:-3]
        return floats(cv2.resize(shade, (width, height), interpolation=cv2.INTER_LINEAR))

    def _blend(self, area: Area, mask: Image, colours: NDArray[np.float32], strength: float) -> None:
        region = self.image[area[1] : area[3], area[0] : area[2]]
        weight = mask * np.float32(strength / 255)
        if colours.ndim == 1:
            colours = np.full((*mask.shape, 3), colours, np.float32)
        mixed = cv2.blendLinear(colours, region.astype(np.float32), weight, 1 - weight)
        region[:] = cv2.convertScaleAbs(mixed)  # rounds, and saturates at 255


def _scalar(colour: Colour) -> tuple[float, float, float]:
    return float(colour[0]), float(colour[1]), float(colour[2])


def _blurred(mask: Image, blur: float) -> Image:
    """A Gaussian blur; wide ones on a smaller grid, where they look the same and cost less."""
    if blur < 4:
        return cv2.GaussianBlur(mask, (0, 0), blur)
    height, width = mask.shape
    step = blur / 2
    small = cv2.resize(mask, (max(2, int(width / step)), max(2, int(height / step))), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), 2), (width, height), interpolation=cv2.INTER_LINEAR)
