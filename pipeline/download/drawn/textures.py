"""Colours, smooth noise and streaks of fur, and the coats that animals wear.

Every kind of animal draws its coat from the same palettes and patterns, so that colour says nothing about the class.
"""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.download.drawn.canvas import Area, Colour, Cover, Frame, floats

NOISE_SIZE = 1024
OFFSETS = 600  # a cut of the size of a photo, at most 400 on a side, starts before this
STREAK_ANGLES = 8

# Dark, middle and light tone of each family of coats.
FAMILIES = (
    ((34, 30, 31), (58, 54, 55), (96, 90, 90)),  # black
    ((62, 62, 66), (104, 104, 108), (158, 158, 160)),  # grey
    ((70, 78, 90), (112, 121, 134), (166, 173, 182)),  # blue-grey
    ((58, 38, 30), (96, 66, 48), (150, 114, 88)),  # chocolate
    ((84, 56, 36), (134, 98, 68), (186, 152, 118)),  # brown
    ((134, 74, 36), (196, 124, 66), (230, 182, 128)),  # ginger
    ((158, 112, 66), (208, 164, 108), (236, 208, 164)),  # golden
    ((172, 150, 122), (220, 202, 172), (242, 230, 208)),  # cream
    ((176, 172, 168), (230, 226, 220), (248, 246, 242)),  # white
)
PATTERNS = {"plain": 3.0, "stripes": 3.0, "patches": 3.0, "spots": 1.2, "points": 1.5, "saddle": 2.0, "bicolour": 3.0}
WHITE = floats([240, 236, 229])


def colour(rgb: Colour) -> NDArray[np.float32]:
    """A colour to calculate with."""
    return np.asarray(rgb, np.float32)


def mix(first: Colour, second: Colour, share: float) -> NDArray[np.float32]:
    """`share` of the second colour in the first."""
    return colour(first) * (1 - share) + colour(second) * share


def pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """One key, with a chance in proportion to its weight."""
    chosen = rng.uniform(0, sum(weights.values()))
    for name, weight in weights.items():
        chosen -= weight
        if chosen <= 0:
            return name
    return next(iter(weights))


def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: float) -> NDArray[np.float32]:
    """Smooth noise, mean 0 and deviation about 1, with about `cells` bumps along the longer side."""
    step = max(height, width) / cells
    grid = rng.standard_normal((int(height / step) + 3, int(width / step) + 3), dtype=np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 1.3


@cache
def streaks() -> tuple[NDArray[np.float32], ...]:
    """Fur: noise drawn out along each of `STREAK_ANGLES` directions over half a turn; deviation 1."""
    noise = np.random.default_rng(7).standard_normal((NOISE_SIZE, NOISE_SIZE), dtype=np.float32)
    fields = []
    for index in range(STREAK_ANGLES):
        angle = np.pi * index / STREAK_ANGLES
        kernel = np.zeros((13, 13), np.float32)
        reach = floats([np.cos(angle), np.sin(angle)]) * 5
        start, end = np.round((6 - reach) * 16).astype(int), np.round((6 + reach) * 16).astype(int)
        cv2.line(kernel, start.tolist(), end.tolist(), 1.0, 1, cv2.LINE_8, 4)
        field = cv2.filter2D(noise, -1, kernel)
        fields.append(((field - field.mean()) / field.std()).astype(np.float32))
    return tuple(fields)


@cache
def grain() -> NDArray[np.float32]:
    """Fine noise without a direction, as in carpet, plaster or a sensor; deviation 1."""
    return np.random.default_rng(8).standard_normal((NOISE_SIZE, NOISE_SIZE), dtype=np.float32)


def cut(field: NDArray[np.float32], offset: tuple[int, int], area: Area) -> NDArray[np.float32]:
    """The piece of a field of noise under an area, the field shifted by `offset`; each below `OFFSETS`."""
    return field[offset[0] + area[1] : offset[0] + area[3], offset[1] + area[0] : offset[1] + area[2]]


def draw_offset(rng: np.random.Generator) -> tuple[int, int]:
    """Where to cut a piece out of a field of noise."""
    return int(rng.integers(OFFSETS)), int(rng.integers(OFFSETS))


@dataclass(frozen=True)
class Coat:
    """The fur of one animal, the same over all its parts.

    `tones` maps the role of a part (body, head, muzzle, chest, ear, leg, paw, tail) to its ground colour, where that
    differs from `base`; `mark` is the colour of stripes, spots and patches.
    """

    base: NDArray[np.float32]
    mark: NDArray[np.float32]
    tones: dict[str, NDArray[np.float32]]
    pattern: str
    noise: NDArray[np.float32]
    offset: tuple[int, int]
    frequency: float
    contrast: float
    fur: float
    hair: float  # length of the hairs at the outline, in head radii

    def tone(self, role: str) -> NDArray[np.float32]:
        return self.tones.get(role, self.base)

    def cover(self, frame: Frame, role: str = "body", *, along: float = 0, patterned: bool = True) -> Cover:
        """The fur of one part, its stripes across and its hairs along the direction `along` (radians) of the frame."""

        def colours(area: Area) -> NDArray[np.float32]:
            ground = self.tone(role)
            direction = frame.matrix[:, :2] @ floats([np.cos(along), np.sin(along)])
            turn = round(float(np.arctan2(direction[1], direction[0])) / np.pi * STREAK_ANGLES) % STREAK_ANGLES
            light = 1 + self.fur * cut(streaks()[turn], self.offset, area)
            share = self._pattern(area, direction) if patterned else None
            if share is None:
                return floats(cv2.merge([light * float(value) for value in ground]))
            share = share * light
            mixed = [light * float(low) + share * float(high - low) for low, high in zip(ground, self.mark, strict=True)]
            return floats(cv2.merge(mixed))

        return colours

    def _pattern(self, area: Area, direction: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """How much of the mark each pixel of an area shows, 0 to 1."""
        if self.pattern not in ("stripes", "patches", "spots"):
            return None
        bumps = self.noise[area[1] : area[3], area[0] : area[2]]
        if self.pattern != "stripes":
            return np.clip(bumps * 4 - self.contrast * 3, 0, 1)
        unit = direction / (float(direction @ direction) + 1e-6)
        down, across = np.arange(area[1], area[3], dtype=np.float32), np.arange(area[0], area[2], dtype=np.float32)
        phase = (across * unit[0])[None, :] + (down * unit[1])[:, None]
        waves = np.sin(phase * self.frequency + 1.1 * bumps)
        return np.clip(waves * 1.4 - 0.25, 0, 1) * (0.35 + 0.45 * self.contrast)


def draw_coat(rng: np.random.Generator, height: int, width: int, radius: float) -> Coat:
    """Choose a coat for an animal whose head has the given radius in pixels, on a canvas of this size."""
    dark, middle, light = (colour(tone) for tone in FAMILIES[rng.integers(len(FAMILIES))])
    drift = rng.uniform(0.88, 1.12) * rng.uniform(0.96, 1.04, 3).astype(np.float32)
    dark, middle, light = dark * drift, middle * drift, light * drift
    pattern = pick(rng, PATTERNS)
    white = WHITE * rng.uniform(0.88, 1.02)
    base, mark = (middle, dark) if rng.random() < 0.8 else (light, middle)
    tones: dict[str, NDArray[np.float32]] = {"muzzle": mix(base, light, 0.6), "chest": mix(base, light, 0.7)}
    if pattern == "points":
        base = mix(light, (226, 208, 182), 0.5)
        tones = dict.fromkeys(("ear", "muzzle", "leg", "paw", "tail"), dark) | {"chest": mix(base, light, 0.5)}
    elif pattern == "saddle":
        warm = mix(colour(FAMILIES[rng.integers(4, 8)][1]), light, 0.3)
        tones = dict.fromkeys(("leg", "paw", "chest", "head"), warm) | {"muzzle": mix(warm, white, 0.4), "ear": base}
    elif pattern == "patches":
        base, mark = (white, middle) if rng.random() < 0.6 else (middle, white if rng.random() < 0.5 else dark)
        tones = {"muzzle": mix(base, white, 0.8), "chest": white}
    if pattern == "bicolour" or rng.random() < 0.22:
        chosen = [role for role in ("muzzle", "chest", "paw", "leg") if rng.random() < 0.7]
        tones |= dict.fromkeys(chosen, white)
    cells = max(height, width) / radius
    return Coat(
        base=base,
        mark=mark,
        tones=tones,
        pattern=pattern,
        noise=smooth_noise(
            rng, height, width, cells * (rng.uniform(2.6, 4.5) if pattern == "spots" else rng.uniform(0.8, 1.6))
        ),
        offset=draw_offset(rng),
        frequency=rng.uniform(9, 17),
        contrast=rng.uniform(0.1, 1),
        fur=rng.uniform(0.035, 0.11),
        hair=rng.choice((0.04, 0.08, 0.14, 0.2)) * rng.uniform(0.8, 1.2),
    )
