"""Photos of cats, dogs and a few other things, drawn with Pillow, and files of them in the layout of the published set.

Cats and dogs share their scenes, coats, colours, poses, sizes and light; what differs is their anatomy.

Only integers, Pillow's raster operations and scalar double-precision + - * / and square roots are used: sines, float arrays and
matrix products depend on the processor. An angle is given as a `turn`, the tangent of its half: 0 is upright, 1 is 90 degrees.
"""

import io
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from math import sqrt
from multiprocessing import resource_tracker
from pathlib import Path
from random import Random
from typing import NamedTuple

from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter, ImageOps

from pipeline.cores import usable_cores
from pipeline.files import cannot_write
from pipeline.progress import progress

Points = Sequence[tuple[float, float]]
Colour = tuple[int, ...]  # red, green, blue
Cover = Image.Image | Colour


def palette(text: str) -> list[Colour]:
    """Colours of a text such as "#e8e0d4 #ceb28c"."""
    return [ImageColor.getrgb(colour) for colour in text.split()]


ROOMS = palette("#bcac96 #96a0aa #788c76 #a47860 #60687c #cec8be #5c7c4c")
BRIGHT = palette("#aa403a #3c5c8c #cea84a #4a7854 #845682 #dcd6cc")
DARK, PINK, WHITE, GREEN, TONGUE, LIT_TONGUE = palette("#221c1c #ce8a84 #f4f0ea #4e723a #be6068 #de8086")
COATS = palette("#e8e0d4 #ceb28c #b0804e #885834 #5c3e2c #787678 #464448 #2e2a2c")
IRISES = palette("#96a84a #c4a83e #6e96aa #b0702c #5c3e24"), palette("#3a2416 #5c3a1e #966832 #7894a8")
# Outlines as x y, x y, ...: of the right half where the name ends in |, with sharp corners where it ends in ^.
OUTLINES = """
disc: 1.08 .46, .46 1.08, -.46 1.08, -1.08 .46, -1.08 -.46, -.46 -1.08, .46 -1.08, 1.08 -.46
box^: -1 -.8, 1 -.8, 1 .8, -1 .8
post^: -.2 -3, .2 -3, .2 3, -.2 3
triangle^: -1 -.5, 1 -.5, 0 1
house^: -1 -.2, 1 -.2, 1 1, -1 1
roof^: -1.25 -.2, -.6 -1.1, .6 -1.1, 1.25 -.2
car: -1.7 0, -1 -.1, -.6 -.85, .5 -.85, 1 -.1, 1.9 0, 1.9 .6, -1.9 .6
window^: -.65 -.1, -.45 -.55, .35 -.55, .65 -.1
cat skull|: 0 -.82, .5 -.78, .9 -.4, 1 .05, .95 .43, .5 .66, 0 .74
dog skull|: 0 -.84, .5 -.8, .9 -.42, 1 .05, .8 .45, .5 .8, 0 .9
dog muzzle|: 0 -1.1, .5 -.9, .85 0, 1 .5, .6 .95, 0 .95
dog nose|: 0 -.8, .8 -.75, 1.15 0, .4 .7, 0 .8
pricked: -.48 .4, -.36 -.3, .04 -1, .12 -1, .36 -.3, .48 .4
inside^: -.26 .16, .06 -.68, .26 .16
button: -.46 .4, -.42 -.2, 0 -.58, .42 -.2, .46 .4
fold: -.42 -.2, 0 -.58, .42 -.2, .3 .4, .22 .44
hanging: -.3 -.2, 0 -.4, .36 .1, .42 .9, .1 1.3, -.2 .9
portrait|: 0 .2, .6 .2, 1 1.2, 1.3 3.2, 0 3.2
sitting|: 0 .3, .5 .3, .85 1.2, 1.25 2.4, 1.1 3.3, 0 3.3
standing: .1 .5, .9 .55, 2.4 .65, 3.6 .6, 4 1.2, 3.5 1.95, 2.2 1.8, .9 2, .2 1.4
lying: -.4 .4, .7 .2, 2.2 0, 3.2 .4, 3.5 1.3, 3 1.75, .2 1.75, -.7 1.3
"""
# Ranges of a cat and of a dog, lengths in head radii. Many overlap: one trait alone does not decide.
TRAITS = {
    "width": ((0.92, 1.1), (0.82, 1.02)),
    "height": ((0.9, 1.06), (0.92, 1.12)),
    "ear": ((0.7, 1.0), (0.65, 1.0)),
    "ear_x": ((0.52, 0.68), (0.5, 0.7)),
    "eye": ((0.18, 0.26), (0.14, 0.21)),
    "eye_x": ((0.36, 0.46), (0.32, 0.43)),
    "eye_y": ((-0.14, 0.02), (-0.22, -0.04)),
    "muzzle": ((0.32, 0.46), (0.38, 0.56)),
    "muzzle_y": ((0.36, 0.46), (0.42, 0.58)),
    "nose": ((0.1, 0.15), (0.15, 0.24)),
    "snout": ((0.08, 0.24), (0.5, 1.0)),
    "leg": ((0.19, 0.28), (0.21, 0.32)),
    "tail": ((2.0, 3.0), (1.0, 2.0)),
    "tail_width": ((0.12, 0.22), (0.16, 0.28)),
}
EARS = {"pricked": (0.86, 0.36), "button": (0.14, 0.22), "hanging": (0.0, 0.42)}  # how often, of cats and of dogs
# A pose's weight, where its head is, where its shadow lies, and its parts from back to front: what `Pet` draws and where.
POSES = {
    "face": (3, 0, 0, 0, "fur portrait, soft .55 1 0 2"),
    "sit": (2.6, 0, -1.2, 2.2, "tail .9 3, fur sitting, soft .45 .6 0 1.4, fur disc .5 .55 -.95 2.85, fur disc .5 .55 .95 2.85,"
            "soft .42 .18 -1.05 3.3, soft .42 .18 1.05 3.3, leg -.38 3.35, leg .38 3.35"),
    "stand": (2.4, -1.6, -0.7, 2.3, "tail 3.7 1, leg .9 2.9, leg 3.1 2.9, fur standing, leg .4 3, leg 3.5 3"),
    "lie": (2, -1.2, -0.2, 1.6, "tail 3.1 1.4, fur lying, fur disc .75 .65 2.7 1.1, foreleg -1.2 1.6, foreleg -.9 1.75"),
}  # fmt: skip
# Other things, of the same parts: tone, outline, its size and its place.
THINGS = {
    "house": "0 house, 1 roof, 2 box .2 .37 0 .7, glass box .2 .25 -.55 .2, glass box .2 .25 .55 .2",
    "car": "0 car, glass window, dark disc .36 .36 -1.1 .6, dark disc .36 .36 1.1 .6,"
           "1 disc .16 .16 -1.1 .6, 1 disc .16 .16 1.1 .6",
    "flower": "leaf post .4 1 0 2, 0 disc .5 .5 0 -.7, 0 disc .5 .5 .7 -.2, 0 disc .5 .5 .4 .6, 0 disc .5 .5 -.4 .6,"
              "0 disc .5 .5 -.7 -.2, 1 disc .4 .4",
    "pattern": "",
}  # fmt: skip
OTHER_KINDS = tuple(THINGS)  # no classes: to test the detection of what is neither a cat nor a dog


def smooth(points: Points) -> Points:
    """A closed curve along a polygon: its corners are cut off twice (Chaikin 1974)."""
    for _ in range(2):
        pairs = zip(points, [*points[1:], points[0]], strict=True)
        points = [((a * x + b * u) / 4, (a * y + b * v) / 4) for (x, y), (u, v) in pairs for a, b in ((3, 1), (1, 3))]
    return points


def _read_outlines(text: str) -> dict[str, Points]:
    outlines = {}
    for name, numbers in (line.split(":") for line in text.strip().splitlines()):
        points = [(float(x), float(y)) for x, y in (pair.split() for pair in numbers.split(","))]
        if name.endswith("|"):
            points += [(-x, y) for x, y in reversed(points) if x]
        outlines[name.rstrip("|^")] = points if name.endswith("^") else smooth(points)
    return outlines


SHAPES = _read_outlines(OUTLINES)


def bounds(outline: Points) -> tuple[float, float, float, float]:
    """The left, top, right and bottom of an outline."""
    xs, ys = zip(*outline, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def shape(name: str, wide: float = 1, high: float = 1, x: float = 0, y: float = 0) -> Points:
    """One of `OUTLINES`, stretched and moved."""
    return [(x + wide * u, y + high * v) for u, v in SHAPES[name]]


def tube(path: Points, widths: Sequence[float]) -> Points:
    """The outline of a limb: a smooth stroke along `path`, with a half width at each of its points."""
    left, right = [], []
    for index, ((x, y), width) in enumerate(zip(path, widths, strict=True)):
        (x0, y0), (x1, y1) = path[max(index - 1, 0)], path[min(index + 1, len(path) - 1)]
        dx, dy = x1 - x0, y1 - y0
        width /= sqrt(dx * dx + dy * dy)
        left.append((x - dy * width, y + dx * width))
        right.append((x + dy * width, y - dx * width))
    return smooth([*left, *reversed(right)])


def shade(colour: Colour, factor: float) -> Colour:
    """A lighter or darker colour."""
    return tuple(min(255, int(value * factor)) for value in colour)


def mix(first: Colour, second: Colour, fraction: float) -> Colour:
    """`fraction` of the second colour in the first."""
    return tuple(int(a + (b - a) * fraction) for a, b in zip(first, second, strict=True))


def two_tone(grey: Image.Image, colour: Colour, contrast: float) -> Image.Image:
    """A grey image in a darker and a lighter tone of a colour."""
    return ImageOps.colorize(grey, shade(colour, 1 - contrast), shade(colour, 1 + contrast))


def darker(image: Image.Image) -> Image.Image:
    """An image in the shade."""
    return image.point(lambda value: value * 7 // 10)


class Frame(NamedTuple):
    """Coordinates of a part of the drawing: its origin and unit in pixels, its turn, and whether it is mirrored (-1)."""

    x: float
    y: float
    scale: float
    turn: float = 0.0
    flip: int = 1

    def __call__(self, points: Points) -> Points:
        """Points of the frame as pixels."""
        norm = 1 + self.turn * self.turn
        cos, sin = self.scale * (2 - norm) / norm, self.scale * 2 * self.turn / norm
        return [(self.x + self.flip * (cos * x - sin * y), self.y + sin * x + cos * y) for x, y in points]

    def at(self, x: float, y: float, scale: float = 1.0, turn: float = 0.0) -> "Frame":
        """A frame within this one."""
        [(x, y)] = self([(x, y)])
        return Frame(x, y, self.scale * scale, (self.turn + turn) / (1 - self.turn * turn), self.flip)


class Canvas:
    """A photo in the making, and the random numbers that decide it."""

    def __init__(self, random: Random, photo: Image.Image) -> None:
        self.random, self.photo = random, photo
        self.size = self.width, self.height = photo.size
        self.light = random.choice((-1, 1)) * random.uniform(0.05, 0.14)

    def part(self, outline: Points, cover: Cover, lit: Cover | None = None) -> None:
        """Paint what lies inside an outline with `cover`, and softly towards the light with `lit`."""
        left, top, right, bottom = bounds(outline)
        box = max(0, int(left) - 1), max(0, int(top) - 1), min(self.width, int(right) + 2), min(self.height, int(bottom) + 2)
        if box[0] >= box[2] or box[1] >= box[3]:
            return
        mask = self._mask(outline, box)
        self._paste(cover, box, mask)
        wide, high = right - left, bottom - top
        if lit is not None and min(wide, high) > 12:
            x, y = left + wide * (0.5 + self.light), top + high * 0.42
            inner = self._mask([(x + (u - x) * 0.8, y + (v - y) * 0.76) for u, v in outline], box, 1)
            soft = inner.filter(ImageFilter.BoxBlur(max(1, int(min(wide, high) * 0.14))))
            self._paste(lit, box, ImageChops.multiply(soft, mask))

    def _mask(self, outline: Points, box: tuple[int, int, int, int], zoom: int = 2) -> Image.Image:
        left, top, right, bottom = box
        mask = Image.new("L", ((right - left) * zoom, (bottom - top) * zoom))
        ImageDraw.Draw(mask).polygon([((x - left) * zoom, (y - top) * zoom) for x, y in outline], fill=255)
        return mask.reduce(zoom)

    def _paste(self, cover: Cover, box: tuple[int, int, int, int], mask: Image.Image) -> None:
        self.photo.paste(cover.crop(box) if isinstance(cover, Image.Image) else cover, box, mask)

    def hairy(self, outline: Points, hair: float) -> Points:
        """An outline with tufts of hair up to a length in pixels."""
        if hair < 0.5:
            return outline
        left, top, right, bottom = bounds(outline)
        x, y, spiky = (left + right) / 2, (top + bottom) / 2, []
        for u, v in outline:
            out = 1 + hair * self.random.random() / (1 + sqrt((u - x) * (u - x) + (v - y) * (v - y)))
            spiky += [(u, v), (x + (u - x) * out, y + (v - y) * out + hair * 0.4)]
        return spiky

    def noise(self, columns: int, rows: int) -> Image.Image:
        """Random grey values on a grid, smoothly enlarged."""
        return self._grain(columns, rows).resize(self.size, Image.Resampling.BICUBIC)

    def _grain(self, columns: int, rows: int) -> Image.Image:
        return Image.frombytes("L", (columns, rows), self.random.randbytes(columns * rows))

    def thing_colour(self) -> Colour:
        """The colour of a thing that is not the subject."""
        return mix(self.random.choice(BRIGHT), self.random.choice(ROOMS), self.random.uniform(0.2, 0.8))

    def scene(self) -> Image.Image:
        """A room or a meadow out of focus: wall, floor and things on both."""
        random, width, height = self.random, self.width, self.height
        wall, floor = random.sample(ROOMS, 2)
        horizon, tilt = height * random.uniform(0.3, 0.6), random.uniform(-6, 6)
        self.photo.paste(two_tone(self.noise(5, 4), wall, 0.2))
        ground = [(0, horizon - tilt), (width, horizon + tilt), (width, height), (0, height)]
        self.part(ground, two_tone(self.noise(30, 12), floor, 0.2))
        for _ in range(random.randint(2, 8)):
            frame = Frame(random.uniform(0, width), random.uniform(0, height), random.uniform(0.05, 0.2) * height)
            outline, colour = frame(shape(random.choice(("box", "disc", "disc", "post")))), self.thing_colour()
            self.part(self.hairy(outline, random.choice((0, 0.3)) * frame.scale), shade(colour, 0.8), colour)
        return self.photo.filter(ImageFilter.BoxBlur(random.randint(0, 5) / 2))

    def foreground(self) -> None:
        """Now and then something between the camera and its subject: bars, grass, leaves or a cushion."""
        random, width, height = self.random, self.width, self.height
        kind = random.choices(("nothing", "bars", "grass", "leaves", "cushion"), (10, 2, 3, 3, 2))[0]
        colour = self.thing_colour()
        green, x = mix(GREEN, colour, 0.3), random.uniform(0, width)
        if kind == "bars":
            gap, wide, lean = random.randint(30, 55), random.uniform(2, 5), random.uniform(-60, 60)
            for foot in range(random.randint(-gap, 0), width + 60, gap):
                self.part(tube([(foot + lean, 0), (foot, height)], (wide, wide)), shade(colour, 0.7), colour)
        elif kind == "grass":
            for _ in range(random.randint(15, 45)):
                root, high, bend = random.uniform(0, width), random.uniform(0.1, 0.42) * height, random.uniform(-25, 25)
                path = [(root, height + 3), (root + bend / 4, height - high / 2), (root + bend, height - high)]
                self.part(tube(path, (2.5, 2, 0.3)), shade(green, random.uniform(0.6, 1.2)))
        elif kind == "leaves":
            for _ in range(random.randint(2, 5)):
                tip, high = random.uniform(0.2, 0.8) * width, random.uniform(0.25, 0.7) * height
                path = [(x, height), ((x + tip) / 2 + 12, height - high / 2), (tip, height - high)]
                self.part(tube(path, (2, 12, 0.5)), shade(green, random.uniform(0.5, 0.9)), green)
        elif kind == "cushion":
            frame = Frame(x, height * random.uniform(1.0, 1.15), width * random.uniform(0.3, 0.6))
            self.part(frame(shape("disc", 1, 0.5)), shade(colour, 0.75), colour)

    def finish(self) -> Image.Image:
        """The photo as a camera would have taken it: uneven light, tint, contrast, blur and noise."""
        random = self.random
        light = self.noise(3, 3).point(lambda value: 200 + value * 55 // 255)
        photo = ImageChops.multiply(self.photo, light.convert("RGB"))
        contrast, level = random.uniform(0.6, 1.25), random.uniform(93, 148)
        levels = [level + random.uniform(-12, 12) for _ in range(3)]
        photo = photo.point([max(0, min(255, int(mean + (value - 118) * contrast))) for mean in levels for value in range(256)])
        photo = photo.filter(ImageFilter.BoxBlur(max(0, random.randint(-10, 10)) / 5))
        strength = random.randint(2, 26)
        grain = self._grain(*self.size).point(lambda value: 128 + (value - 128) * strength // 256)
        return ImageChops.add(photo, grain.convert("RGB"), offset=-128)


class Pet:
    """One cat or dog: its traits, its coat, and how to draw its parts."""

    def __init__(self, kind: str, canvas: Canvas) -> None:
        random, species = canvas.random, ("cat", "dog").index(kind)
        self.cat, self.canvas, self.random = kind == "cat", canvas, random
        self.traits = {name: random.uniform(*ranges[species]) for name, ranges in TRAITS.items()}
        self.ears = random.choices(list(EARS), [weights[species] for weights in EARS.values()])[0]
        self.iris = random.choice(IRISES[species])
        self.nose = mix(DARK, PINK, random.choice((0.1, 0.1, 0.8)))
        self.eyes_closed = random.random() < 0.14
        self.slit_pupils = self.cat and random.random() < 0.7
        self.mouth_open = random.random() < (0.06 if self.cat else 0.4)
        self.hair = random.choice((0.0, 0.04, 0.08, 0.16))
        self.colour = mix(random.choice(COATS), random.choice(COATS), random.uniform(0, 0.4))
        coat = self._coat()
        self.coat = darker(coat), coat
        pale = mix(self.colour, WHITE, random.choice((0.0, 0.25, 0.8)))
        self.pale = shade(pale, 0.78), shade(pale, 1.08)

    def _coat(self) -> Image.Image:
        """Fur all over the photo, to be seen through the outlines of the parts: streaks, often with stripes or patches."""
        random, (width, height) = self.random, self.canvas.size
        streaks = self.canvas.noise(width // 4, height // 14)
        coat, pattern = two_tone(streaks, self.colour, 0.15), random.choices(("plain", "stripes", "patches"), (4, 3, 3))[0]
        if pattern == "plain":
            return coat
        marks = Image.new("L", (width, height))
        pen, strength, gap = ImageDraw.Draw(marks), random.randint(90, 235), random.uniform(0.045, 0.09) * width
        if pattern == "stripes":
            for x in range(0, int(width + gap), int(gap)):
                path = [(x + random.uniform(-0.25, 0.25) * gap, height * step / 5) for step in range(6)]
                pen.polygon(list(tube(path, [gap * random.uniform(0.08, 0.28) for _ in path])), fill=strength)
        else:
            for _ in range(random.randint(3, 9)):
                frame = Frame(random.uniform(0, width), random.uniform(0, height), random.uniform(0.06, 0.2) * width)
                pen.polygon(list(frame(shape("disc", 1, random.uniform(0.6, 1.4)))), fill=strength)
        coat.paste(two_tone(streaks, random.choice(COATS), 0.15), (0, 0), marks.filter(ImageFilter.BoxBlur(2)))
        return coat

    def fur(self, frame: Frame, outline: Points) -> None:
        """A part with the coat's colours and hair."""
        self.canvas.part(self.canvas.hairy(frame(outline), self.hair * frame.scale), *self.coat)

    def soft(self, frame: Frame, wide: float, high: float, x: float, y: float) -> None:
        """A round part with short, often paler hair: muzzle, chest and paws."""
        self.canvas.part(frame(shape("disc", wide, high, x, y)), *self.pale)

    def line(self, frame: Frame, *path: tuple[float, float], colour: Colour = DARK) -> None:
        """A thin line that ends in a point."""
        self.canvas.part(frame(tube(path, [0.025] * (len(path) - 1) + [0.008])), colour)

    def _ear(self, frame: Frame, side: int) -> None:
        if self.ears == "hanging":
            self.fur(frame.at(side * 0.25, 0.22), shape("hanging", side))
            return
        self.fur(frame, shape(self.ears, side))
        if self.ears == "button":
            self.fur(frame, shape("fold", side))
        else:
            self.canvas.part(frame(shape("inside", side)), shade(mix(PINK, self.colour, 0.4), 0.8))

    def _eye(self, eye: Frame) -> None:
        part, high = self.canvas.part, 0.8 if self.cat else 0.92
        if self.eyes_closed:
            part(eye(tube([(-1, 0), (0, 0.4), (1, 0)], (0.05, 0.16, 0.05))), DARK)
            return
        part(eye(shape("disc", 1.15, high * 1.15)), DARK)
        part(eye(shape("disc", 0.95, high * 0.95)), shade(self.iris, 0.75), self.iris)
        part(eye(shape("disc", 0.2, high * 0.85) if self.slit_pupils else shape("disc", 0.55, 0.55)), DARK)
        part(eye(shape("disc", 0.2, 0.2, -0.3, -0.35)), WHITE)

    def _whiskers(self, frame: Frame, side: int) -> None:
        colour = WHITE if sum(self.colour) < 420 else (70, 64, 60)
        for rise in (-0.2, 0, 0.2):
            x, y = side * self.random.uniform(1.0, 1.35), rise + self.random.uniform(-0.06, 0.1)
            self.line(frame, (side * 0.3, 0), (x * 0.6, y / 2 - 0.05), (x, y), colour=colour)

    def front(self, frame: Frame) -> None:
        """The head seen from the front, turned a little to either side."""
        t, part, yaw = self.traits, self.canvas.part, self.random.uniform(-1, 1)
        ears = []
        for side in (-1, 1):
            x, y = side * t["ear_x"] * t["width"] - 0.1 * yaw, -0.65 * t["height"]
            ears.append((side, frame.at(x, y, t["ear"], side * self.random.uniform(0.06, 0.22))))
        skull = shape("cat skull" if self.cat else "dog skull", t["width"], t["height"])
        if self.ears == "hanging":
            self.fur(frame, skull)
        for side, ear in ears:
            self._ear(ear, side)
        if self.ears != "hanging":
            self.fur(frame, skull)
        for side in (-1, 1):
            self._eye(frame.at(0.2 * yaw + side * t["eye_x"], t["eye_y"], t["eye"], -0.06 * side))
        wide, muzzle, nose = t["muzzle"], frame.at(0.3 * yaw, t["muzzle_y"]), t["nose"]
        if self.cat:
            self.soft(muzzle, 0.5 * wide, 0.2, 0, 0.2)
            for side in (-1, 1):
                self.soft(muzzle, 0.6 * wide, 0.2, side * 0.45 * wide, 0.06)
            if self.mouth_open:
                part(muzzle(shape("disc", 0.14, 0.14, 0, 0.25)), DARK, PINK)
            part(muzzle(shape("triangle", nose, nose, 0, -0.1)), self.nose)
            for side in (-1, 1):
                self.line(muzzle, (0, 0), (side * 0.02, 0.12), (side * 0.2, 0.16))
                self._whiskers(muzzle.at(0, 0.08), side)
            return
        if self.mouth_open:
            part(muzzle(shape("disc", 0.62 * wide, 0.3, 0, 0.95 * wide)), DARK)
            part(muzzle(shape("disc", 0.36 * wide, 0.3, 0, 0.95 * wide + 0.14)), TONGUE, LIT_TONGUE)
        part(muzzle(shape("dog muzzle", wide, wide)), *self.pale)
        part(muzzle(shape("dog nose", nose, nose, 0, -0.25 * wide)), self.nose, mix(self.nose, WHITE, 0.2))
        for side in (-1, 1):
            self.line(muzzle, (0, 0), (0, 0.6 * wide), (side * 0.7 * wide, 0.7 * wide))

    def profile(self, frame: Frame) -> None:
        """The head seen from the side, looking to the left."""
        t, part, snout = self.traits, self.canvas.part, self.traits["snout"]
        tip, ear = -0.78 - snout, frame.at(0.3, -0.6, t["ear"], 0.1)
        if self.ears != "hanging":
            self._ear(ear.at(-0.34, 0.06, 0.9), 1)
            self._ear(ear, 1)
        if self.mouth_open and not self.cat:
            part(frame(tube([(-0.5, 0.5), (tip + 0.3, 0.75), (tip + 0.2, 1.0)], (0.15, 0.14, 0.1))), TONGUE, LIT_TONGUE)
        brow = [(0.95, 0.2), (0.9, -0.45), (0.35, -0.86), (-0.3, -0.8), (-0.68, -0.4)]
        nose = [(-0.75 - 0.5 * snout, -0.06), (tip, 0.02), (tip - 0.06, 0.3), (tip + 0.06, 0.52)]
        self.fur(frame, smooth(brow + nose + [(-0.55, 0.62), (-0.2, 0.84), (0.5, 0.9)]))
        self.soft(frame, 0.24 + 0.4 * snout, 0.22, -0.62 - 0.6 * snout, 0.34)
        part(frame(shape("disc", t["nose"], t["nose"] * 0.8, tip + 0.05, 0.08)), self.nose)
        self.line(frame, (tip, 0.38), (-0.7 - 0.3 * snout, 0.42), (-0.5, 0.34))
        self._eye(frame.at(-0.42, -0.2, t["eye"] * 0.9))
        if self.ears == "hanging":
            self._ear(ear, 1)
        if self.cat:
            self._whiskers(frame.at(-0.6, 0.35), -1)

    def tail(self, frame: Frame, x: float, y: float) -> None:
        """From (x, y) to the right and up, or along the ground; dogs also curl theirs."""
        random, length, wide = self.random, self.traits["tail"], self.traits["tail_width"]
        up, bend = random.choice((-1, -1, 0.3)) * length, random.uniform(0.2, 0.7) * length
        end = random.uniform(-0.3, 0.3) * length
        path = [(x, y), (x + bend * 0.7, y + up * 0.1), (x + bend, y + up * 0.5), (x + bend + end, y + up * 0.8)]
        if not self.cat and random.random() < 0.3:
            path = [(x, y), (x + 0.5, y - 0.6), (x + 0.2, y - 1.1), (x - 0.3, y - 0.9)]
        self.fur(frame, tube(path, (wide, wide * 1.1, wide, wide * (0.8 if self.cat else 0.4))))

    def leg(self, frame: Frame, x: float, y: float) -> None:
        """A leg from the belly down to (x, y), and its paw."""
        wide, x = self.traits["leg"], x + self.random.uniform(-0.15, 0.15)
        self.fur(frame, tube([(x, 1.6), (x + 0.1, (1.6 + y) / 2), (x, y)], (wide * 1.5, wide * 1.05, wide)))
        self.soft(frame, wide * 1.35, wide * 0.8, x - 0.08, y)

    def foreleg(self, frame: Frame, x: float, y: float) -> None:
        """A leg that lies on the ground, its paw at (x, y)."""
        wide = self.traits["leg"]
        self.fur(frame, tube([(0.5, y - 0.2), (x + 0.6, y), (x, y)], (wide * 1.3, wide, wide)))
        self.soft(frame, 0.28, 0.19, x - 0.1, y)


def draw_pet(kind: str, canvas: Canvas) -> None:
    """A cat or a dog, near or far, in one of the poses; its head is never out of sight."""
    random, pet, side = canvas.random, Pet(kind, canvas), min(canvas.size)
    pose = random.choices(list(POSES), [weight for weight, *_ in POSES.values()])[0]
    scale = side * (random.uniform(0.18, 0.3) if pose == "face" else random.uniform(0.075, 0.16))
    x, y = canvas.width / 2 + side * random.uniform(-0.12, 0.12), canvas.height * random.uniform(0.45, 0.6)
    frame = Frame(x, y, scale, random.uniform(-0.08, 0.08), random.choice((-1, 1)))
    _, x, y, shadow, parts = POSES[pose]
    if shadow:
        canvas.part(frame(shape("disc", 2.6, 0.35, 0.2, shadow)), darker(canvas.photo))
    frame, tilt = frame.at(x, y), random.uniform(-0.2, 0.2)
    for verb, *values in (part.split() for part in parts.split(",")):
        if verb == "fur":
            pet.fur(frame, shape(values[0], *map(float, values[1:])))
        else:
            getattr(pet, verb)(frame, *map(float, values))
    if random.random() < 0.3:
        pet.profile(frame.at(0.3, 0, turn=tilt * 0.7))
    else:
        pet.front(frame.at(0, 0, turn=tilt))


def draw_thing(kind: str, canvas: Canvas) -> None:
    """A house, a car, a flower, or a pattern that means nothing."""
    random, side = canvas.random, min(canvas.size)
    x, y = canvas.width * random.uniform(0.4, 0.6), canvas.height * random.uniform(0.4, 0.6)
    frame = Frame(x, y, side * random.uniform(0.18, 0.28))
    colours = random.sample(BRIGHT, 3)
    tones = {str(number): (shade(colour, 0.8), colour) for number, colour in enumerate(colours)}
    tones |= {"glass": (DARK, ROOMS[1]), "dark": (DARK, DARK), "leaf": (DARK, GREEN)}
    for tone, name, *values in (part.split() for part in THINGS[kind].split(",") if part):
        canvas.part(frame(shape(name, *map(float, values))), *tones[tone])
    size = side / random.randint(3, 7)
    for number in range(100 if kind == "pattern" else 0):
        frame = Frame(number % 10 * size, number // 10 * size, size, random.uniform(-1, 1))
        canvas.part(frame(shape(random.choice(("disc", "triangle", "box")), 0.4, 0.3)), random.choice(colours))


def draw_photo(kind: str, random: Random) -> Image.Image:
    """Draw one photo of a cat, a dog or one of `OTHER_KINDS`: RGB, with sides of 180 to 364 pixels."""
    short = random.randint(90, 130)
    long = short + random.randint(0, 2 * short // 5)
    size = (long, short) if random.random() < 0.6 else (short, long)
    scene = Canvas(random, Image.new("RGB", size)).scene()  # in half of the photo's size: it is out of focus anyway
    canvas = Canvas(random, scene.resize((2 * scene.width, 2 * scene.height), Image.Resampling.BILINEAR))
    (draw_thing if kind in THINGS else draw_pet)(kind, canvas)
    canvas.foreground()
    return canvas.finish()


FOLDERS = ("Cat", "Dog")
QUALITIES = (80, 95)  # of the JPEG files
WORKERS = usable_cores()
# Each class has one photo of each of these among its indices below FIRST_CLEAN_INDEX, so that small sets have them too.
DEFECTS = ("empty", "truncated", "duplicate", "cmyk", "grey", "turned 90", "turned 180")
FIRST_DEFECT_INDEX, FIRST_CLEAN_INDEX = 4, 40
EXIF_ORIENTATION = 274
TURNS = {"turned 90": (Image.Transpose.ROTATE_90, 6), "turned 180": (Image.Transpose.ROTATE_180, 3)}
THUMBS_DB = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(504)  # the header of the file that Windows keeps thumbnails in


def draw_petimages(destination: Path, *, num_photos: int, seed: int, workers: int = WORKERS) -> None:
    """Draw cats and dogs as `destination`/PetImages/{Cat,Dog}/N.jpg, with a few defective files among them.

    A file depends on the seed, its class and its index alone. Files that are there already are overwritten. Half of the
    `num_photos` files are cats. `workers` is the number of processes that draw. A PipelineError says that a file cannot be
    written.
    """
    tasks = [(folder, index) for index in range((num_photos + 1) // 2) for folder in FOLDERS][:num_photos]
    root = destination / "PetImages"
    try:
        for folder in FOLDERS:
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / "Thumbs.db").write_bytes(THUMBS_DB)
        with progress("drawing photos", total=num_photos) as advance, _pool(workers) as pool:
            for _ in pool.map(partial(_write, root, seed), tasks, chunksize=8):
                advance(1)
                if signal.sigpending():  # Ctrl-C, which is raised where the pool ends
                    break
    except OSError as error:
        raise cannot_write(destination, error) from error


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes. Ctrl-C waits until they are gone: in the midst of the executor it could leave a lock held for ever."""
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    resource_tracker.ensure_running()  # first, because starting it unblocks the signal again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # workers inherit that
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _write(root: Path, seed: int, task: tuple[str, int]) -> None:
    folder, index = task
    (root / folder / f"{index}.jpg").write_bytes(photo_file(folder, index, seed))


def photo_file(folder: str, index: int, seed: int) -> bytes:
    """The content of PetImages/`folder`/`index`.jpg for a seed."""
    taken = defects(folder, seed)
    defect = taken.get(index, "")
    if defect == "empty":
        return b""
    if defect == "duplicate":
        return photo_file(folder, max(earlier for earlier in range(index) if earlier not in taken), seed)
    random = random_of(folder, index, seed)
    photo = draw_photo(folder.lower(), random)
    exif = Image.Exif()
    if defect in TURNS:  # the rows are turned, and the EXIF orientation says so
        turn, exif[EXIF_ORIENTATION] = TURNS[defect]
        photo = photo.transpose(turn)
    mode = {"cmyk": "CMYK", "grey": "L"}.get(defect, "RGB")
    file = io.BytesIO()
    photo.convert(mode).save(file, "JPEG", quality=random.randint(*QUALITIES), exif=exif)
    content = file.getvalue()
    return content[: len(content) // 3] if defect == "truncated" else content


def random_of(folder: str, index: int | str, seed: int) -> Random:
    """The random numbers that decide one photo."""
    return Random(f"{seed} {folder} {index}")


def defects(folder: str, seed: int) -> dict[int, str]:
    """Which indices of a class are defective, and how."""
    indices = random_of(folder, "defects", seed).sample(range(FIRST_DEFECT_INDEX, FIRST_CLEAN_INDEX), len(DEFECTS))
    return dict(zip(indices, DEFECTS, strict=True))
