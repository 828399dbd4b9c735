"""One photo of the audit: read it, decode it, hash it, store it, and describe it in one manifest row, in a worker process.

A file that crashes, hangs or starves its worker costs one row, and is named: a worker takes its files in turn, so it is known
which one it died of. Workers import this module, so it imports neither pandas nor torch. `read_as_stored` and `as_stored` are
for prediction.
"""

import hashlib
import io
import multiprocessing
import os
import signal
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from pipeline.preprocess.decode import MAX_FILE_BYTES, Decoded, Refused, decode, plain

Row = dict[str, str | int | bytes]

MAX_JPEG_SIDE = 65_500  # what libjpeg writes
REDUCING_GAP = 3.0  # Pillow may halve by plain averaging down to three times the final size: no difference is visible
THUMBNAIL_SIDE = 16
# What a row says where a file was not decoded.
UNKNOWN: Row = {"format": "", "mode": "", "width": 0, "height": 0, "orientation": 0, "bytes": 0, "sha256": "", "pixel_hash": ""}
UNKNOWN |= {"stored_width": 0, "stored_height": 0, "stored_bytes": 0, "stored_sha256": "", "thumbnail": b""}


class Task(NamedTuple):
    """One file to examine."""

    source: str | os.PathLike[str]
    stored: str  # where its stored photo goes; the folder exists
    id: str  # unique in the manifest
    path: str  # below the raw folder, printable
    label: str  # class
    size: int  # bytes, when it was listed
    stored_size: int  # upper bound of the stored photo's shorter side, in pixels


def refused_row(task: Task, reason: str) -> Row:
    """The row of a refused file."""
    row: Row = {"id": task.id, "path": task.path, "class": task.label, "status": "refused", "reason": reason}
    return row | UNKNOWN | {"bytes": task.size}


def examine(task: Task) -> Row:
    """Decode one file and store it; returns its manifest row, and the photo's `thumbnail`.

    An OSError says that the stored photo cannot be written, a MemoryError that the pixels do not fit into memory.
    """
    if task.size > MAX_FILE_BYTES:
        return refused_row(task, "file too large")
    try:
        data = Path(task.source).read_bytes()
    except OSError as error:
        return refused_row(task, f"cannot be read: {error.strerror}")
    row = refused_row(task, "") | {"sha256": hashlib.sha256(data).hexdigest()}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            decoded = decode(data)
        stored = stored_jpeg(data, decoded, task.stored_size)
    except Refused as error:
        return row | {"reason": str(error)}
    Path(task.stored).write_bytes(stored)
    notes = dict.fromkeys([*decoded.notes, *(f"decoder warning: {plain(str(warning.message))}" for warning in caught)])
    row |= {"status": "repaired" if notes else "kept", "reason": "; ".join(notes)}
    row |= {"format": decoded.format, "mode": decoded.mode, "orientation": decoded.orientation}
    row["width"], row["height"] = decoded.image.size
    row["stored_width"], row["stored_height"] = decoded.image.size if stored is data else Image.open(io.BytesIO(stored)).size
    row |= {"stored_bytes": len(stored), "stored_sha256": hashlib.sha256(stored).hexdigest()}
    return row | {"pixel_hash": pixel_hash(decoded.image), "thumbnail": thumbnail(decoded.image)}


def stored_jpeg(data: bytes, decoded: Decoded, stored_size: int) -> bytes:
    """The photo as it is stored: the bytes of a JPEG whose shorter side is at most `stored_size` pixels, in the same aspect.

    An upright RGB or grey JPEG that is small enough is stored byte for byte, because encoding again would lose detail.
    Everything else is encoded at quality 95 with full colour resolution. Shrinking uses Lanczos, which keeps more fine detail
    (fur, whiskers) than averaging and does not alias. `Refused` says that it is longer than a JPEG can be.
    """
    fits = min(decoded.image.size) <= stored_size
    if fits and decoded.format == "JPEG" and decoded.mode in ("RGB", "L") and decoded.orientation == 1:
        return data
    return _encoded(decoded.image, stored_size)


def read_as_stored(data: bytes, stored_size: int) -> Image.Image:
    """What reading the stored photo gives, for the bytes of a new file. Raises as `decode` and `stored_jpeg` do."""
    decoded = decode(data)
    jpeg = stored_jpeg(data, decoded, stored_size)
    return decoded.image if jpeg is data else _read_back(jpeg)


def as_stored(image: Image.Image, stored_size: int) -> Image.Image:
    """The same for an upright RGB image without a file, which is encoded only where it is shrunk."""
    return image if min(image.size) <= stored_size else _read_back(_encoded(image, stored_size))


def _encoded(image: Image.Image, stored_size: int) -> bytes:
    scale = stored_size / min(image.size)
    if scale < 1:
        size = (max(stored_size, round(image.width * scale)), max(stored_size, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP)
    if max(image.size) > MAX_JPEG_SIDE:
        raise Refused("too long and thin to store")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling="4:4:4")
    return buffer.getvalue()


def _read_back(jpeg: bytes) -> Image.Image:
    with Image.open(io.BytesIO(jpeg)) as image:
        return image.convert("RGB")


def pixel_hash(image: Image.Image) -> str:
    """SHA-256 of an RGB image's size and pixels: equal for equal pixels, whatever the file."""
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def thumbnail(image: Image.Image) -> bytes:
    """An RGB image averaged down to `THUMBNAIL_SIDE`² pixels, in whole numbers, which all processors do alike."""
    return image.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX, reducing_gap=2.0).tobytes()


FILES = 64  # at most, of one process: forking it takes milliseconds
SECONDS_PER_PHOTO = 60.0  # far more than `MAX_PIXELS` need; a decoder that is not done by then is in a loop


def examine_all(tasks: Sequence[Task], workers: int, seconds: float = SECONDS_PER_PHOTO) -> Iterator[Row]:
    """Examine every file with `workers` processes; yields rows in no particular order.

    A file whose worker dies, runs out of memory or takes more than `seconds` is examined again after all others, alone, since
    others may have taken the memory that it needs. If it fails again, it is refused. An OSError says that a stored photo cannot
    be written.
    """
    context, failed = _fork_server(), []
    for task, outcome in _outcomes(tasks, workers, seconds, context):
        if isinstance(outcome, str):
            failed.append(task)
        else:
            yield outcome
    for task, outcome in _outcomes(failed, 1, seconds, context):
        yield refused_row(task, outcome) if isinstance(outcome, str) else outcome


def _outcomes(
    tasks: Sequence[Task], workers: int, seconds: float, context: ForkServerContext
) -> Iterator[tuple[Task, Row | str]]:
    """Each task with its row, or with the reason why there is none."""
    size = max(min(len(tasks) // workers, FILES), 1)
    waiting = [deque(tasks[start : start + size]) for start in range(0, len(tasks), size)]
    busy: dict[Connection, tuple[ForkServerProcess, deque[Task]]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                files = waiting.pop()
                results, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(theirs, list(files), seconds), daemon=True)
                process.start()
                theirs.close()
                busy[results] = process, files
            ready = wait(list(busy))
            for results in [connection for connection in busy if connection in ready]:
                process, files = busy[results]
                try:
                    outcome = results.recv()
                except EOFError:  # it is done, or has died of the first of the files that are left
                    del busy[results]
                    process.join()
                    if not files:
                        continue
                    late = process.exitcode == -signal.SIGALRM
                    outcome = f"took longer than {seconds:g} s to decode" if late else "crashed the decoder"
                    waiting.append(files)
                if isinstance(outcome, OSError):
                    raise outcome
                yield files.popleft(), outcome
    finally:  # also where the work is given up, as by Ctrl-C
        for process, _ in busy.values():
            process.kill()


def _fork_server() -> ForkServerContext:
    """Fork workers from a server that has imported this module, that has no threads, and that does not hear Ctrl-C."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    resource_tracker.ensure_running()  # first, because it unblocks the signal again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes inherit that; Ctrl-C is for the main process alone
    forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return context


def _work(results: Connection, tasks: Sequence[Task], seconds: float) -> None:
    """Examine files in turn; where the main process is gone, sending raises."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff prints what is wrong with a file
    for task in tasks:
        signal.setitimer(signal.ITIMER_REAL, seconds)  # the alarm ends the process: nothing gentler stops a decoder in C
        try:
            outcome: Row | str | OSError = examine(task)
        except MemoryError:
            outcome = "not enough memory to decode"
        except OSError as error:
            outcome = error
        signal.setitimer(signal.ITIMER_REAL, 0)
        results.send(outcome)
