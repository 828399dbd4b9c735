"""A classifier says what its checkpoint says, of photos in any form, in any thread, and of what it cannot read why not."""

import io
import itertools
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import log_loss

from pipeline.checkpoint import read_info
from pipeline.errors import PipelineError
from pipeline.evaluation.calibration import temper
from pipeline.inference import Classifier, Prediction
from pipeline.inference.photo import Photo


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_it_agrees_with_what_training_measured(classifier: Classifier, checkpoint: Path, photos: list[Path]) -> None:
    """Decoding, preprocessing, backend and calibration all have a part in this."""
    info = read_info(checkpoint)
    predictions = classifier.predict(photos)
    actual = [path.parent.name for path in photos]
    assert classifier.classes == ("cat", "dog")
    assert np.mean([one.label == label for one, label in zip(predictions, actual, strict=True)]) == info.metrics["val_accuracy"]
    calibrated = np.array([list(one.probabilities.values()) for one in predictions])
    raw = temper(calibrated, 1 / info.metrics["temperature"])
    assert log_loss(actual, raw) == pytest.approx(info.metrics["val_log_loss"], rel=1e-4)
    assert log_loss(actual, calibrated) < log_loss(actual, raw)
    for one in predictions:
        assert sum(one.probabilities.values()) == pytest.approx(1)
        assert one.probability == max(one.probabilities.values()) == one.probabilities[one.label]
        assert one.is_ood == (one.distance > 1)
    assert sum(one.is_ood for one in predictions) == 1  # the farthest 1% of so few photos is one of them


def test_a_photo_may_come_in_any_form(classifier: Classifier, photos: list[Path]) -> None:
    content = photos[0].read_bytes()
    with Image.open(photos[0]) as file:
        image = file.convert("RGB")
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    forms: list[Photo] = [photos[0], str(photos[0]), content, Image.open(photos[0]), image, np.asarray(image)]
    forms += [np.dstack([np.asarray(image), np.full((image.height, image.width), 255, np.uint8)])]
    forms += [
        encoded(image, "PNG"),
        encoded(turned, "PNG", exif=exif),
        Image.open(io.BytesIO(encoded(turned, "PNG", exif=exif))),
    ]
    first, *others = classifier.predict(forms)
    for other in others:
        assert other.label == first.label
        assert other.probability == pytest.approx(first.probability, rel=1e-4)
        assert other.distance == pytest.approx(first.distance, rel=1e-4)
    grey = np.asarray(image.convert("L"))
    assert classifier.predict([grey]) == classifier.predict([np.dstack([grey] * 3)])


def test_threads_predict_what_one_predicts(classifier: Classifier, photos: list[Path]) -> None:
    parts = [photos[start:] + photos[:start] for start in range(6)]
    alone = [classifier.predict(part) for part in parts]
    with ThreadPoolExecutor(len(parts)) as pool:
        assert list(pool.map(classifier.predict, parts)) == alone
        pictures = list(pool.map(classifier.explain, photos[:4], ["dog"] * 4))
    assert [one.tobytes() for one in pictures] == [classifier.explain(photo, "dog").tobytes() for photo in photos[:4]]


def test_a_photo_that_cannot_be_read_is_named_with_the_reason(
    classifier: Classifier, photos: list[Path], tmp_path: Path
) -> None:
    torn = tmp_path / "torn.jpg"
    torn.write_bytes(photos[0].read_bytes()[:2000])
    bad: dict[str, Photo] = {
        "torn.jpg cannot be predicted: truncated": torn,
        "no such file": tmp_path / "absent.jpg",
        "folder without photos": tmp_path,
        "as bytes cannot be predicted: not a photo": b"<html>",
        "empty file": b"",
        "must be uint8": np.zeros((4, 4, 3)),
        r"shape \(4, 4, 2\)": np.zeros((4, 4, 2), np.uint8),
        "unsupported pixel format: F": Image.new("F", (8, 8)),
        "too many pixels": Image.new("1", (12_000, 9_000)),
    }
    for message, photo in bad.items():
        with pytest.raises(PipelineError, match=message):
            classifier.predict([photos[0], photo])
    outcomes = list(classifier.predict_each([torn, photos[0], *bad.values(), photos[1]]))
    good = [isinstance(one, Prediction) for one in outcomes]
    assert good == [False, True] + [False] * len(bad) + [True]
    assert classifier.predict([]) == []


def test_photos_are_taken_as_they_are_needed(classifier: Classifier, photos: list[Path]) -> None:
    endless = classifier.predict_each(itertools.cycle(photos))
    assert all(isinstance(one, Prediction) for one in itertools.islice(endless, 40))
    endless.close()


def test_nothing_like_a_photo_is_is_ood(classifier: Classifier) -> None:
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (160, 200, 3), dtype=np.uint8) for _ in range(8)]
    flat = [np.full((160, 200, 3), shade, np.uint8) for shade in (0, 90, 255)]
    assert all(one.is_ood for one in classifier.predict([*noise, *flat]))


def test_an_explanation_is_the_networks_crop_with_colours_where_it_looked(classifier: Classifier, photos: list[Path]) -> None:
    picture = classifier.explain(photos[0], classifier.predict(photos[:1])[0].label)
    assert picture.size == (128, 128)
    pixels = np.asarray(picture, dtype=int)
    assert np.ptp(pixels, axis=2).max() > 30
    with pytest.raises(PipelineError, match="cannot be explained: not a photo"):
        classifier.explain(b"no photo", "cat")


def test_a_checkpoint_that_cannot_be_used_is_told(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no checkpoint"):
        Classifier.load(tmp_path)
    poor = tmp_path / "poor"
    shutil.copytree(checkpoint, poor)
    (poor / "ood.safetensors").unlink()
    with pytest.raises(PipelineError, match=r"ood.safetensors is missing.*dvc repro"):
        Classifier.load(poor)
    shutil.copy(checkpoint / "ood.safetensors", poor)
    info = poor / "checkpoint.json"
    info.write_text(info.read_text().replace('"temperature"', '"warmth"'))
    with pytest.raises(PipelineError, match="without a temperature"):
        Classifier.load(poor)
    with pytest.raises(PipelineError, match="no such device"):
        Classifier.load(checkpoint, device="cuda:99")
