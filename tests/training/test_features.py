"""The feature cache: outputs of a split are computed once, trusted only while whole, and never taken for another key."""

import os
import threading
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from pipeline.data.dataset import Photos
from pipeline.training import features
from pipeline.training.features import ChunkedTensor, FeatureCache, evaluation, run_inference
from tests.training import tiny

PREPROCESSING = tiny.PREPROCESSING.model_copy(update={"input_size": (3, 8, 8)})
NUM_PHOTOS, CHUNK = 150, 64


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    """Photo i is red to the degree i."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{number:03d}.png" for number in range(NUM_PHOTOS)]
    for number, path in enumerate(paths):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    ids = tuple(path.stem for path in paths)
    return Photos(ids, tuple(paths), torch.zeros(NUM_PHOTOS, dtype=torch.int64), ids)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CHUNK", CHUNK)


class Reds:
    """A network that gives each photo's red, and twice that as its second output; it may break down after some photos."""

    def __init__(self, breaks_after: int = NUM_PHOTOS) -> None:
        self.seen, self.breaks_after = 0, breaks_after

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        if self.seen >= self.breaks_after:
            raise InterruptedError
        self.seen += len(pixels)
        reds = pixels[..., 0].float().mean((1, 2))[:, None]
        return reds, 2 * reds


EXPECTED = torch.arange(float(NUM_PHOTOS))[:, None]


def extract(photos: Photos, run: Callable[[Tensor], Any], caches: Sequence[FeatureCache | None] = (None, None)) -> int:
    """Runs the network over all photos, and checks its outputs; returns how many chunks they are in."""
    found = run_inference(run, photos, evaluation(PREPROCESSING), runtime=tiny.RUNTIME, description="testing", caches=caches)
    for factor, values in enumerate(found, start=1):
        assert torch.equal(values.tensor(), factor * EXPECTED)
    return len(found[0].chunks)


def both(folder: Path, key: int = 0) -> list[FeatureCache]:
    return [FeatureCache(folder, part=part, key=key) for part in (1, 2)]


def test_nothing_is_computed_twice_and_a_broken_run_goes_on(photos: Photos, tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        extract(photos, Reds(breaks_after=90), both(tmp_path))
    rest, nothing, other = Reds(), Reds(), Reds()
    assert extract(photos, rest, both(tmp_path)) == 3
    assert rest.seen == NUM_PHOTOS - CHUNK
    extract(photos, nothing, both(tmp_path))
    extract(photos, other, both(tmp_path, key=1))
    assert (nothing.seen, other.seen) == (0, NUM_PHOTOS)


def test_a_damaged_chunk_and_those_after_it_are_computed_again(
    photos: Photos, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caches = both(tmp_path)
    extract(photos, Reds(), caches)
    second = sorted(caches[0]._folder.glob("*-*"))[1]
    second.write_bytes(second.read_bytes()[:-1])
    network = Reds()
    extract(photos, network, caches)
    assert network.seen == NUM_PHOTOS - CHUNK
    assert capsys.readouterr().out.count("is damaged, or follows one that is") == 2


def test_a_kill_between_two_caches_leaves_no_gap(photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = FeatureCache.add

    def killed_after(cache: FeatureCache, number: int, values: Tensor) -> Tensor:
        add(cache, number, values)
        if number == 1:
            raise InterruptedError
        return values

    with monkeypatch.context() as patch:
        patch.setattr(FeatureCache, "add", killed_after)
        with pytest.raises(InterruptedError):
            extract(photos, Reds(), both(tmp_path))
    assert [len(cache.read()) for cache in both(tmp_path)] == [2, 1]
    extract(photos, Reds(), both(tmp_path))
    assert [len(torch.cat(cache.read())) for cache in both(tmp_path)] == [NUM_PHOTOS] * 2


def test_the_oldest_keys_go_where_all_would_be_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "MAX_CACHE_BYTES", 3 * 4200)
    caches = [FeatureCache(tmp_path, key=key) for key in range(5)]
    for second, cache in enumerate(caches[:3]):
        cache.add(0, torch.ones(1000))
        os.utime(cache._folder, (second, second))
    assert len(caches[0].read()) == 1  # which makes it the newest
    for cache in caches[3:]:
        cache.add(0, torch.ones(1000))
    assert [len(cache.read()) for cache in caches] == [1, 0, 0, 1, 1]
    monkeypatch.setattr(features, "MAX_CACHE_BYTES", 1)
    caches[4].add(1, torch.ones(1000))
    assert [len(cache.read()) for cache in caches] == [0, 0, 0, 0, 2]  # the newest stays, whatever its size


def test_order_stays_where_later_batches_are_done_first(photos: Photos) -> None:
    network, second_began = Reds(), threading.Event()

    def first_waits(pixels: Tensor) -> tuple[Tensor, Tensor]:
        if int(pixels[0, ..., 0].max()) == 0:
            assert second_began.wait(60), "no batch was begun before the first was done"
        else:
            second_began.set()
        return network(pixels)

    extract(photos, first_waits)


def test_an_asynchronous_device_has_one_batch_ahead() -> None:
    order: list[str] = []

    def run(pixels: Tensor) -> tuple[Tensor, ...]:
        order.append(f"begun {int(pixels)}")
        return (2 * pixels,)

    batches = ((torch.tensor(number), torch.zeros(2)) for number in range(4))
    for number, (values,) in enumerate(features._ahead(run, batches, asynchronous=True)):
        order.append(f"taken {number}")
        assert int(values) == 2 * number
    assert order == ["begun 0", "begun 1", "taken 0", "begun 2", "taken 1", "begun 3", "taken 2", "taken 3"]


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.data())
def test_rows_of_uneven_chunks_are_those_of_the_whole(sizes: list[int], data: st.DataObject) -> None:
    whole = torch.arange(2 * sum(sizes)).view(-1, 2)
    rows = iter(whole)
    chunked = ChunkedTensor([torch.stack(list(islice(rows, size))) for size in sizes])
    places = data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1))
    assert torch.equal(chunked.rows(places), whole[places])
    assert torch.equal(chunked.tensor(), whole)
