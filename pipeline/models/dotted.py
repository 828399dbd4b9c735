"""Dotted names of modules and of what lies below them."""

from collections.abc import Iterable


def is_within(name: str, paths: Iterable[str]) -> bool:
    """Whether a name is one of the paths, or of something below one.

    In plain Python: `name.startswith(path)`, which takes `fc2.weight` for a part of `fc`.

    >>> is_within("fc.weight", ["fc"]), is_within("fc2.weight", ["fc"])
    (True, False)
    """
    return any(f"{name}.".startswith(f"{path}.") for path in paths)
