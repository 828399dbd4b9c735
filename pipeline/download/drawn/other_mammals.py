"""The mammals of the other classes: nothing feline or canine, but the same parts, coats and poses."""

from pipeline.download.drawn.anatomy import Species

PINKS = ((212, 146, 140), (186, 120, 116), (150, 96, 92))

RABBIT = Species(
    name="rabbit",
    ears={"long": 0.8, "lop": 0.2},
    noses={"triangle": 1.0},
    mouths={"w": 1.0},
    tails={"pompom": 1.0},
    nose_colours=PINKS,
    ranges={
        "head_width": (0.8, 0.95),
        "cheek": (0.75, 0.95),
        "ear_size": (0.7, 0.95),
        "ear_place": (12, 26),
        "muzzle_width": (0.3, 0.4),
        "muzzle_height": (0.18, 0.26),
        "eye_x": (0.44, 0.58),
        "eye_size": (0.17, 0.24),
        "nose_size": (0.09, 0.14),
        "whisker": (0.5, 0.9),
        "snout": (0.25, 0.4),
        "leg_length": (0.8, 1.2),
        "body_length": (2.2, 2.8),
    },
)
BEAR = Species(
    name="bear",
    ears={"round": 1.0},
    mouths={"line": 0.7, "open": 0.3},
    tails={"short": 1.0},
    tongue=0.3,
    ranges={
        "head_width": (0.92, 1.08),
        "ear_size": (0.45, 0.62),
        "ear_place": (42, 54),
        "muzzle_width": (0.38, 0.5),
        "muzzle_height": (0.32, 0.42),
        "eye_size": (0.1, 0.14),
        "nose_size": (0.16, 0.22),
        "leg_width": (0.34, 0.46),
        "body_depth": (1.1, 1.35),
    },
)
COW = Species(
    name="cow",
    ears={"leaf": 1.0},
    noses={"nostrils": 1.0},
    tails={"tuft": 1.0},
    horns={"short": 0.6, "none": 0.4},
    nose_colours=PINKS,
    ranges={
        "head_width": (0.76, 0.9),
        "cheek": (0.6, 0.72),
        "chin": (0.95, 1.15),
        "ear_size": (0.55, 0.75),
        "ear_place": (62, 76),
        "ear_turn": (35, 60),
        "muzzle_width": (0.5, 0.64),
        "muzzle_height": (0.34, 0.46),
        "muzzle_y": (0.6, 0.75),
        "eye_size": (0.12, 0.17),
        "nose_size": (0.2, 0.26),
        "snout": (0.85, 1.1),
        "body_length": (3.2, 4.0),
        "body_depth": (1.15, 1.4),
    },
)
HORSE = Species(
    name="horse",
    ears={"pricked": 0.4, "leaf": 0.6},
    noses={"nostrils": 1.0},
    tails={"hair": 1.0},
    ranges={
        "head_width": (0.62, 0.74),
        "cheek": (0.48, 0.58),
        "chin": (1.25, 1.5),
        "ear_size": (0.4, 0.55),
        "ear_place": (20, 32),
        "ear_turn": (-12, 4),
        "muzzle_width": (0.34, 0.44),
        "muzzle_height": (0.3, 0.4),
        "muzzle_y": (0.95, 1.15),
        "eye_x": (0.44, 0.54),
        "nose_size": (0.14, 0.18),
        "snout": (1.1, 1.5),
        "neck": (1.2, 2.0),
        "leg_length": (2.0, 2.7),
        "body_length": (3.0, 3.8),
    },
)
ELEPHANT = Species(
    name="elephant",
    ears={"fan": 1.0},
    tails={"tuft": 1.0},
    trunk=True,
    ranges={
        "head_width": (0.8, 0.92),
        "ear_size": (0.85, 1.1),
        "ear_place": (64, 78),
        "ear_turn": (-10, 15),
        "eye_size": (0.09, 0.13),
        "muzzle_width": (0.3, 0.36),
        "snout": (0.3, 0.45),
        "body_depth": (1.4, 1.7),
        "leg_width": (0.38, 0.5),
    },
)

MAMMALS = (RABBIT, BEAR, COW, HORSE, ELEPHANT)
