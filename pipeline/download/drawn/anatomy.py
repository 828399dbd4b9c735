"""What kinds of mammal look like: the shapes of their parts and the ranges of their proportions.

A `Species` gives weights for the shapes and ranges for the proportions; `draw_animal` samples one individual from it.
Lengths are in head radii, angles in degrees.
"""

from dataclasses import dataclass, field

import numpy as np

from pipeline.download.drawn.textures import Coat, pick

Range = tuple[float, float]

RANGES: dict[str, Range] = {
    "head_width": (0.9, 1.05),
    "head_top": (0.75, 0.9),
    "cheek": (0.75, 0.95),
    "chin": (0.75, 0.9),
    "ear_size": (0.6, 0.9),
    "ear_place": (30, 45),  # from the top of the head towards the side
    "ear_turn": (-8, 14),
    "muzzle_width": (0.38, 0.5),
    "muzzle_height": (0.25, 0.38),
    "muzzle_y": (0.38, 0.5),
    "eye_size": (0.15, 0.22),
    "eye_x": (0.35, 0.46),
    "eye_y": (-0.18, 0.0),
    "eye_open": (0.7, 1.0),
    "eye_slant": (-4, 8),
    "nose_size": (0.12, 0.2),
    "whisker": (0, 0),
    "snout": (0.4, 0.7),  # how far the muzzle stands out in profile
    "neck": (0.5, 1.0),
    "body_length": (2.6, 3.4),
    "body_depth": (0.8, 1.1),
    "leg_length": (1.2, 1.8),
    "leg_width": (0.2, 0.3),
    "tail_length": (1.5, 2.2),
    "tail_width": (0.12, 0.2),
}
BROWNS = ((58, 34, 20), (88, 52, 26), (36, 24, 20))
NOSES = ((32, 27, 28), (58, 40, 36), (148, 96, 92))


@dataclass(frozen=True)
class Species:
    """Weights of the shapes and ranges of the proportions of one kind of mammal."""

    name: str
    ears: dict[str, float]
    ranges: dict[str, Range]
    pupils: dict[str, float] = field(default_factory=lambda: {"round": 1.0})
    noses: dict[str, float] = field(default_factory=lambda: {"broad": 1.0})
    mouths: dict[str, float] = field(default_factory=lambda: {"line": 1.0})
    tails: dict[str, float] = field(default_factory=lambda: {"sturdy": 1.0})
    horns: dict[str, float] = field(default_factory=lambda: {"none": 1.0})
    irises: tuple[tuple[int, int, int], ...] = BROWNS
    nose_colours: tuple[tuple[int, int, int], ...] = NOSES
    tongue: float = 0.0  # how often an open mouth shows one
    trunk: bool = False


@dataclass(frozen=True)
class Animal:
    """One individual: its species, the shapes it got, its proportions and its coat."""

    species: Species
    coat: Coat
    ear: str
    pupil: str
    nose: str
    mouth: str
    tail: str
    horn: str
    iris: tuple[int, int, int]
    nose_colour: tuple[int, int, int]
    eyes_closed: bool
    head_width: float
    head_top: float
    cheek: float
    chin: float
    ear_size: float
    ear_place: float
    ear_turn: float
    muzzle_width: float
    muzzle_height: float
    muzzle_y: float
    eye_size: float
    eye_x: float
    eye_y: float
    eye_open: float
    eye_slant: float
    nose_size: float
    whisker: float
    snout: float
    neck: float
    body_length: float
    body_depth: float
    leg_length: float
    leg_width: float
    tail_length: float
    tail_width: float


def draw_animal(species: Species, coat: Coat, rng: np.random.Generator) -> Animal:
    """Sample one individual of a species."""
    ranges = RANGES | species.ranges
    return Animal(
        species=species,
        coat=coat,
        ear=pick(rng, species.ears),
        pupil=pick(rng, species.pupils),
        nose=pick(rng, species.noses),
        mouth=pick(rng, species.mouths),
        tail=pick(rng, species.tails),
        horn=pick(rng, species.horns),
        iris=species.irises[rng.integers(len(species.irises))],
        nose_colour=species.nose_colours[rng.integers(len(species.nose_colours))],
        eyes_closed=bool(rng.random() < 0.08),
        **{name: rng.uniform(low, high) for name, (low, high) in ranges.items()},
    )


CAT = Species(
    name="cat",
    ears={"pointed": 0.93, "folded": 0.07},
    pupils={"slit": 0.8, "round": 0.2},
    noses={"triangle": 1.0},
    mouths={"w": 0.92, "open": 0.08},
    tails={"slender": 1.0},
    irises=((150, 168, 74), (196, 168, 62), (110, 150, 170), (176, 112, 44), (112, 142, 92), (88, 52, 26)),
    nose_colours=((206, 132, 126), (150, 92, 86), (52, 42, 42), (184, 116, 108)),
    tongue=0.3,
    ranges={
        "head_width": (0.92, 1.06),
        "head_top": (0.7, 0.84),
        "cheek": (0.84, 1.0),
        "chin": (0.64, 0.8),
        "ear_size": (0.62, 0.95),
        "ear_place": (32, 46),
        "muzzle_width": (0.34, 0.46),
        "muzzle_height": (0.19, 0.27),
        "muzzle_y": (0.36, 0.45),
        "eye_size": (0.19, 0.26),
        "eye_x": (0.37, 0.46),
        "eye_y": (-0.1, 0.03),
        "eye_open": (0.62, 0.95),
        "eye_slant": (0, 16),
        "nose_size": (0.1, 0.15),
        "whisker": (0.8, 1.3),
        "snout": (0.1, 0.22),
        "neck": (0.35, 0.7),
        "body_depth": (0.75, 1.0),
        "leg_length": (1.1, 1.6),
        "leg_width": (0.17, 0.25),
        "tail_length": (2.2, 3.2),
        "tail_width": (0.11, 0.19),
    },
)

DOG = Species(
    name="dog",
    ears={"floppy": 0.5, "button": 0.18, "pricked": 0.32},
    noses={"broad": 1.0},
    mouths={"line": 0.55, "open": 0.45},
    tails={"sturdy": 0.6, "curled": 0.25, "short": 0.15},
    irises=(*BROWNS, (88, 52, 26), (150, 104, 50), (124, 150, 170)),
    tongue=0.9,
    ranges={
        "head_width": (0.8, 1.0),
        "head_top": (0.74, 0.92),
        "cheek": (0.64, 0.9),
        "chin": (0.78, 1.0),
        "ear_size": (0.65, 1.0),
        "ear_place": (30, 52),
        "muzzle_width": (0.36, 0.54),
        "muzzle_height": (0.36, 0.52),
        "muzzle_y": (0.44, 0.6),
        "eye_size": (0.14, 0.2),
        "eye_x": (0.32, 0.43),
        "eye_y": (-0.2, -0.05),
        "nose_size": (0.17, 0.25),
        "snout": (0.55, 1.0),
        "neck": (0.5, 1.0),
        "body_depth": (0.8, 1.1),
        "leg_length": (1.2, 1.9),
        "leg_width": (0.2, 0.3),
        "tail_length": (1.3, 2.2),
        "tail_width": (0.15, 0.26),
    },
)
