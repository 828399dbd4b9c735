"""An export works in every form without this project's code, and one that deviates is never put in place."""

import json
from pathlib import Path

import huggingface_hub
import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from PIL import Image

from pipeline.checkpoint import MODEL_FILE, Preprocessing, read_info, read_model_state
from pipeline.data.transforms import evaluation_transform
from pipeline.errors import PipelineError
from pipeline.files import sha256_of
from pipeline.inference import export as export_module
from pipeline.inference.export import export
from pipeline.inference.forms import FORMS, Form, Trained, Unsupported
from pipeline.inference.pixels import with_preprocessing
from pipeline.inference.push import push, refuse_unpushable
from pipeline.models.backbone import rebuild
from tests.inference.hub_uploads import stand_in_hub

FILES = {
    "README.md",
    "classes.json",
    "config.json",
    "export.json",
    "model.onnx",
    "model.pt2",
    "model.safetensors",
    "model_int8.onnx",
    "model_with_preprocessing.onnx",
}
PASS_THROUGH = '<ir_version: 9, opset_import: ["": 20]> network (float[n, 3, h, w] images) => (float[n, 3, h, w] logits) '


@pytest.fixture(scope="module")
def exported(project: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a checkpoint that was evaluated, as far as the card needs to know."""
    evaluation = tmp_path_factory.mktemp("evaluation")
    scores = {"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95, "log_loss": 0.3, "roc_auc": 0.97}
    scores["calibrated_calibration_error"] = 0.02
    (evaluation / "metrics.json").write_text(json.dumps({"num_test": 123, "frozen": scores}))
    (evaluation / "report.html").write_text(f"<dd>{read_info(checkpoint).files[MODEL_FILE]}</dd>")
    output = tmp_path_factory.mktemp("exported") / "export"
    export(checkpoint, output, processed=project / "data/processed", evaluation=evaluation, quantised=True)
    return output


def test_everything_is_there_and_agrees(exported: Path) -> None:
    described = json.loads((exported / "export.json").read_text())
    assert {path.name for path in exported.iterdir()} == FILES
    assert described["files"] == {name: sha256_of(exported / name) for name in FILES - {"export.json"}}
    assert [form["form"] for form in described["forms"]] == [form.name for form in FORMS]
    assert described["compared_on"] > 10
    assert all(form["deviation"] <= form["tolerance"] and form["decided_otherwise"] == 0 for form in described["forms"])
    assert [path.name for path in exported.parent.iterdir()] == ["export"]


def test_forms_work_without_this_project(exported: Path, checkpoint: Path, photos: list[Path]) -> None:
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
    assert model.pretrained_cfg["label_names"] == ["cat", "dog"]
    plain = onnxruntime.InferenceSession(exported / "model.onnx")
    torch.testing.assert_close(torch.tensor(plain.run(None, {"images": images.numpy()})[0]), expected, atol=1e-4, rtol=1e-4)
    whole = onnxruntime.InferenceSession(exported / "model_with_preprocessing.onnx")
    (logits,) = whole.run(["logits"], {"photos": np.stack([np.asarray(photo)] * 3)})
    torch.testing.assert_close(torch.tensor(logits), expected.expand(3, -1), atol=0.05, rtol=0.05)
    told = whole.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == ["cat", "dog"]
    assert float(told["temperature"]) == info.metrics["temperature"]
    assert Preprocessing.model_validate_json(told["preprocessing"]) == info.preprocessing


def test_the_card_is_what_the_hub_reads_and_what_was_measured(exported: Path) -> None:
    card = huggingface_hub.ModelCard.load(exported / "README.md")
    assert card.data.license == "mit"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.eval_results[0].metric_value == 0.9
    assert "90.00% (interval 80.00% to 95.00%)" in card.text
    assert "On 123 test photos" in card.text
    for name in FILES - {"README.md", "classes.json", "export.json"}:
        assert name in card.text
    assert (exported / "model_int8.onnx").stat().st_size < 0.5 * (exported / "model.onnx").stat().st_size


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("side", "crop"), [(128, 1.0), (224, 0.875), (65, 0.9)])
def test_preprocessing_in_the_graph_is_that_of_pillow(interpolation: str, side: int, crop: float) -> None:
    preprocessing = Preprocessing(
        input_size=(3, side, side),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        interpolation=interpolation,
        crop_pct=crop,
        crop_mode="center",
    )
    network = onnx.parser.parse_model(PASS_THROUGH + "{ logits = Identity (images) }")
    session = onnxruntime.InferenceSession(with_preprocessing(network, preprocessing).SerializeToString())
    random, transform = np.random.default_rng(0), evaluation_transform(preprocessing)
    for width, height in ((300, 200), (199, 301), (side, side), (90, 700), (1000, 777), (40, 31)):
        coarse = random.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), dtype=np.uint8)
        photo = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        (prepared,) = session.run(None, {"photos": np.asarray(photo)[None]})
        levels = np.abs(prepared[0] - transform(photo).numpy()) * np.reshape(preprocessing.std, (3, 1, 1)) * 255
        assert levels.mean() < 0.2  # of 255
        assert levels.max() < 16


def test_what_onnx_cannot_prepare_is_told(checkpoint: Path) -> None:
    preprocessing = read_info(checkpoint).preprocessing
    network = onnx.parser.parse_model(PASS_THROUGH + "{ logits = Identity (images) }")
    for change, message in (({"interpolation": "lanczos"}, "no lanczos"), ({"crop_mode": "squash"}, "not squash")):
        with pytest.raises(Unsupported, match=message):
            with_preprocessing(network, preprocessing.model_copy(update=change))


def with_forms(monkeypatch: pytest.MonkeyPatch, *forms: Form) -> None:
    monkeypatch.setattr(export_module, "FORMS", forms)


def test_a_form_that_deviates_is_refused_and_the_old_export_stands(
    project: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm_form = FORMS[0]
    arguments = {"processed": project / "data/processed", "evaluation": tmp_path}
    with_forms(monkeypatch, timm_form)
    export(checkpoint, tmp_path / "out", **arguments)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def write_wrong(trained: Trained, folder: Path) -> None:
        trained.model.get_classifier().bias.data[0] += 0.01
        timm_form.write(trained, folder)
        trained.model.get_classifier().bias.data[0] -= 0.01

    with_forms(monkeypatch, Form("timm", timm_form.files, timm_form.tolerance, write_wrong, timm_form.logits))
    with pytest.raises(PipelineError, match=r"'timm'.*differ by.*Nothing was exported"):
        export(checkpoint, tmp_path / "out", **arguments)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_form_that_a_network_cannot_have_is_left_out_and_told(
    project: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = read_info(checkpoint).head.model_copy(update={"hidden": (16,)})

    def write(trained: Trained, folder: Path) -> None:
        FORMS[0].write(Trained(trained.info.model_copy(update={"head": hidden}), trained.model, ""), folder)

    def write_broken(trained: Trained, folder: Path) -> None:
        (folder / "model.onnx").write_bytes(b"broken")

    broken = Form("ONNX", FORMS[1].files, 1e-3, write_broken, FORMS[1].logits)
    with_forms(monkeypatch, Form("timm", FORMS[0].files, 1e-4, write, FORMS[0].logits), broken)
    export(checkpoint, tmp_path / "out", processed=project / "data/processed", evaluation=tmp_path)
    told = capsys.readouterr().out
    assert "left out: timm: timm builds linear heads only" in told
    assert "left out: ONNX: what was written cannot be run again" in told
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "classes.json", "export.json"}
    assert "No evaluation of these weights" in (tmp_path / "out/README.md").read_text()


def test_another_folder_is_never_replaced(project: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(PipelineError, match="no earlier export"):
        export(checkpoint, tmp_path, processed=project / "data/processed", evaluation=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of how huggingface_hub calls its HTTP client
@pytest.mark.usefixtures("direct")
def test_a_push_uploads_every_file(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    with stand_in_hub("hf_right") as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        huggingface_hub.close_session()
        refuse_unpushable("hf-hub:someone/cats")
        push(exported, "hf-hub:someone/cats")
        assert hub.repositories == {"someone/cats"}
        assert hub.files == {path.name: path.read_bytes() for path in exported.iterdir()}
        assert hub.commits == 1
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        with pytest.raises(PipelineError, match="answered 401: the token is not accepted"):
            push(exported, "hf-hub:someone/cats")
    with pytest.raises(PipelineError, match=r"did not take hf-hub:someone/cats.*run the command again"):
        push(exported, "hf-hub:someone/cats")  # nothing listens there any more
    huggingface_hub.close_session()


def test_a_push_that_cannot_succeed_stops_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for target in ("someone/cats", "hf-hub:cats", "hf-hub:some one/cats"):
        with pytest.raises(PipelineError, match="write hf-hub:OWNER/NAME"):
            refuse_unpushable(target)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(PipelineError, match="needs a token"):
        refuse_unpushable("hf-hub:someone/cats")
