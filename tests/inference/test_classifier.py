"""A classifier predicts what evaluation measured, of photos in any form, in any thread, and names what it cannot read."""

import copy
import io
import itertools
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.checkpoint import read_info, read_model_state, save_checkpoint
from pipeline.data.dataset import Photos
from pipeline.data.manifest import read_manifest
from pipeline.data.transforms import evaluation_transform
from pipeline.inference import Classifier, Photo, Prediction
from pipeline.inference.classifier import open_photo
from pipeline.models.backbone import rebuild
from pipeline.params import Runtime
from pipeline.runtime import resolve_device, resolve_runtime
from pipeline.stages import unfreeze_finetune
from pipeline.training.activations import SplitNetwork
from tests.refusals import refused


@pytest.mark.parametrize("name", ["frozen", "finetuned"])
def test_original_photos_get_the_probabilities_that_evaluation_gave_the_stored_ones(project: Path, name: str) -> None:
    """Decoding, storing, preprocessing and backend all have a part in this."""
    evaluated = pd.read_csv(project / "outputs/evaluation/predictions.csv", dtype={"id": str})
    manifest = read_manifest(project / "data/processed").set_index("id").loc[evaluated["id"]]
    classifier = Classifier.load(project / "outputs" / name)
    originals = [project / "data/raw" / path for path in manifest["path"]]
    assert (manifest["stored_width"] < manifest["width"]).nunique() == 2  # some were shrunk, and some were not
    predictions = classifier.predict(originals)
    assert [one.label for one in predictions] == list(evaluated[name])
    for label in classifier.classes:
        predicted = [one.probabilities[label] for one in predictions]
        np.testing.assert_allclose(predicted, evaluated[f"{name}_{label}"], atol=1e-5)
    for path, stored, one in zip(originals, evaluated["path"], predictions, strict=True):
        with Image.open(project / stored) as image:
            np.testing.assert_array_equal(open_photo(path, classifier.info.stored_size), image.convert("RGB"))
        assert one.probability == max(one.probabilities.values()) == one.probabilities[one.label]
        assert one.is_ood == (one.ood_score > 1)


def test_fine_tuning_does_not_change_what_is_out_of_distribution(project: Path, tmp_path: Path) -> None:
    """A checkpoint whose upper blocks have moved, as unfreeze-finetune saves it where fine-tuned weights are kept."""
    frozen = project / "outputs/frozen"
    info, manifest = read_info(frozen), read_manifest(project / "data/processed")
    model, runtime = rebuild(info, read_model_state(frozen)), resolve_runtime(Runtime(device="cpu", workers=0))
    network = SplitNetwork(model, 2, info.preprocessing, "torch", runtime)
    train, val = (Photos.of_split(manifest, project / "data/processed", name, info.classes) for name in ("train", "val"))
    detector = unfreeze_finetune._ood_of_trained(network, train, val)
    moved, found = copy.deepcopy(model), []
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1 + 0.5 * parameter.requires_grad)
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    strange = [noise, np.full_like(noise, 200)]
    for name, network_now in {"before": model, "after": moved}.items():
        save_checkpoint(tmp_path / name, info.model_copy(update={"ood_blocks": 2}), network_now.state_dict(), detector)
        classifier = Classifier.load(tmp_path / name)
        found.append(classifier.predict([*val.paths, *strange]))
        assert next(iter(classifier.embed_each([noise]))).shape == (model.num_features,)
    before, after = found
    assert [one.probability for one in before] != [one.probability for one in after]
    scores = [one.ood_score for one in before]
    np.testing.assert_allclose([one.ood_score for one in after], scores, rtol=1e-3)
    assert sum(one.is_ood for one in before[:-2]) <= 1
    assert all(one.is_ood for one in before[-2:])


@pytest.fixture
def image(photos: list[Path]) -> Image.Image:
    """The first photo."""
    with Image.open(photos[0]) as file:
        return file.convert("RGB")


def test_a_photo_may_come_in_any_form(classifier: Classifier, photos: list[Path], image: Image.Image) -> None:
    content = photos[0].read_bytes()
    forms: list[Photo] = [photos[0], str(photos[0]), content, Image.open(photos[0]), image, np.asarray(image)]
    first, *others = classifier.predict(forms)
    assert others == [first] * len(others)
    opened = photos[0].open("rb")
    opened.read(100)
    single = [np.asarray(image), content, bytearray(content), opened, io.BytesIO(content)]
    assert all(classifier.predict(one) == [first] for one in single)
    floats = np.dstack([image, np.full((image.height, image.width), 255)]) / 255
    for array in (floats.astype(np.float32), floats[..., :3], floats.astype(np.float16)):
        np.testing.assert_array_equal(open_photo(array, 512), image)
    opened.close()
    grey = np.asarray(image.convert("L"))
    assert classifier.predict(grey) == classifier.predict([np.dstack([grey] * 3)])


def test_pixels_without_a_file_are_turned_upright_and_encoded_only_where_they_are_shrunk(image: Image.Image) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    opaque = np.dstack([np.asarray(image), np.full((image.height, image.width), 255, np.uint8)])
    for form in (Image.open(file), opaque):
        np.testing.assert_array_equal(open_photo(form, 512), image)
    stored = io.BytesIO()  # a file that is no JPEG is seen as it would have been stored
    image.save(stored, "JPEG", quality=95, subsampling="4:4:4")
    np.testing.assert_array_equal(open_photo(file.getvalue(), 512), Image.open(stored).convert("RGB"))
    assert min(open_photo(image.resize((900, 700)), 256).size) == 256


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_a_photo_is_cropped_as_in_evaluation(checkpoint: Path, image: Image.Image, tmp_path: Path, mode: str) -> None:
    changed = Path(shutil.copytree(checkpoint, tmp_path / "changed"))
    content = json.loads((changed / "checkpoint.json").read_text())
    content["preprocessing"] |= {"crop_mode": mode, "input_size": [3, 96, 96]}
    (changed / "checkpoint.json").write_text(json.dumps(content))
    info = read_info(changed)
    photo = image.resize((190, 120))
    model = rebuild(info, read_model_state(changed)).eval()
    with torch.inference_mode():
        expected = model(evaluation_transform(info.preprocessing)(photo)[None]).double().softmax(1)[0].tolist()
    [prediction] = Classifier.load(changed).predict(photo)
    np.testing.assert_allclose([*prediction.probabilities.values()], expected, atol=1e-5)


def test_threads_predict_and_explain_what_one_does(classifier: Classifier, photos: list[Path]) -> None:
    parts = [photos[start : start + 8] for start in range(4)]
    alone = [classifier.predict(part) for part in parts]
    with ThreadPoolExecutor(len(parts)) as pool:
        assert list(pool.map(classifier.predict, parts)) == alone
        pictures = list(pool.map(classifier.explain, photos[:3], ["Dog"] * 3))
    assert [one.tobytes() for one in pictures] == [classifier.explain(photo, "Dog").tobytes() for photo in photos[:3]]
    assert pictures[0].size == classifier.info.preprocessing.input_size[:0:-1]
    assert np.ptp(np.asarray(pictures[0], dtype=int), axis=2).max() > 30  # in colours


def test_what_cannot_be_predicted_or_explained_is_named(classifier: Classifier, photos: list[Path], tmp_path: Path) -> None:
    torn = tmp_path / "torn.jpg"
    torn.write_bytes(photos[0].read_bytes()[:2000])
    closed = torn.open("rb")
    closed.close()
    bad: dict[str, Photo] = {
        "torn.jpg cannot be predicted: truncated": torn,
        "cannot be read: No such file": tmp_path / "absent.jpg",
        "cannot be read: Is a directory": tmp_path,
        "as bytes cannot be predicted: not a photo": b"<html>",
        "empty file": b"",
        "no photo: floats beyond 0 to 1": np.asarray(Image.open(photos[0]), np.float32),
        "no photo: .* NaN": np.full((4, 4), np.nan),
        r"\(3, 40, 50\) of uint8; give \(height, width\)": np.zeros((3, 40, 50), np.uint8),
        "of int64; give": np.zeros((40, 50, 3), np.int64),
        "it is opened as text": io.StringIO("photo"),
        "closed file": closed,
        "as dict cannot be predicted: cannot be read": {},  # type: ignore[dict-item]
        "no pixels": np.zeros((0, 4, 3), np.uint8),
        "unsupported pixel format: F": Image.new("F", (8, 8)),
        "too many pixels": Image.new("1", (12_000, 9_000)),
    }
    for message, photo in bad.items():
        refused(message, classifier.predict, [photo])
    outcomes = list(classifier.predict_each([torn, photos[0], *bad.values(), photos[1]]))
    assert [isinstance(one, Prediction) for one in outcomes] == [False, True] + [False] * len(bad) + [True]
    refused("cannot be explained: not a photo", classifier.explain, b"no photo", "Cat")
    refused(r"There is no class 'bird'\. The checkpoint has Cat, Dog\.", classifier.explain, photos[0], "bird")
    assert classifier.predict([]) == []


def test_photos_are_taken_as_they_are_needed(classifier: Classifier, photos: list[Path]) -> None:
    endless = classifier.predict_each(itertools.cycle(photos))
    assert all(isinstance(one, Prediction) for one in itertools.islice(endless, 40))
    endless.close()


def test_a_checkpoint_that_cannot_be_used_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    refused("no checkpoint", Classifier.load, tmp_path)
    poor = Path(shutil.copytree(checkpoint, tmp_path / "poor"))
    (poor / "ood.safetensors").unlink()
    refused(r"ood.safetensors is missing.*dvc repro", Classifier.load, poor)
    refused("no such device", Classifier.load, checkpoint, device="cuda:99")


def test_an_accelerator_that_does_not_compute_is_named_and_the_processor_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("meta"))
    assert resolve_device("auto") == torch.device("cpu")
    assert capsys.readouterr().err.startswith("meta does not compute (")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert resolve_device("auto") == torch.device("meta")  # each of the processes gets one of its own later
