"""A canvas of integers: outlines, frames, colours, and the scene, the foreground and the camera of a drawn photo.

Only integers, Pillow's raster operations and scalar double-precision + - * / and square roots are used: sines, float arrays and
matrix products depend on the processor. An angle is given as a `turn`, the tangent of its half: 0 is upright, 1 is 90 degrees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from random import Random

from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter

Points = Sequence[tuple[float, float]]
Colour = tuple[int, int, int]
Cover = Image.Image | Colour


def palette(text: str) -> list[Colour]:
    """Colours of a text such as "#e8e0d4 #ceb28c"."""
    return [ImageColor.getrgb(colour)[:3] for colour in text.split()]


ROOMS = palette("#bcac96 #96a0aa #788c76 #a47860 #60687c #cec8be #5c7c4c")
BRIGHT = palette("#aa403a #3c5c8c #cea84a #4a7854 #845682 #dcd6cc")
DARK, PINK, WHITE, GREEN, TONGUE, LIT_TONGUE = palette("#221c1c #ce8a84 #f4f0ea #4e723a #be6068 #de8086")

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
    red, green, blue = (min(255, int(value * factor)) for value in colour)
    return red, green, blue


def mix(first: Colour, second: Colour, fraction: float) -> Colour:
    """`fraction` of the second colour in the first."""
    red, green, blue = (int(a + (b - a) * fraction) for a, b in zip(first, second, strict=True))
    return red, green, blue


def two_tone(grey: Image.Image, colour: Colour, contrast: float) -> Image.Image:
    """A grey image in a darker and a lighter tone of a colour."""
    tones = zip(shade(colour, 1 - contrast), shade(colour, 1 + contrast), strict=True)
    return Image.merge("RGB", [grey] * 3).point([a + (b - a) * value // 255 for a, b in tones for value in range(256)])


def darker(image: Image.Image) -> Image.Image:
    """An image in the shade."""
    return image.point([value * 7 // 10 for value in range(256)] * 3)


@dataclass(frozen=True)
class Frame:
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
        xs, ys = [x for x, _ in outline], [y for _, y in outline]
        right, bottom = min(self.width, int(max(xs)) + 2), min(self.height, int(max(ys)) + 2)
        box = max(0, int(min(xs)) - 1), max(0, int(min(ys)) - 1), right, bottom
        if box[0] >= box[2] or box[1] >= box[3]:
            return
        mask = self._mask(outline, box)
        self._paste(cover, box, mask)
        wide, high = max(xs) - min(xs), max(ys) - min(ys)
        if lit is not None and min(wide, high) > 12:
            x, y = min(xs) + wide * (0.5 + self.light), min(ys) + high * 0.42
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
        xs, ys = [x for x, _ in outline], [y for _, y in outline]
        x, y, spiky = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, []
        for u, v in outline:
            out = 1 + hair * self.random.random() / (1 + sqrt((u - x) * (u - x) + (v - y) * (v - y)))
            spiky += [(u, v), (x + (u - x) * out, y + (v - y) * out + hair * 0.4)]
        return spiky

    def noise(self, columns: int, rows: int) -> Image.Image:
        """Random grey values on a grid, smoothly enlarged."""
        grid = Image.frombytes("L", (columns, rows), self.random.randbytes(columns * rows))
        return grid.resize(self.size, Image.Resampling.BICUBIC)

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
        light = self.noise(3, 3).point([200 + value * 55 // 255 for value in range(256)])
        photo = ImageChops.multiply(self.photo, Image.merge("RGB", [light] * 3))
        contrast, level = random.uniform(0.6, 1.25), random.uniform(93, 148)
        levels = [level + random.uniform(-12, 12) for _ in range(3)]
        photo = photo.point([max(0, min(255, int(mean + (value - 118) * contrast))) for mean in levels for value in range(256)])
        photo = photo.filter(ImageFilter.BoxBlur(max(0, random.randint(-10, 10)) / 5))
        strength = random.randint(2, 26)
        grain = Image.frombytes("L", self.size, random.randbytes(self.width * self.height))
        grain = grain.point([128 + (value - 128) * strength // 256 for value in range(256)])
        return ImageChops.add(photo, Image.merge("RGB", [grain] * 3), offset=-128)
