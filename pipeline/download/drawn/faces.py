"""Heads of mammals: from the front (turned a little to either side) and in profile.

The frame of a head has its origin between the eyes and the muzzle, one unit to the head's radius, y downwards.
"""

import math

import numpy as np

from pipeline.download.drawn.anatomy import Animal
from pipeline.download.drawn.canvas import Canvas, Colour, Frame, Points, ellipse, floats, mirrored, plain_cover, smooth, tube
from pipeline.download.drawn.ears import HANGING, draw_ear
from pipeline.download.drawn.textures import WHITE, mix

DARK = (30, 24, 24)


class Head:
    """One head on a canvas; `front()` or `profile()` draws it, whiskers and horns included."""

    def __init__(self, canvas: Canvas, frame: Frame, animal: Animal, yaw: float, rng: np.random.Generator) -> None:
        self.canvas = canvas
        self.animal = animal
        self.coat = animal.coat
        self.yaw = yaw  # -1 looks to the left, 1 to the right
        self.frame = frame.at(0, 0, stretch=(1 - 0.13 * abs(yaw), 1))
        self.rng = rng
        self.pixels = self.frame.scale

    def _x(self, x: float, depth: float) -> float:
        """Where a feature that stands out by `depth` is seen on the turned head."""
        return x + self.yaw * depth

    def front(self) -> None:
        """Draw the head as seen from the front."""
        behind = self.animal.ear not in HANGING
        if behind:
            self._ears()
        self._horns()
        self._skull()
        self._forehead()
        self._muzzle()
        self._mouth()
        self._nose()
        for side in (-1, 1):
            x = self._x(side * self.animal.eye_x, 0.2)
            tilt = math.radians(self.animal.eye_slant) * -side
            self._eye(self.frame.at(x, self.animal.eye_y, scale=self.animal.eye_size, angle=tilt))
        if not behind:
            self._ears()
        self._whiskers()

    def _ears(self) -> None:
        a = self.animal
        for side in (-1, 1):
            place = math.radians(a.ear_place)
            x = self._x(side * a.head_width * math.sin(place) * 0.95, -0.1)
            y = -a.head_top * math.cos(place) * 0.95
            turn = 0 if a.ear in HANGING else place * 0.55 + math.radians(a.ear_turn)
            wobble = self.rng.uniform(-0.12, 0.12)
            frame = self.frame.at(x, y, scale=a.ear_size, angle=side * turn + wobble, stretch=(side, 1))
            draw_ear(self.canvas, frame, a.ear, self.coat, self.rng)

    def _horns(self) -> None:
        if self.animal.horn == "none":
            return
        for side in (-1, 1):
            x, y = side * 0.42, -self.animal.head_top * 0.8
            horn = tube([(x, y), (x + side * 0.165, y - 0.35), (x + side * 0.3, y - 0.55)], (0.15, 0.11, 0.03))
            self.canvas.part(self.frame(horn), plain_cover((206, 192, 160)))

    def _skull(self) -> None:
        a = self.animal
        half = [
            (0, -a.head_top),
            (0.48 * a.head_width, -0.93 * a.head_top),
            (0.87 * a.head_width, -0.45 * a.head_top),
            (a.head_width, 0.02),
            (a.cheek, 0.42),
            (0.55 * a.cheek, 0.88 * a.chin),
            (0, a.chin),
        ]
        outline = self.frame(smooth(mirrored(half)))
        cover = self.coat.cover(self.frame, "head", along=math.pi / 2, patterned=self.coat.pattern != "stripes")
        self.canvas.part(outline, cover, hair=self.coat.hair * self.pixels, rng=self.rng)

    def _forehead(self) -> None:
        """Stripes on the brow and cheeks of a striped coat, a blaze on some others."""
        a, rng = self.animal, self.rng
        if self.coat.pattern == "stripes":
            strokes = []
            for x in (-0.42, -0.2, 0.0, 0.2, 0.42):
                spread = x * rng.uniform(0.7, 1.0)
                strokes.append([(self._x(x, 0.1), -a.head_top * 0.92), (self._x(spread, 0.2), a.eye_y - 0.28)])
            for side in (-1, 1):
                outer, inner = self._x(side * a.head_width * 0.96, 0), self._x(side * 0.56, 0.1)
                strokes += [[(outer, y - 0.04), (inner, y + 0.1)] for y in (0.05, 0.26)]
            for stroke in strokes:
                shape = self.frame(tube(stroke, (0.03, 0.055, 0.015)))
                self.canvas.glaze(shape, self.coat.mark, 0.4 + 0.4 * self.coat.contrast, blur=0.02 * self.pixels)
        elif "muzzle" in self.coat.tones and rng.random() < 0.4:
            width = rng.uniform(0.08, 0.18)
            half = [
                (0, -0.85 * a.head_top),
                (width, -0.4),
                (width, a.eye_y),
                (a.muzzle_width * 0.9, a.muzzle_y),
                (0, a.chin * 0.8),
            ]
            blaze = self.frame.at(self.yaw * 0.2, 0)(smooth(mirrored(half)))
            self.canvas.glaze(blaze, mix(self.coat.tone("muzzle"), WHITE, 0.6), 0.85, blur=0.05 * self.pixels)

    def _muzzle(self) -> None:
        a = self.animal
        x = self._x(0, 0.3)
        cover = self.coat.cover(self.frame, "muzzle", along=math.pi / 2, patterned=False)
        if a.nose == "triangle":
            chin = self.frame(ellipse(x, a.muzzle_y + 0.75 * a.muzzle_height, 0.5 * a.muzzle_width, 0.6 * a.muzzle_height))
            self.canvas.part(chin, cover, relief=0.6)
            for side in (-1, 1):
                centre = (x + side * 0.46 * a.muzzle_width, a.muzzle_y + 0.1 * a.muzzle_height)
                pad = self.frame(ellipse(*centre, 0.6 * a.muzzle_width, 0.85 * a.muzzle_height, side * 0.25))
                self.canvas.part(pad, cover, relief=0.6, hair=0.5 * self.coat.hair * self.pixels, rng=self.rng)
            return
        top, bottom = a.muzzle_y - 1.15 * a.muzzle_height, a.muzzle_y + a.muzzle_height
        half = [
            (0, top),
            (0.55 * a.muzzle_width, top + 0.1),
            (0.8 * a.muzzle_width, a.muzzle_y - 0.3 * a.muzzle_height),
        ]
        half += [
            (1.05 * a.muzzle_width, a.muzzle_y + 0.35 * a.muzzle_height),
            (0.7 * a.muzzle_width, 0.96 * bottom),
            (0, bottom),
        ]
        outline = self.frame.at(x, 0)(smooth(mirrored(half)))
        self.canvas.part(outline, cover, relief=0.95, hair=0.5 * self.coat.hair * self.pixels, rng=self.rng)
        if a.species.trunk:
            sway = self.rng.uniform(-0.5, 0.5)
            trunk = tube(
                [(x, a.muzzle_y - 0.3), (x, 1.0), (x + sway * 0.6, 1.7), (x + sway * 1.6, 2.1)], (0.36, 0.3, 0.22, 0.17)
            )
            self.canvas.part(self.frame(trunk), self.coat.cover(self.frame, "head", along=0))

    def _nose_y(self) -> float:
        a = self.animal
        return a.muzzle_y - (0.55 if a.nose == "triangle" else 0.42) * a.muzzle_height

    def _nose(self) -> None:
        a = self.animal
        if a.species.trunk:
            return
        frame = self.frame.at(self._x(0, 0.36), self._nose_y(), scale=a.nose_size)
        colour = floats(a.nose_colour)
        if a.nose == "nostrils":
            for side in (-1, 1):
                hole = ellipse(side * 0.85, 0, 0.34, 0.55, side * -0.3)
                self.canvas.fill(frame(hole), mix(colour, DARK, 0.75))
            return
        if a.nose == "triangle":
            half = [(0, -0.5), (0.7, -0.62), (1, -0.25), (0.35, 0.45), (0, 0.62)]
        else:
            half = [(0, -0.78), (0.6, -0.74), (1.02, -0.3), (0.85, 0.25), (0.32, 0.68), (0, 0.74)]
        self.canvas.part(frame(smooth(mirrored(half))), plain_cover(colour), relief=0.9)
        if a.nose == "broad":
            for side in (-1, 1):
                self.canvas.fill(frame(ellipse(side * 0.5, 0.12, 0.22, 0.18)), mix(colour, (0, 0, 0), 0.7))
            self.canvas.glaze(frame(ellipse(-0.1, -0.45, 0.45, 0.16)), (255, 255, 255), 0.4, blur=0.1 * frame.scale)

    def _mouth(self) -> None:
        a = self.animal
        if a.species.trunk:
            return
        x, top = self._x(0, 0.34), self._nose_y() + 0.5 * a.nose_size
        width, low = a.muzzle_width * 0.8, a.muzzle_y + (0.5 if a.nose == "triangle" else 0.45) * a.muzzle_height
        if a.mouth == "open":
            depth = self.rng.uniform(0.45, 0.85) * max(a.muzzle_height, 0.26)
            opening = [
                (-width, low - 0.08),
                (0, low + 0.03),
                (width, low - 0.08),
                (0.6 * width, low + depth),
                (-0.6 * width, low + depth),
            ]
            self.canvas.fill(self.frame.at(x, 0)(smooth(opening)), (62, 26, 28))
            if self.rng.random() < a.species.tongue:
                drop = depth * self.rng.uniform(0.7, 1.7)
                tongue = tube(
                    [(x, low + 0.12), (x + 0.03, low + drop * 0.6), (x, low + drop)],
                    (0.6 * width, 0.55 * width, 0.4 * width),
                )
                self.canvas.part(self.frame(tongue), plain_cover((218, 118, 122)), relief=0.8)
        line = mix(self.coat.tone("muzzle"), DARK, 0.75)
        thick = max(1.0, 0.028 * self.pixels)
        self.canvas.line(self.frame([(x, top), (x, low)]), line, thick)
        for side in (-1, 1):
            curve = [(x, low), (x + side * 0.45 * width, low + 0.09), (x + side * width, low - 0.06)]
            self.canvas.line(self.frame(smooth(curve, closed=False)), line, thick)

    def _eye(self, frame: Frame) -> None:
        """One eye; the unit of its frame is half its width."""
        a = self.animal
        rim = mix(self.coat.tone("head"), DARK, 0.85)
        if a.eyes_closed:
            lid = smooth([(-1, -0.1), (0, 0.3), (1, -0.1)], closed=False)
            self.canvas.line(frame(lid), rim, max(1.0, 0.05 * self.pixels))
            return
        height = a.eye_open
        almond = [
            (-1.05, 0.12),
            (-0.5, -0.75 * height),
            (0.3, -0.85 * height),
            (1.0, -0.1),
            (0.5, 0.72 * height),
            (-0.4, 0.75 * height),
        ]
        shape = smooth(almond)
        self.canvas.fill(frame(shape * 1.2), rim)
        self.canvas.fill(frame(shape), mix(a.iris, (0, 0, 0), 0.35))
        self.canvas.fill(frame(ellipse(0.02, 0.1, 0.66, 0.6 * height)), a.iris)
        look = 0.15 * self.yaw
        width, tall = (0.2, 0.78) if a.pupil == "slit" else (0.55, 0.58)
        pupil = ellipse(look, 0, width, tall * height)
        self.canvas.fill(frame(pupil), (14, 11, 12))
        glint = frame([0, 0]) + floats(self.canvas.light) * 0.36 * frame.scale
        self.canvas.fill(ellipse(0, 0, 0.19, 0.19) * frame.scale + glint, (250, 250, 248))

    def _whiskers(self) -> None:
        a = self.animal
        if a.whisker <= 0:
            return
        bright = float(self.coat.tone("muzzle").mean()) < 150 or self.rng.random() < 0.7
        colour: Colour = (246, 244, 240) if bright else (70, 62, 60)
        curves: list[Points] = []
        for side in (-1, 1):
            for rise in (-0.28, -0.02, 0.22):
                start = (self._x(side * 0.6 * a.muzzle_width, 0.3), a.muzzle_y + 0.1 * rise)
                reach = a.whisker * self.rng.uniform(0.8, 1.1)
                middle = (start[0] + side * 0.5 * reach, start[1] + 0.6 * rise * reach - 0.05)
                end = (start[0] + side * reach, start[1] + rise * reach + self.rng.uniform(0, 0.15))
                curves.append(self.frame(smooth([start, middle, end], closed=False)))
        self.canvas.lines(curves, colour, max(1.0, 0.016 * self.pixels))

    def profile(self) -> None:
        """Draw the head from the side, looking along positive x."""
        a, long = self.animal, self.animal.snout
        ear = self.frame.at(-0.28, -0.55 * a.head_top, scale=a.ear_size, angle=-0.2, stretch=(0.85, 1))
        if a.ear not in HANGING:
            far = self.frame.at(0.02, -0.72 * a.head_top, scale=a.ear_size, angle=0.1, stretch=(0.7, 1))
            draw_ear(self.canvas, far, a.ear, self.coat, self.rng)
        outline = [(-0.85, 0.1), (-0.66, -0.55), (-0.15, -a.head_top), (0.36, -0.76 * a.head_top), (0.6, -0.24)]
        outline += [(0.62 + 0.55 * long, -0.06), (0.68 + long, 0.06), (0.7 + long, 0.26)]
        outline += [(0.58 + 0.85 * long, 0.44), (0.5 + 0.3 * long, 0.54), (0.1, 0.7), (-0.5, 0.66)]
        hair = self.coat.hair * self.pixels
        cover = self.coat.cover(self.frame, "head", along=0.3)
        self.canvas.part(self.frame(smooth(outline)), cover, hair=hair, rng=self.rng)
        jaw = ellipse(0.5 + 0.62 * long, 0.26, 0.24 + 0.4 * long, 0.17, 0.03)
        self.canvas.glaze(self.frame(jaw), self.coat.tone("muzzle"), 0.75, blur=0.08 * self.pixels)
        self._profile_features()
        draw_ear(self.canvas, ear if a.ear not in HANGING else ear.at(0.15, 0), a.ear, self.coat, self.rng)

    def _profile_features(self) -> None:
        a, long = self.animal, self.animal.snout
        tip = 0.66 + long
        line = mix(self.coat.tone("muzzle"), DARK, 0.75)
        if a.mouth == "open" and a.species.tongue > 0.5:
            tongue = tube([(0.45 + 0.6 * long, 0.42), (0.5 + 0.75 * long, 0.7), (0.48 + 0.8 * long, 0.85)], (0.12, 0.12, 0.09))
            self.canvas.part(self.frame(tongue), plain_cover((218, 118, 122)), relief=0.7)
        mouth = smooth([(tip - 0.04, 0.27), (0.55 + 0.55 * long, 0.36), (0.45 + 0.2 * long, 0.3)], closed=False)
        self.canvas.line(self.frame(mouth), line, max(1.0, 0.03 * self.pixels))
        nose = ellipse(tip + 0.01, 0.07, 0.75 * a.nose_size, 0.62 * a.nose_size)
        self.canvas.part(self.frame(nose), plain_cover(floats(a.nose_colour)), relief=0.8)
        self._eye(self.frame.at(0.36, a.eye_y - 0.1, scale=0.9 * a.eye_size, stretch=(0.75, 1)))
        if a.whisker > 0:
            curves = []
            for rise in (-0.15, 0.1, 0.35):
                start = (0.5 + 0.7 * long, 0.27)
                end = (start[0] - 0.35 * a.whisker, start[1] + (0.1 + rise) * a.whisker)
                bend = (start[0] - 0.05, start[1] + 0.7 * rise * a.whisker)
                curves.append(self.frame(smooth([start, bend, end], closed=False)))
            self.canvas.lines(curves, (246, 244, 240), max(1.0, 0.016 * self.pixels))
        if a.species.trunk:
            trunk = tube([(tip - 0.2, 0.1), (tip + 0.15, 0.8), (tip + 0.05, 1.6), (tip + 0.3, 1.9)], (0.3, 0.24, 0.17, 0.13))
            self.canvas.part(self.frame(trunk), self.coat.cover(self.frame, "head", along=0))
