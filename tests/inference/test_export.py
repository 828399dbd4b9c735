"""An export works in every format without this project's code, and one that differs is never put in place."""

import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import timm
import torch
from PIL import Image

from pipeline.checkpoint import BackboneInfo, Preprocessing, read_info, read_model_state
from pipeline.data.transforms import evaluation_transform
from pipeline.errors import PipelineError
from pipeline.files import sha256_of
from pipeline.inference import Classifier
from pipeline.inference import export as export_module
from pipeline.inference.export import EXPORT_FORMATS, Loaded, Trained, Unsupported, export, with_preprocessing
from pipeline.inference.hub import licence_of, published, push, refuse_unpushable, write_card, write_space
from pipeline.models.backbone import rebuild
from tests.clones import ROOT, run
from tests.inference.hub_uploads import stand_in_hub
from tests.refusals import refused

NETWORKS = {"config.json", "model.onnx", "model.pt2", "model.safetensors", "model_with_preprocessing.onnx"}
NETWORKS |= {"openvino_model.bin", "openvino_model.xml"}
NETWORKS |= {"model.pte"} if importlib.util.find_spec("executorch") else set()
FILES = NETWORKS | {"README.md", "classes.json", "export.json"}
IDENTITY = '<ir_version: 9, opset_import: ["": 20]> network (float[n, 3, h, w] images) => (float[n, 3, h, w] logits) '
TIMM = EXPORT_FORMATS[0]


@pytest.fixture(scope="module")
def exported(project: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "export"
    folders = {"processed": project / "data/processed", "evaluation": project / "outputs/evaluation"}
    export(checkpoint, output, source="microsoft", **folders)
    return output


def test_everything_is_there_and_agrees(exported: Path) -> None:
    described = json.loads((exported / "export.json").read_text())
    assert {path.name for path in exported.iterdir()} == FILES
    assert described["files"] == {name: sha256_of(exported / name) for name in FILES - {"export.json"}}
    assert [one["format"] for one in described["formats"]] == [one.name for one in EXPORT_FORMATS if {*one.files} <= FILES]
    assert described["compared_on"] > 10
    assert all(one["difference"] <= one["tolerance"] and one["other_labels"] == 0 for one in described["formats"])
    for one in described["formats"]:
        assert one["megabytes"] == pytest.approx(sum((exported / name).stat().st_size for name in one["files"]) / 1e6, abs=1e-3)
        assert 0.1 < one["milliseconds_a_photo"] < 1000
    assert [path.name for path in exported.parent.iterdir()] == ["export"]
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1
    for path in exported.iterdir():  # zip archives among them, which are stored and not compressed
        content = path.read_bytes()
        assert not any(os.fsencode(f"{private}/") in content for private in (sys.prefix, Path.home(), ROOT))


def test_formats_work_without_this_project(exported: Path, checkpoint: Path, photos: list[Path]) -> None:
    """By the ways of the model card, from a photo of another size, one at a time and several."""
    info = read_info(checkpoint)
    with Image.open(photos[0]) as file:
        photo = file.convert("RGB").resize((411, 290))
    original = rebuild(info, read_model_state(checkpoint)).eval()
    model = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    images = transform(photo)[None]
    with torch.inference_mode():
        expected = original(evaluation_transform(info.preprocessing)(photo)[None])
        torch.testing.assert_close(model(images), expected)
        program = torch.export.load(str(exported / "model.pt2")).module()
        torch.testing.assert_close(program(images.expand(5, -1, -1, -1)), expected.expand(5, -1), atol=1e-4, rtol=1e-4)
    assert model.pretrained_cfg["label_names"] == ["Cat", "Dog"]
    plain = onnxruntime.InferenceSession(exported / "model.onnx")
    torch.testing.assert_close(torch.tensor(plain.run(None, {"images": images.numpy()})[0]), expected, atol=1e-4, rtol=1e-4)
    compiled = openvino.Core().compile_model(exported / "openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    both = torch.tensor(compiled(images.expand(2, -1, -1, -1).numpy())["logits"])
    torch.testing.assert_close(both, expected.expand(2, -1), atol=1e-4, rtol=1e-4)
    whole = onnxruntime.InferenceSession(exported / "model_with_preprocessing.onnx")
    (logits,) = whole.run(["logits"], {"photos": np.stack([np.asarray(photo)] * 3)})
    torch.testing.assert_close(torch.tensor(logits), expected.expand(3, -1), atol=0.05, rtol=0.05)
    metadata = whole.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == ["Cat", "Dog"]
    assert Preprocessing.model_validate_json(metadata["preprocessing"]) == info.preprocessing


def test_the_card_is_what_the_hub_reads_and_what_was_measured(exported: Path, checkpoint: Path, project: Path) -> None:
    measured = json.loads((project / "outputs/evaluation/metrics.json").read_text())
    scores = measured["frozen"]
    card = huggingface_hub.ModelCard.load(exported / "README.md")
    licence = licence_of(read_info(checkpoint).backbone)
    assert card.data.license == (licence or "other")
    assert (card.data.library_name, card.data.pipeline_tag) == ("timm", "image-classification")
    assert card.data.datasets == ["microsoft/cats_vs_dogs"]
    assert card.data.metrics == ["accuracy", "log_loss", "roc_auc"]
    assert {of.metric_type: of.metric_value for of in card.data.eval_results} == {
        name: scores[name] for name in card.data.metrics
    }
    front = (exported / "README.md").read_text().split("---\n")[1]
    assert huggingface_hub.ModelCardData(**card.data.__dict__).to_yaml() == front.strip()  # nothing is lost on the way
    for text in (
        f"{scores['accuracy']:.2%} (interval {scores['accuracy_low']:.2%} to {scores['accuracy_high']:.2%})",
        f"| {scores['ece']:.4f} |",
        f"On {measured['num_test']} test photos",
        "| timm | model.safetensors, config.json |",
        '"CPU", {"INFERENCE_PRECISION_HINT": "f32"})',
    ):
        assert text in card.text
    assert not {"{{", "{%", "None"} & set(card.text.split())


def backbone(weights: str, name: str = "resnet18.a1_in1k", *parts: BackboneInfo) -> BackboneInfo:
    return BackboneInfo(name=name, kwargs={}, weights=weights, weights_sha256=None, parts=parts)


def test_the_licence_is_that_of_the_weights(tmp_path: Path) -> None:
    def licence(weights: str) -> str:
        return licence_of(backbone(weights))

    (tmp_path / "mine.json").write_text('{"licence": "BSD-3-Clause"}')
    assert licence("none") == "mit"
    assert licence("package") == licence("pretrained") == "apache-2.0"
    assert licence(str(tmp_path / "mine.pth")) == "bsd-3-clause"
    assert licence(str(tmp_path / "other.pth")) == licence("hf-hub:someone/cats") == ""
    for first, of_all in (("pretrained", "apache-2.0"), ("none", "")):  # of several backbones: known where they have the same
        parts = backbone(first), backbone("pretrained", "convnext_tiny.fb_in1k")
        assert licence_of(backbone("pretrained", "resnet18.a1_in1k + convnext_tiny.fb_in1k", *parts)) == of_all


@pytest.mark.parametrize(
    ("licence", "identifier", "name"),
    [
        ("BSD-3-Clause", "bsd-3-clause", None),
        ("dinov3-license", "other", "dinov3-license"),
        ("My terms, of 2026", "other", "my-terms-of-2026"),
    ],
)
def test_a_card_names_a_licence_as_the_hub_takes_it_and_a_weights_file_without_its_path(
    checkpoint: Path, tmp_path: Path, licence: str, identifier: str, name: str | None
) -> None:
    weights = tmp_path / "mine.pth"
    weights.with_suffix(".json").write_text(json.dumps({"licence": licence}))
    info = read_info(checkpoint)
    params = info.params | {"backbone": info.params["backbone"] | {"weights": str(weights)}}
    info = info.model_copy(update={"backbone": backbone(str(weights)), "params": params})
    facts = {"splits": {}, "formats": [], "left_out": {}, "compared_on": 0, "machine": ""}
    for near_groups, alike in ((0, "photos of equal pixels"), (3, "near-duplicates")):
        params["head"] |= {"class_weight": "balanced" if near_groups else "none"}
        write_card(tmp_path, info, None, "drawn", near_groups=near_groups, **facts)
        card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
        assert f"{alike} never lie in two" in card.text
        assert ("where classes are equally frequent" in card.text) == bool(near_groups)
    assert (card.data.license, card.data.license_name) == (identifier, name)
    assert "(`mine.pth`)" in card.text
    assert str(tmp_path) not in card.content + published(info).model_dump_json()


def test_the_code_of_a_card_turns_a_photo_upright_and_lays_it_over_white(
    exported: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(photos[0]) as photo:
        photo.save(tmp_path / "upright.png")
        photo.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "sideways.png", exif=exif)
        Image.new("RGB", photo.size, "white").save(tmp_path / "white.png")
        Image.new("RGBA", photo.size, (255, 0, 0, 0)).save(tmp_path / "transparent.png")
    monkeypatch.chdir(exported)
    for code in re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)[:2]:
        logits = []
        for name in ("upright.png", "sideways.png", "white.png", "transparent.png"):
            names: dict[str, Any] = {}
            exec(code.replace("FOLDER", str(exported)).replace("photo.jpg", str(tmp_path / name)), names)
            logits.append(names["logits"].tolist())
        assert logits[0] == logits[1] != logits[2] == logits[3]


@pytest.mark.parametrize(
    ("interpolation", "side", "crop", "mode"),
    [
        ("bicubic", 224, 0.875, "center"),
        ("bicubic", 65, 0.9, "center"),
        ("bilinear", 128, 1.0, "center"),
        ("bilinear", 65, 0.9, "squash"),
        ("bicubic", 96, 1.0, "squash"),
        ("bicubic", 65, 1.0, "border"),
    ],
)
def test_preprocessing_in_the_graph_is_that_of_pillow(
    checkpoint: Path, interpolation: str, side: int, crop: float, mode: str
) -> None:
    changes = {"input_size": (3, side, side), "interpolation": interpolation, "crop_pct": crop, "crop_mode": mode}
    preprocessing = read_info(checkpoint).preprocessing.model_copy(update=changes)
    network = onnx.parser.parse_model(IDENTITY + "{ logits = Identity (images) }")
    session = onnxruntime.InferenceSession(with_preprocessing(network, preprocessing).SerializeToString())
    random, transform = np.random.default_rng(0), evaluation_transform(preprocessing)
    for width, height in ((300, 200), (199, 301), (side, side), (90, 700), (1000, 777), (40, 31)):
        coarse = random.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), dtype=np.uint8)
        photo = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        (prepared,) = session.run(None, {"photos": np.asarray(photo)[None]})
        levels = np.abs(prepared[0] - transform(photo).numpy()) * np.reshape(preprocessing.std, (3, 1, 1)) * 255
        assert levels.mean() < 0.2  # of 255
        assert levels.max() < 16
    bordered = {"crop_mode": "border", "crop_pct": 0.9}
    for change, message in (({"interpolation": "lanczos"}, "no lanczos"), (bordered, "none for the crop border of 0.9")):
        with pytest.raises(Unsupported, match=message):
            with_preprocessing(network, preprocessing.model_copy(update=change))


def test_a_format_that_differs_is_refused_and_the_old_export_stands(
    project: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_wrong(trained: Trained, folder: Path) -> Loaded:
        run, batches = TIMM.write(trained, folder)
        return lambda images: run(images) + torch.tensor([0.0, 0.01]), batches

    arguments = {"processed": project / "data/processed", "evaluation": tmp_path, "source": "drawn"}
    monkeypatch.setattr(export_module, "EXPORT_FORMATS", (TIMM,))
    export(checkpoint, tmp_path / "out", **arguments)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(export_module, "EXPORT_FORMATS", (TIMM._replace(write=write_wrong),))
    refused(r"Nothing was exported: 'timm'.*differ by", export, checkpoint, tmp_path / "out", **arguments)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    refused("no earlier export", export, checkpoint, tmp_path, **arguments)
    assert (tmp_path / "out/README.md").is_file()


def test_a_format_that_a_network_cannot_have_is_left_out_with_the_reason(
    project: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_hidden_layers(trained: Trained, folder: Path) -> Loaded:
        head = trained.info.head.model_copy(update={"hidden": (16,)})
        return TIMM.write(replace(trained, info=trained.info.model_copy(update={"head": head})), folder)

    def write_broken(trained: Trained, folder: Path) -> Loaded:
        (folder / "model.onnx").write_bytes(b"broken")
        return onnxruntime.InferenceSession(folder / "model.onnx").run, []

    formats = TIMM._replace(write=with_hidden_layers), EXPORT_FORMATS[1]._replace(write=write_broken), EXPORT_FORMATS[-1]
    monkeypatch.setattr(export_module, "EXPORT_FORMATS", formats)
    monkeypatch.setitem(sys.modules, "executorch.backends.xnnpack.partition.xnnpack_partitioner", None)
    (tmp_path / "metrics.json").write_text(json.dumps({"num_test": 123, "frozen": {"model_sha256": 64 * "0"}}))
    export(checkpoint, tmp_path / "out", processed=project / "data/processed", evaluation=tmp_path, source="drawn")
    printed = capsys.readouterr().out
    assert "left out: timm: timm builds linear heads only" in printed
    assert "left out: ONNX: " in printed
    assert re.search("left out: ExecuTorch: executorch.* is not installed", printed)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES - NETWORKS
    card = (tmp_path / "out/README.md").read_text()
    assert "No evaluation of these weights" in card  # the metrics are of others
    assert "Left out: timm: timm builds linear heads only" in card
    data = huggingface_hub.ModelCard(card).data
    assert (data.library_name, {"timm", "onnx"} & {*data.tags}) == (None, set())


@pytest.fixture
def fresh_session() -> Iterator[None]:
    """The hub's client without what it remembers of proxies."""
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of how huggingface_hub calls its HTTP client
@pytest.mark.usefixtures("direct", "fresh_session")
def test_a_push_uploads_every_file_and_a_space(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    with stand_in_hub("hf_right") as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        refuse_unpushable("hf-hub:someone/cats", space=True)
        others = {"models/someone/cats/notes.txt": b"kept"}
        hub.files = {"models/someone/cats/model.pte": b"of an earlier export"} | others
        push(exported, "hf-hub:someone/cats", space=True)
        assert list(hub.repositories) == ["models/someone/cats", "spaces/someone/cats"]
        assert hub.repositories["spaces/someone/cats"]["sdk"] == "gradio"
        model = {f"models/someone/cats/{path.name}": path.read_bytes() for path in exported.iterdir()}
        space = {f"spaces/someone/cats/{name}" for name in ("README.md", "app.py", "requirements.txt")}
        assert {name: content for name, content in hub.files.items() if name not in space} == model | others
        assert set(hub.files) == {*model, *space, *others}
        assert hub.commits == 2
        validated = {card["repoType"]: card["content"] for card in hub.cards}
        assert set(validated) == {"model", "space"}
        huggingface_hub.ModelCard.load(exported / "README.md").validate()
        assert hub.cards[-1] == {"repoType": "model", "content": validated["model"]}
        front = huggingface_hub.SpaceCard(hub.files["spaces/someone/cats/README.md"].decode()).data
        assert (front.sdk, front.app_file, front.models) == ("gradio", "app.py", ["someone/cats"])

        broken = tmp_path / "broken"
        shutil.copytree(exported, broken)
        (broken / "README.md").write_text((exported / "README.md").read_text().replace("library_name: timm", "library_name: 1"))
        refused(r"did not take hf-hub:someone/cats: .*library_name", push, broken, "hf-hub:someone/cats")
        (broken / "model.safetensors").unlink()
        refused("without --space", push, broken, "hf-hub:someone/cats", space=True)
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        refused(r"did not take hf-hub:someone/cats: .*401", push, exported, "hf-hub:someone/cats")
    with pytest.raises(PipelineError, match=r"did not take hf-hub:someone/cats.*run the command again"):
        push(exported, "hf-hub:someone/cats")  # nothing listens there any more


def test_the_page_of_a_space_answers_as_the_checkpoint_does(
    exported: Path, classifier: Classifier, photos: list[Path], tmp_path: Path
) -> None:
    write_space(tmp_path, exported, "someone/cats")
    app = (tmp_path / "app.py").read_text()
    assert app.count("hf-hub:someone/cats") == 1
    (tmp_path / "app.py").write_text(app.replace("hf-hub:someone/cats", f"local-dir:{exported}"))  # no hub is here
    code = """
import json, runpy, sys
from PIL import Image
space = runpy.run_path("app.py")
assert space["page"].fn is space["probabilities"]
assert space["page"].input_components[0].image_mode is None  # which keeps what is transparent
print(json.dumps([space["probabilities"](Image.open(path)) for path in sys.argv[1:]]))
"""
    with Image.open(photos[0]) as photo:
        photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    photo.save(tmp_path / "transparent.png")
    done = run(tmp_path, "python", "-c", code, str(photos[0]), "transparent.png")
    for found, expected in zip(json.loads(done.stdout), classifier.predict([photos[0], photo]), strict=True):
        assert found == pytest.approx(expected.probabilities, abs=1e-4)


def test_a_push_that_cannot_succeed_stops_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for target in ("someone/cats", "hf-hub:cats", "hf-hub:some one/cats"):
        refused("write hf-hub:OWNER/NAME", refuse_unpushable, target)
    refused("--space goes with --push hf-hub:OWNER/NAME", refuse_unpushable, None, space=True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    refused("needs a token", refuse_unpushable, "hf-hub:someone/cats")
