"""Photos of cats, dogs and a few other things, drawn with Pillow: the same pixels on every processor.

    photo = draw_photo("cat", Random("any key"))  # RGB, sides of 180 to 360 pixels

Cats and dogs share their scenes, coats, colours, poses, sizes and light; what differs is their anatomy. Only integers, Pillow's
raster operations and scalar double-precision + - * / and square roots are used: sines, float arrays and matrix products depend
on the processor. An angle is therefore given as a `turn`, the tangent of its half: 0 is upright, 1 a quarter turn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from pipeline.errors import PipelineError

Points = Sequence[tuple[float, float]]
Colour = tuple[int, int, int]
Cover = Image.Image | Colour
Traits = dict[str, float]

COATS: tuple[Colour, ...] = (
    (232, 224, 212), (206, 178, 140), (176, 128, 78), (136, 88, 52), (92, 62, 44), (120, 118, 120), (70, 68, 72), (46, 42, 44)
)  # fmt: skip
ROOMS: tuple[Colour, ...] = (
    (188, 172, 150), (150, 160, 170), (120, 140, 118), (164, 120, 96), (96, 104, 124), (206, 200, 190), (88, 78, 70), (92, 124, 76)
)  # fmt: skip
THINGS: tuple[Colour, ...] = ((170, 64, 58), (60, 92, 140), (206, 168, 74), (74, 120, 84), (132, 86, 130), (220, 214, 204))
DARK, PINK, WHITE = (34, 28, 28), (206, 138, 132), (244, 240, 234)

# Lengths in head radii. Where the ranges of cats and dogs overlap, one trait alone does not decide.
PROPORTIONS: dict[str, dict[str, tuple[float, float]]] = {
    "cat": {
        "width": (0.92, 1.1), "height": (0.74, 0.88), "chin": (0.64, 0.84), "ear": (0.7, 1.0), "ear_x": (0.5, 0.66),
        "eye": (0.18, 0.26), "eye_x": (0.36, 0.46), "eye_y": (-0.14, 0.02), "muzzle": (0.32, 0.46), "muzzle_y": (0.36, 0.46),
        "nose": (0.1, 0.15), "snout": (0.08, 0.24), "leg": (0.19, 0.28), "tail": (2.0, 3.0), "tail_width": (0.12, 0.22),
    },
    "dog": {
        "width": (0.82, 1.02), "height": (0.76, 0.94), "chin": (0.78, 1.02), "ear": (0.65, 1.0), "ear_x": (0.48, 0.68),
        "eye": (0.14, 0.21), "eye_x": (0.32, 0.43), "eye_y": (-0.22, -0.04), "muzzle": (0.38, 0.56), "muzzle_y": (0.42, 0.58),
        "nose": (0.15, 0.24), "snout": (0.5, 1.0), "leg": (0.21, 0.32), "tail": (1.0, 2.0), "tail_width": (0.16, 0.28),
    },
}  # fmt: skip
EARS = {"cat": {"pricked": 0.86, "button": 0.14}, "dog": {"pricked": 0.36, "button": 0.22, "hanging": 0.42}}
IRISES: dict[str, tuple[Colour, ...]] = {
    "cat": ((150, 168, 74), (196, 168, 62), (110, 150, 170), (176, 112, 44), (92, 62, 36)),
    "dog": ((58, 36, 22), (92, 58, 30), (150, 104, 50), (120, 148, 168)),
}
POSES = {"face": 0.3, "sit": 0.26, "stand": 0.24, "lie": 0.2}


@dataclass(frozen=True)
class Frame:
    """Coordinates of a part of the drawing: its origin and unit in pixels, its turn, and whether it is mirrored (-1)."""

    x: float
    y: float
    scale: float
    turn: float = 0.0
    flip: int = 1

    def __call__(self, points: Points) -> list[tuple[float, float]]:
        """Points of the frame as pixels."""
        norm = 1 + self.turn * self.turn
        cos, sin = self.scale * (2 - norm) / norm, self.scale * 2 * self.turn / norm
        return [(self.x + self.flip * (cos * x - sin * y), self.y + sin * x + cos * y) for x, y in points]

    def at(self, x: float, y: float, scale: float = 1.0, turn: float = 0.0) -> "Frame":
        """A frame within this one."""
        [(x, y)] = self([(x, y)])
        return Frame(x, y, self.scale * scale, (self.turn + turn) / (1 - self.turn * turn), self.flip)


def smooth(points: Points, rounds: int = 2) -> list[tuple[float, float]]:
    """A closed curve along a polygon: its corners cut off again and again (Chaikin 1974)."""
    for _ in range(rounds):
        pairs = list(zip(points, [*points[1:], points[0]], strict=True))
        points = [
            ((a * x + b * u) / 4, (a * y + b * v) / 4) for (x, y), (u, v) in pairs for a, b in ((3, 1), (1, 3))
        ]  # fmt: skip
    return list(points)


def symmetric(half: Points, shift: float = 0.0) -> list[tuple[float, float]]:
    """A smooth outline from its right half, from top to bottom; `shift` moves the middle sideways."""
    return smooth([*((x + shift, y) for x, y in half), *((shift - x, y) for x, y in reversed(half) if x)])


def ellipse(x: float, y: float, a: float, b: float) -> list[tuple[float, float]]:
    """A closed curve that looks like an ellipse with the semi-axes a and b."""
    corners = ((1.08, 0.46), (0.46, 1.08), (-0.46, 1.08), (-1.08, 0.46), (-1.08, -0.46), (-0.46, -1.08), (0.46, -1.08), (1.08, -0.46))
    return smooth([(x + a * u, y + b * v) for u, v in corners])


def tube(path: Points, widths: Sequence[float]) -> list[tuple[float, float]]:
    """The outline of a limb: a smooth stroke along `path`, with a half width at each of its points."""
    left, right = [], []
    for index, ((x, y), width) in enumerate(zip(path, widths, strict=True)):
        (x0, y0), (x1, y1) = path[max(index - 1, 0)], path[min(index + 1, len(path) - 1)]
        dx, dy = x1 - x0, y1 - y0
        length = (dx * dx + dy * dy) ** 0.5
        left.append((x - dy / length * width, y + dx / length * width))
        right.append((x + dy / length * width, y - dx / length * width))
    return smooth([*left, *reversed(right)])


def shade(colour: Colour, factor: float) -> Colour:
    """A lighter or darker colour."""
    red, green, blue = (min(255, int(value * factor)) for value in colour)
    return red, green, blue


def mix(first: Colour, second: Colour, part: float) -> Colour:
    """`part` of the second colour in the first."""
    red, green, blue = (int(a + (b - a) * part) for a, b in zip(first, second, strict=True))
    return red, green, blue


def blend(grey: Image.Image, dark: Colour, light: Colour) -> Image.Image:
    """A grey image in two colours: `dark` where it is black, `light` where it is white."""
    image = Image.new("RGB", grey.size, dark)
    image.paste(light, (0, 0), grey)
    return image


class Canvas:
    """A photo in the making, and the random numbers that decide it."""

    def __init__(self, random: Random) -> None:
        self.random = random
        short = random.randint(180, 260)
        long = short + random.randint(0, 2 * short // 5)
        self.size = (long, short) if random.random() < 0.6 else (short, long)
        self.width, self.height = self.size
        self.light = random.choice((-1, 1)) * random.uniform(0.05, 0.14)
        self.photo = Image.new("RGB", self.size)

    def part(self, outline: Points, cover: Cover, lit: Cover | None = None, hair: float = 0.0) -> None:
        """Paint what lies inside an outline with `cover`, and softly towards the light with `lit`."""
        if hair:
            outline = self._hairy(outline, hair)
        xs, ys = [x for x, _ in outline], [y for _, y in outline]
        left, top = max(0, int(min(xs)) - 1), max(0, int(min(ys)) - 1)
        right, bottom = min(self.width, int(max(xs)) + 2), min(self.height, int(max(ys)) + 2)
        if left >= right or top >= bottom:
            return
        box = (left, top, right, bottom)
        mask = self._mask(outline, box)
        self._paste(cover, box, mask)
        wide, high = max(xs) - min(xs), max(ys) - min(ys)
        if lit is not None and min(wide, high) > 6:
            x, y = min(xs) + wide * (0.5 + self.light), min(ys) + high * 0.42
            inner = self._mask([(x + (u - x) * 0.8, y + (v - y) * 0.76) for u, v in outline], box)
            soft = inner.filter(ImageFilter.BoxBlur(max(1, int(min(wide, high) * 0.14))))
            self._paste(lit, box, ImageChops.multiply(soft, mask))

    def _hairy(self, outline: Points, hair: float) -> list[tuple[float, float]]:
        xs, ys = [x for x, _ in outline], [y for _, y in outline]
        x, y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
        spiky = []
        for (u, v), (p, q) in zip(outline, [*outline[1:], outline[0]], strict=True):
            u, v = (u + p) / 2, (v + q) / 2
            distance = ((u - x) * (u - x) + (v - y) * (v - y)) ** 0.5 + 1
            out = 1 + hair * self.random.random() / distance
            spiky += [(p, q), (x + (u - x) * out, y + (v - y) * out + hair * 0.4)]
        return spiky

    def _mask(self, outline: Points, box: tuple[int, int, int, int]) -> Image.Image:
        left, top, right, bottom = box
        mask = Image.new("L", ((right - left) * 2, (bottom - top) * 2))
        ImageDraw.Draw(mask).polygon([((x - left) * 2, (y - top) * 2) for x, y in outline], fill=255)
        return mask.reduce(2)

    def _paste(self, cover: Cover, box: tuple[int, int, int, int], mask: Image.Image) -> None:
        self.photo.paste(cover.crop(box) if isinstance(cover, Image.Image) else cover, box, mask)

    def noise(self, columns: int, rows: int, size: tuple[int, int]) -> Image.Image:
        """Random grey values on a grid, smoothly enlarged."""
        grid = Image.frombytes("L", (columns, rows), self.random.randbytes(columns * rows))
        return grid.resize(size, Image.Resampling.BICUBIC)

    def point(self) -> tuple[float, float]:
        """Anywhere in the photo."""
        return self.random.uniform(0, self.width), self.random.uniform(0, self.height)

    def scene(self) -> None:
        """A room or a meadow out of focus: wall, floor and things on both."""
        random = self.random
        wall, floor = random.sample(ROOMS, 2)
        horizon = self.height * random.uniform(0.3, 0.6)
        self.photo = blend(self.noise(5, 4, self.size), shade(wall, 0.75), shade(wall, 1.15))
        ground = blend(self.noise(30, 12, self.size), shade(floor, 0.7), shade(floor, 1.1))
        tilt = random.uniform(-12, 12)
        self.part(
            [(0, horizon - tilt), (self.width, horizon + tilt), (self.width, self.height), (0, self.height)], ground
        )
        for _ in range(random.randint(2, 8)):
            x, y = self.point()
            size = random.uniform(0.05, 0.22) * self.height
            colour = mix(random.choice(THINGS), random.choice(ROOMS), random.uniform(0.2, 0.8))
            shape = random.choice(("box", "ball", "post", "bush"))
            if shape == "ball":
                self.part(ellipse(x, y, size, size * random.uniform(0.6, 1)), colour, shade(colour, 1.25))
            elif shape == "bush":
                self.part(ellipse(x, y, size * 1.3, size), shade(colour, 0.8), colour, hair=size * 0.3)
            else:
                wide, high = (size, size * 0.8) if shape == "box" else (size * 0.2, size * 3)
                self.part([(x - wide, y - high), (x + wide, y - high), (x + wide, y + high), (x - wide, y + high)], colour)
        self.photo = self.photo.filter(ImageFilter.BoxBlur(random.randint(0, 5)))

    def foreground(self) -> None:
        """Now and then something between the camera and what it looks at: bars, grass, a leaf, a cushion."""
        random = self.random
        kind = random.choices(("nothing", "bars", "grass", "leaf", "cushion"), (5, 1, 1.5, 1.5, 1))[0]
        colour = mix(random.choice(THINGS), random.choice(ROOMS), random.uniform(0.2, 0.9))
        if kind == "bars":
            gap, wide, lean = random.uniform(0.14, 0.26) * self.width, random.uniform(2, 5), random.uniform(-60, 60)
            x = random.uniform(-gap, 0)
            while x < self.width + 60:
                self.part(tube([(x + lean, 0), (x, self.height)], (wide, wide)), shade(colour, 0.7), colour)
                x += gap
        elif kind == "grass":
            green = mix((84, 120, 56), colour, 0.3)
            for _ in range(random.randint(15, 50)):
                x, high = random.uniform(0, self.width), random.uniform(0.1, 0.42) * self.height
                path = [(x, self.height + 3), (x + random.uniform(-8, 8), self.height - high / 2), (x + random.uniform(-25, 25), self.height - high)]
                self.part(tube(path, (2.5, 2, 0.3)), shade(green, random.uniform(0.6, 1.2)))
        elif kind == "leaf":
            x, y = random.choice((0, self.width)), random.uniform(0.1, 0.9) * self.height
            for _ in range(random.randint(2, 5)):
                u, v = x + (self.width / 2 - x) * random.uniform(0.3, 1.1), y + random.uniform(-0.25, 0.25) * self.height
                tone = shade(mix((74, 112, 60), colour, 0.3), random.uniform(0.7, 1.2))
                self.part(tube([(x, y), ((x + u) / 2, (y + v) / 2 - 12), (u, v)], (2, 12, 0.5)), shade(tone, 0.75), tone)
        elif kind == "cushion":
            x, y = random.uniform(0, self.width), self.height * random.uniform(0.8, 1.05)
            self.part(ellipse(x, y, self.width * random.uniform(0.3, 0.6), self.height * 0.22), shade(colour, 0.75), colour)

    def finish(self) -> Image.Image:
        """The photo as a camera would have taken it: uneven light, tint, contrast, blur and noise."""
        random = self.random
        light = self.noise(3, 3, self.size).point([200 + value * 55 // 255 for value in range(256)])
        self.photo = ImageChops.multiply(self.photo, Image.merge("RGB", [light] * 3))
        contrast, level = random.uniform(0.6, 1.25), random.uniform(-25, 30)
        table = []
        for _ in range(3):
            offset = 118 + level + random.uniform(-12, 12)
            table += [max(0, min(255, int(offset + (value - 118) * contrast))) for value in range(256)]
        photo = self.photo.point(table)
        if random.random() < 0.5:
            photo = photo.filter(ImageFilter.BoxBlur(random.randint(1, 10) / 5))
        strength = random.randint(2, 26)
        grain = Image.frombytes("L", self.size, random.randbytes(self.width * self.height))
        grain = grain.point([128 + (value - 128) * strength // 256 for value in range(256)])
        return ImageChops.add(photo, Image.merge("RGB", [grain] * 3), offset=-128)


class Pet:
    """One cat or dog: its species' traits, its own coat, and how to draw its parts."""

    def __init__(self, kind: str, canvas: Canvas) -> None:
        random = canvas.random
        self.kind, self.canvas, self.random = kind, canvas, random
        self.traits: Traits = {name: random.uniform(*limits) for name, limits in PROPORTIONS[kind].items()}
        self.ears = random.choices(list(EARS[kind]), list(EARS[kind].values()))[0]
        self.iris = random.choice(IRISES[kind])
        self.closed = random.random() < 0.14
        self.slit = kind == "cat" and random.random() < 0.7
        self.mouth_open = random.random() < (0.06 if kind == "cat" else 0.4)
        self.hair = random.choice((0.0, 0.04, 0.08, 0.16))
        self.colour = mix(*random.sample(COATS, 2), random.uniform(0, 0.4))
        self.second = random.choice(COATS)
        self.pale = mix(self.colour, WHITE, random.choice((0.0, 0.25, 0.8)))
        coat = self._coat()
        self.coat = (coat.point([value * 7 // 10 for value in range(256)] * 3), coat)
        self.soft = (shade(self.pale, 0.78), shade(self.pale, 1.08))

    def _coat(self) -> Image.Image:
        """Fur all over the photo, to be seen through the outlines of the parts: streaks, with stripes or patches."""
        canvas, random = self.canvas, self.random
        width, height = canvas.size
        streaks = canvas.noise(width // 4, height // 14, canvas.size)
        coat = blend(streaks, shade(self.colour, 0.86), shade(self.colour, 1.16))
        pattern = random.choices(("plain", "stripes", "patches"), (4, 3, 3))[0]
        if pattern == "plain":
            return coat
        mask = Image.new("L", canvas.size)
        pen = ImageDraw.Draw(mask)
        strength = random.randint(90, 235)
        if pattern == "stripes":
            gap = random.uniform(0.045, 0.09) * width
            for number in range(int(width / gap) + 2):
                path = [((number + random.uniform(-0.25, 0.25)) * gap, height * step / 5) for step in range(6)]
                outline = tube(path, [gap * random.uniform(0.08, 0.28) for _ in path])
                pen.polygon([(round(x), round(y)) for x, y in outline], fill=strength)
        else:
            for _ in range(random.randint(3, 9)):
                x, y = canvas.point()
                outline = ellipse(x, y, random.uniform(0.06, 0.2) * width, random.uniform(0.08, 0.22) * height)
                pen.polygon([(round(u), round(v)) for u, v in outline], fill=strength)
        second = blend(streaks, shade(self.second, 0.86), shade(self.second, 1.16))
        coat.paste(second, (0, 0), mask.filter(ImageFilter.BoxBlur(2)))
        return coat

    def fur(self, frame: Frame, outline: Points, *, pale: bool = False, hairy: bool = True) -> None:
        """A part of the animal that is covered with its coat."""
        cover, lit = self.soft if pale else self.coat
        self.canvas.part(frame(outline), cover, lit, hair=self.hair * frame.scale if hairy else 0)

    def front(self, frame: Frame, yaw: float) -> None:
        """The head seen from the front; with yaw 1 it looks a little to the right."""
        t = self.traits
        if self.ears != "hanging":
            self._ears(frame, yaw)
        skull = [(0, -t["height"]), (0.5 * t["width"], -0.95 * t["height"]), (0.9 * t["width"], -0.5 * t["height"])]
        cheek = 0.95 if self.kind == "cat" else 0.8
        skull += [(t["width"], 0.05), (cheek * t["width"], 0.45), (0.5, 0.9 * t["chin"]), (0, t["chin"])]
        self.fur(frame, symmetric(skull))
        x = 0.3 * yaw
        self._muzzle(frame, x)
        for side in (-1, 1):
            self._eye(frame.at(x * 0.7 + side * t["eye_x"], t["eye_y"], t["eye"], -0.06 * side), side)
        if self.ears == "hanging":
            self._ears(frame, yaw)
        if self.kind == "cat":
            self._whiskers(frame, x, (-1, 1))

    def _ears(self, frame: Frame, yaw: float) -> None:
        t, random = self.traits, self.random
        for side in (-1, 1):
            size = t["ear"]
            x, y = side * t["ear_x"] * t["width"] / 0.95 - 0.1 * yaw, -0.78 * t["height"]
            ear = frame.at(x, y, size, side * random.uniform(0.06, 0.22))
            if self.ears == "pricked":
                self.fur(ear, smooth([(-0.48, 0.4), (-0.36, -0.3), (side * 0.08 - 0.04, -1.0), (side * 0.08 + 0.04, -1.0), (0.36, -0.3), (0.48, 0.4)]))
                self.canvas.part(ear([(-0.26, 0.16), (side * 0.06, -0.68), (0.26, 0.16)]), shade(mix(PINK, self.colour, 0.4), 0.8))
            elif self.ears == "button":
                self.fur(ear, smooth([(-0.46, 0.4), (-0.4, -0.2), (0.0, -0.55), (0.4, -0.2), (0.46, 0.4)]))
                self.fur(ear, smooth([(-0.42, -0.2), (0, -0.58), (0.42, -0.2), (side * 0.3, 0.4), (side * 0.22, 0.44)]), hairy=False)
            else:
                ear = frame.at(side * 0.86 * t["width"] - 0.1 * yaw, -0.5 * t["height"], size, side * random.uniform(-0.16, 0.02))
                lobe = [(-side * 0.3, -0.2), (0, -0.4), (side * 0.36, 0.1), (side * 0.42, 0.9), (side * 0.1, 1.3), (-side * 0.2, 0.9)]
                self.fur(ear, smooth(lobe))

    def _eye(self, eye: Frame, side: int) -> None:
        part = self.canvas.part
        if self.closed:
            part(eye(tube([(-1, 0), (0, 0.4), (1, 0)], (0.05, 0.16, 0.05))), DARK)
            return
        high = 0.8 if self.kind == "cat" else 0.92
        part(eye(ellipse(0, 0, 1.15, high * 1.15)), DARK)
        part(eye(ellipse(0, 0, 0.95, high * 0.95)), shade(self.iris, 0.75), self.iris)
        part(eye(ellipse(0, 0, 0.2 if self.slit else 0.55, high * 0.85 if self.slit else 0.55)), (14, 12, 14))
        part(eye(ellipse(-0.3, -0.35, 0.2, 0.2)), WHITE)

    def _muzzle(self, frame: Frame, x: float) -> None:
        t, part = self.traits, self.canvas.part
        wide, y, nose = t["muzzle"], t["muzzle_y"], t["nose"]
        if self.kind == "cat":
            self.fur(frame, ellipse(x, y + 0.2, 0.5 * wide, 0.2), pale=True, hairy=False)
            for side in (-1, 1):
                self.fur(frame, ellipse(x + side * 0.45 * wide, y + 0.06, 0.6 * wide, 0.2), pale=True, hairy=False)
            tip = y - 0.1
            part(frame([(x - nose, tip - nose * 0.5), (x + nose, tip - nose * 0.5), (x, tip + nose)]), self._nose())
            if self.mouth_open:
                part(frame(ellipse(x, y + 0.25, 0.14, 0.14)), DARK, PINK)
            for side in (-1, 1):
                path = [(x, tip + nose * 0.6), (x + side * 0.02, y + 0.12), (x + side * 0.2, y + 0.16)]
                part(frame(tube(path, (0.025, 0.03, 0.01))), DARK)
            return
        bottom = y + wide * 0.95
        if self.mouth_open:
            part(frame(ellipse(x, bottom, 0.62 * wide, 0.3)), DARK)
            part(frame(ellipse(x, bottom + 0.14, 0.36 * wide, 0.3)), (190, 96, 104), (222, 128, 134))
        half = [(0, y - 1.1 * wide), (0.5 * wide, y - 0.9 * wide), (0.85 * wide, y), (wide, y + 0.5 * wide), (0.6 * wide, bottom), (0, bottom)]
        self.fur(frame, symmetric(half, x), pale=True)
        top = y - 0.25 * wide
        shape = [(0, top - 0.8 * nose), (0.8 * nose, top - 0.75 * nose), (1.15 * nose, top), (0.4 * nose, top + 0.7 * nose), (0, top + 0.8 * nose)]
        part(frame(symmetric(shape, x)), self._nose(), mix(self._nose(), WHITE, 0.2))
        for side in (-1, 1):
            path = [(x, top + nose * 0.6), (x, bottom - 0.16), (x + side * 0.7 * wide, bottom - 0.12)]
            part(frame(tube(path, (0.025, 0.03, 0.01))), DARK)

    def _nose(self) -> Colour:
        return mix(DARK, PINK, 0.8 if sum(self.colour) % 3 == 0 else 0.1)

    def _whiskers(self, frame: Frame, x: float, sides: Sequence[int]) -> None:
        colour = WHITE if sum(self.colour) < 420 else (70, 64, 60)
        for side in sides:
            for number in (-1, 0, 1):
                y = self.traits["muzzle_y"] + 0.08
                end = (x + side * self.random.uniform(1.0, 1.35), y + number * 0.2 + self.random.uniform(-0.06, 0.1))
                middle = ((x + side * 0.3 + end[0]) / 2, (y + end[1]) / 2 - 0.05)
                self.canvas.part(frame(tube([(x + side * 0.3, y), middle, end], (0.02, 0.018, 0.006))), colour)

    def profile(self, frame: Frame) -> None:
        """The head seen from the side, looking to the left."""
        t, part = self.traits, self.canvas.part
        s, cat = t["snout"], self.kind == "cat"
        tip = -0.78 - s
        ear = frame.at(0.3, -0.62, t["ear"], 0.1)
        if self.ears != "hanging":
            shape = [(-0.4, 0.4), (-0.3, -0.2), (0.02, -1.0), (0.1, -1.0), (0.36, -0.2), (0.5, 0.4)]
            if self.ears == "button":
                shape = [(-0.5, 0.4), (-0.5, 0.0), (-0.2, -0.5), (0.3, -0.45), (0.5, 0.4)]
            self.fur(ear.at(-0.34, 0.06, 0.9), smooth(shape))
            self.fur(ear, smooth(shape))
        if not cat and self.mouth_open:
            part(frame(smooth([(tip + 0.3, 0.45), (tip + 0.1, 0.95), (tip + 0.36, 1.0), (-0.5, 0.5)])), (190, 96, 104), (222, 128, 134))
        outline = [(0.95, 0.2), (0.9, -0.45), (0.35, -0.86), (-0.3, -0.8), (-0.68, -0.4), (-0.75 - 0.5 * s, -0.06), (tip, 0.02)]
        outline += [(tip - 0.06, 0.3), (tip + 0.06, 0.52), (-0.55, 0.62), (-0.2, 0.84), (0.5, 0.9)]
        self.fur(frame, smooth(outline))
        self.fur(frame, ellipse(-0.62 - 0.6 * s, 0.34, 0.24 + 0.4 * s, 0.22), pale=True, hairy=False)
        size = t["nose"] * 0.9
        part(frame(ellipse(tip + size * 0.4, 0.08, size, size * 0.85)), self._nose())
        part(frame(tube([(tip, 0.38), (-0.7 - 0.3 * s, 0.42), (-0.5, 0.34)], (0.02, 0.03, 0.01))), DARK)
        self._eye(frame.at(-0.42, -0.2, t["eye"] * 0.9), -1)
        if self.ears == "hanging":
            self.fur(ear.at(0.1, 0.3), smooth([(-0.3, -0.3), (0.3, -0.4), (0.45, 0.3), (0.3, 1.1), (0, 1.2), (-0.3, 0.5)]))
        if cat:
            self._whiskers(frame.at(-0.5, -0.1), -0.1, (-1,))

    def head(self, frame: Frame) -> None:
        """The head, turned and tilted in some way."""
        random = self.random
        tilt = random.uniform(-0.2, 0.2)
        if random.random() < 0.3:
            self.profile(frame.at(0.3, 0, turn=tilt * 0.7))
        else:
            self.front(frame.at(0, 0, turn=tilt), random.uniform(-1, 1))

    def _tail(self, frame: Frame, x: float, y: float) -> None:
        """From (x, y) to the right and up or down."""
        t, random = self.traits, self.random
        up, length, wide = random.choice((-1, -1, 0.3)), t["tail"], t["tail_width"]
        if self.kind == "dog" and random.random() < 0.3:
            path = [(x, y), (x + 0.5, y - 0.6), (x + 0.2, y - 1.1), (x - 0.3, y - 0.9)]
        else:
            bend = random.uniform(0.2, 0.7)
            path = [(x, y), (x + length * bend * 0.7, y + up * 0.1 * length), (x + length * bend, y + up * 0.5 * length)]
            path += [(x + length * (bend + random.uniform(-0.3, 0.3)), y + up * 0.8 * length)]
        self.fur(frame, tube(path, (wide, wide * 1.1, wide, wide * (0.8 if self.kind == "cat" else 0.4))))

    def _leg(self, frame: Frame, x: float, top: float, bottom: float, lean: float = 0.0) -> None:
        wide = self.traits["leg"]
        self.fur(frame, tube([(x, top), (x + lean, (top + bottom) / 2), (x, bottom)], (wide * 1.5, wide * 1.05, wide)))
        self.fur(frame, ellipse(x - 0.08, bottom, wide * 1.35, wide * 0.8), pale=True, hairy=False)

    def face(self, frame: Frame) -> None:
        """A portrait: head, neck and chest."""
        self.fur(frame, smooth([(-0.6, 0.2), (0.6, 0.2), (1.0, 1.2), (1.3, 3.2), (-1.3, 3.2), (-1.0, 1.2)]))
        self.fur(frame, ellipse(0, 2.0, 0.55, 1.0), pale=True)
        self.head(frame)

    def sit(self, frame: Frame) -> None:
        """Sitting, seen from the front."""
        frame = frame.at(0, -1.2)
        self._tail(frame, 0.9, 3.0)
        self.fur(frame, smooth([(-0.5, 0.3), (0.5, 0.3), (0.85, 1.2), (1.25, 2.4), (1.1, 3.3), (-1.1, 3.3), (-1.25, 2.4), (-0.85, 1.2)]))
        for side in (-1, 1):
            self.fur(frame, ellipse(side * 0.95, 2.85, 0.5, 0.55))
            self.fur(frame, ellipse(side * 1.05, 3.3, 0.42, 0.18), pale=True, hairy=False)
        self.fur(frame, ellipse(0, 1.4, 0.45, 0.6), pale=True)
        for side in (-1, 1):
            self._leg(frame, side * 0.38, 1.6, 3.35)
        self.head(frame)

    def stand(self, frame: Frame) -> None:
        """Standing or walking to the left, seen from the side."""
        frame, step = frame.at(-1.6, -0.7), self.random.uniform(0, 0.4)
        self._tail(frame, 3.7, 1.0)
        for x, lean in ((0.75 + step, -0.1), (3.3 - step, 0.2)):
            self._leg(frame, x, 1.6, 2.9, lean)
        self.fur(frame, smooth([(0.1, 0.5), (0.9, 0.55), (2.4, 0.65), (3.6, 0.6), (4.0, 1.2), (3.5, 1.95), (2.2, 1.8), (0.9, 2.0), (0.2, 1.4)]))
        for x, lean in ((0.5 - step, -0.1), (3.45 + step, 0.25)):
            self._leg(frame, x, 1.5, 3.0, lean)
        self.head(frame)

    def lie(self, frame: Frame) -> None:
        """Lying on its belly, head to the left."""
        frame = frame.at(-1.2, -0.2)
        self._tail(frame, 3.1, 1.4)
        self.fur(frame, smooth([(-0.4, 0.4), (0.7, 0.2), (2.2, 0.0), (3.2, 0.4), (3.5, 1.3), (3.0, 1.75), (0.2, 1.75), (-0.7, 1.3)]))
        self.fur(frame, ellipse(2.7, 1.1, 0.75, 0.65))
        for y, x in ((1.6, -1.2), (1.75, -0.9)):
            self.fur(frame, tube([(0.5, y - 0.2), (x + 0.6, y), (x, y)], (0.3, self.traits["leg"], self.traits["leg"])))
            self.fur(frame, ellipse(x - 0.1, y, 0.28, 0.19), pale=True, hairy=False)
        self.head(frame)


def draw_pet(kind: str, canvas: Canvas) -> None:
    """A cat or a dog somewhere in the photo, near or far, in one of the poses; its head is never out of sight."""
    random = canvas.random
    pet = Pet(kind, canvas)
    pose = random.choices(list(POSES), list(POSES.values()))[0]
    side = min(canvas.size)
    scale = side * (random.uniform(0.18, 0.3) if pose == "face" else random.uniform(0.075, 0.16))
    x, y = canvas.width / 2 + side * random.uniform(-0.12, 0.12), canvas.height * random.uniform(0.45, 0.6)
    frame = Frame(x, y, scale, random.uniform(-0.08, 0.08), random.choice((-1, 1)))
    if pose != "face":
        x, y, a = {"sit": (0, 2.2, 1.9), "stand": (0.5, 2.3, 2.9), "lie": (0.2, 1.6, 2.9)}[pose]
        canvas.part(frame(ellipse(x, y, a, 0.35)), canvas.photo.point([value * 7 // 10 for value in range(256)] * 3))
    getattr(pet, pose)(frame)


def draw_house(canvas: Canvas) -> None:
    """A wall with windows, a door and a roof."""
    random = canvas.random
    x, y = canvas.width * random.uniform(0.4, 0.6), canvas.height * random.uniform(0.5, 0.6)
    frame, wall, roof = Frame(x, y, min(canvas.size) * random.uniform(0.2, 0.3)), random.choice(ROOMS), random.choice(THINGS)
    canvas.part(frame([(-1, -0.2), (1, -0.2), (1, 1), (-1, 1)]), shade(wall, 0.85), wall)
    canvas.part(frame([(-1.25, -0.2), (-0.6, -1.1), (0.6, -1.1), (1.25, -0.2)]), shade(roof, 0.8), roof)
    for left in (-0.75, 0.35):
        canvas.part(frame([(left, 0), (left + 0.4, 0), (left + 0.4, 0.4), (left, 0.4)]), (70, 90, 110), (170, 190, 205))
    canvas.part(frame([(-0.2, 0.4), (0.2, 0.4), (0.2, 1), (-0.2, 1)]), random.choice(THINGS))


def draw_flower(canvas: Canvas) -> None:
    """One blossom on its stem."""
    random = canvas.random
    x, y = canvas.width * random.uniform(0.35, 0.65), canvas.height * random.uniform(0.35, 0.5)
    frame, colour = Frame(x, y, min(canvas.size) * random.uniform(0.18, 0.3)), random.choice(THINGS)
    canvas.part(frame(tube([(0, 0), (0.2, 1.5), (0, 3.5)], (0.08, 0.08, 0.1))), (60, 96, 50))
    petals = random.randint(2, 4)
    for number in range(-petals, petals + 1):
        canvas.part(frame.at(0, 0, turn=number / petals)(ellipse(0, -0.65, 0.28, 0.5)), shade(colour, 0.8), colour)
        canvas.part(frame.at(0, 0, turn=number / petals)(ellipse(0, 0.65, 0.28, 0.5)), shade(colour, 0.8), colour)
    canvas.part(frame(ellipse(0, 0, 0.36, 0.36)), (150, 104, 40), (214, 170, 70))


def draw_car(canvas: Canvas) -> None:
    """A car from the side."""
    random = canvas.random
    x, y = canvas.width * random.uniform(0.4, 0.6), canvas.height * random.uniform(0.5, 0.65)
    frame, colour = Frame(x, y, min(canvas.size) * random.uniform(0.17, 0.26), 0, random.choice((-1, 1))), random.choice(THINGS)
    canvas.part(frame(smooth([(-1.0, 0), (-0.6, -0.8), (0.5, -0.8), (1.1, 0)])), shade(colour, 0.8), colour)
    canvas.part(frame([(-0.75, -0.05), (-0.5, -0.6), (0.4, -0.6), (0.8, -0.05)]), (60, 76, 90), (170, 190, 205))
    canvas.part(frame(smooth([(-1.8, 0), (1.6, -0.1), (1.9, 0.2), (1.9, 0.6), (-1.9, 0.6)])), shade(colour, 0.8), colour)
    for wheel in (-1.1, 1.1):
        canvas.part(frame(ellipse(wheel, 0.6, 0.36, 0.36)), DARK)
        canvas.part(frame(ellipse(wheel, 0.6, 0.16, 0.16)), (150, 150, 150))


def draw_pattern(canvas: Canvas) -> None:
    """Rows of coloured shapes that mean nothing."""
    random = canvas.random
    size = min(canvas.size) / random.uniform(3, 7)
    colours = random.sample(THINGS, 3)
    for row in range(int(canvas.height / size) + 2):
        for column in range(int(canvas.width / size) + 2):
            frame, colour = Frame(column * size, row * size, size, random.uniform(-1, 1)), random.choice(colours)
            canvas.part(frame(ellipse(0, 0, 0.4, 0.25)) if (row + column) % 2 else frame([(-0.3, 0.3), (0, -0.4), (0.3, 0.3)]), colour)


DRAWERS: dict[str, Callable[[Canvas], None]] = {
    "cat": partial(draw_pet, "cat"), "dog": partial(draw_pet, "dog"),
    "house": draw_house, "flower": draw_flower, "car": draw_car, "pattern": draw_pattern,
}  # fmt: skip
OTHER_KINDS = ("house", "flower", "car", "pattern")  # of which no class is made: to test the detection of what is neither


def draw_photo(kind: str, random: Random) -> Image.Image:
    """Draw one photo of a cat, a dog or one of `OTHER_KINDS`: RGB, with sides of 180 to 360 pixels.

    Raises:
        PipelineError: where nobody knows how to draw such a kind.
    """
    if kind not in DRAWERS:
        raise PipelineError(f"cannot draw '{kind}'; the kinds that can be drawn are {', '.join(DRAWERS)}")
    canvas = Canvas(random)
    canvas.scene()
    DRAWERS[kind](canvas)
    canvas.foreground()
    return canvas.finish()
