"""A classifier predicts what evaluation measured, of photos in any form, in any thread, and names what it cannot read."""

import io
import itertools
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.checkpoint import read_info
from pipeline.data.manifest import read_manifest
from pipeline.errors import PipelineError
from pipeline.inference import Classifier, Photo, Prediction
from pipeline.inference.classifier import open_photo


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["frozen", "finetuned"])
def test_original_photos_get_the_probabilities_that_evaluation_gave_the_stored_ones(project: Path, name: str) -> None:
    """Decoding, storing, preprocessing and backend all have a part in this."""
    evaluated = pd.read_csv(project / "outputs/evaluation/predictions.csv", dtype={"id": str})
    manifest = read_manifest(project / "data/processed").set_index("id").loc[evaluated["id"]]
    classifier = Classifier.load(project / "outputs" / name)
    originals = [project / "data/raw" / path for path in manifest["path"]]
    shrunk = manifest["stored_width"] < manifest["width"]
    assert shrunk.any()
    assert not shrunk.all()
    predictions = classifier.predict(originals)
    assert [one.label for one in predictions] == list(evaluated[name])
    for label in classifier.classes:
        predicted = [one.probabilities[label] for one in predictions]
        np.testing.assert_allclose(predicted, evaluated[f"{name}_{label}"], atol=1e-5)
    for path, stored in zip(originals, evaluated["path"], strict=True):
        with Image.open(project / stored) as image:
            np.testing.assert_array_equal(open_photo(path, classifier.info.stored_size), image.convert("RGB"))


def test_predictions_hold_together(classifier: Classifier, checkpoint: Path, photos: list[Path]) -> None:
    predictions = classifier.predict(photos)
    right = [one.label == path.parent.name for one, path in zip(predictions, photos, strict=True)]
    assert np.mean(right) == pytest.approx(read_info(checkpoint).metrics["val_accuracy"])
    for one in predictions:
        assert sum(one.probabilities.values()) == pytest.approx(1)
        assert one.probability == max(one.probabilities.values()) == one.probabilities[one.label]
        assert one.is_ood == (one.ood_score > 1)
    assert sum(one.is_ood for one in predictions) == 1  # the farthest 1% of so few photos is one of them


def test_a_photo_may_come_in_any_form(classifier: Classifier, photos: list[Path]) -> None:
    content = photos[0].read_bytes()
    with Image.open(photos[0]) as file:
        image = file.convert("RGB")
    forms: list[Photo] = [photos[0], str(photos[0]), content, Image.open(photos[0]), image, np.asarray(image)]
    first, *others = classifier.predict(forms)
    assert others == [first] * len(others)
    for form in forms:
        assert classifier.predict(form) == [first]
    grey = np.asarray(image.convert("L"))
    assert classifier.predict(grey) == classifier.predict([np.dstack([grey] * 3)])


def test_what_is_no_plain_jpeg_is_encoded_as_the_stored_photos_were(classifier: Classifier, photos: list[Path]) -> None:
    with Image.open(photos[0]) as file:
        image = file.convert("RGB")
    stored = Image.open(io.BytesIO(encoded(image, "JPEG", quality=95, subsampling="4:4:4"))).convert("RGB")
    turned, exif = image.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6
    forms: list[Photo] = [
        encoded(image, "PNG"),
        encoded(turned, "PNG", exif=exif),
    ]
    for form in forms:
        np.testing.assert_array_equal(open_photo(form, 512), stored)
    pixels: list[Photo] = [  # without a file they are encoded only where they are shrunk
        Image.open(io.BytesIO(encoded(turned, "PNG", exif=exif))),
        np.dstack([np.asarray(image), np.full((image.height, image.width), 255, np.uint8)]),
    ]
    for form in pixels:
        np.testing.assert_array_equal(open_photo(form, 512), image)
    assert min(open_photo(image.resize((900, 700)), 256).size) == 256


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


def test_noise_is_further_from_the_training_photos_than_photos_are(classifier: Classifier, photos: list[Path]) -> None:
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (160, 200, 3), dtype=np.uint8) for _ in range(8)]
    scores = [one.ood_score for one in classifier.predict(photos)]
    assert min(one.ood_score for one in classifier.predict(noise)) > np.median(scores)


def test_an_explanation_is_the_networks_crop_with_colours_where_it_looked(classifier: Classifier, photos: list[Path]) -> None:
    picture = classifier.explain(photos[0], classifier.predict(photos[0])[0].label)
    assert picture.size == classifier.info.preprocessing.input_size[:0:-1]
    pixels = np.asarray(picture, dtype=int)
    assert np.ptp(pixels, axis=2).max() > 30
    with pytest.raises(PipelineError, match="cannot be explained: not a photo"):
        classifier.explain(b"no photo", "cat")


def test_params_of_the_run_do_not_make_a_processor_round(checkpoint: Path, tmp_path: Path, photos: list[Path]) -> None:
    """The backend that computed the features is no property of the checkpoint."""
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    content = json.loads((other / "checkpoint.json").read_text())
    content["params"]["train_frozen_backbone"]["backend"] = "openvino"
    (other / "checkpoint.json").write_text(json.dumps(content))
    expected = Classifier.load(checkpoint, device="cpu", threads=1).predict(photos[:4])
    assert Classifier.load(other, device="cpu", threads=1).predict(photos[:4]) == expected


def test_a_checkpoint_that_cannot_be_used_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no checkpoint"):
        Classifier.load(tmp_path)
    poor = tmp_path / "poor"
    shutil.copytree(checkpoint, poor)
    (poor / "ood.safetensors").unlink()
    with pytest.raises(PipelineError, match=r"ood.safetensors is missing.*dvc repro"):
        Classifier.load(poor)
    with pytest.raises(PipelineError, match="no such device"):
        Classifier.load(checkpoint, device="cuda:99")
