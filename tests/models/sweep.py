"""The contract of heads and freezing over every architecture of timm and torchvision, on the meta device.

    python -m tests.models.sweep               # all of them: about ten minutes on one core
    python -m tests.models.sweep 'convnext*'   # timm's that match

Prints what fails and, at the end, the counts; exits with status 1 if anything failed that `EXCEPTIONS` does not list.
"""

import sys
import time
import traceback

import timm
import torchvision

from tests.models.contract import EXCEPTIONS, check_timm, check_torchvision


def main(pattern: str) -> int:
    started = time.monotonic()
    failed = {"timm": [], "torchvision": []}
    architectures = {"timm": timm.list_models(pattern), "torchvision": []}
    if pattern == "*":
        architectures["torchvision"] = torchvision.models.list_models(torchvision.models)
    for library, check in (("timm", check_timm), ("torchvision", check_torchvision)):
        for name in architectures[library]:
            try:
                check(name)
            except Exception as error:  # of any kind: the sweep goes on and tells
                failed[library].append(name)
                where = traceback.extract_tb(error.__traceback__)[-1]
                known = EXCEPTIONS.get(name)
                print(f"{name}: {known or f'{type(error).__name__} {error} ({where.filename}:{where.lineno})'}", flush=True)
    for library, names in failed.items():
        total = len(architectures[library])
        print(f"{library}: {total - len(names)} of {total} architectures pass")
    print(f"{time.monotonic() - started:.0f} s")
    return int(any(name not in EXCEPTIONS for names in failed.values() for name in names))


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:2] or ["*"])))
