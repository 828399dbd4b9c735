"""Work that threads do ahead of those who ask for it. Imports nothing heavy."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def ahead(
    function: Callable[[S], T], items: Iterable[S], threads: int, most: int, initializer: Callable[[], None] | None = None
) -> Iterator[T]:
    """What a function gives of each item, in order, by threads; so many items are begun before one's result is waited for."""
    pool = ThreadPoolExecutor(threads, "decoding", initializer)
    under_way: deque[Future[T]] = deque()
    try:
        for item in items:
            under_way.append(pool.submit(function, item))
            if len(under_way) > most:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:  # also where the caller takes no more of them
        pool.shutdown(cancel_futures=True)
