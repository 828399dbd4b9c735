"""Several backbones as one network: each sees what it would see alone, and a checkpoint rebuilds it."""

import torch

from pipeline.checkpoint import CheckpointInfo
from pipeline.models.backbone import create_backbone, create_backbones, rebuild
from pipeline.models.head import replace_head_as_set, set_linear_head
from pipeline.models.outputs import FeatureExtractor, LogitsAndFeatures
from pipeline.params import Backbone
from pipeline.params import Head as HeadSettings
from tests.test_checkpoint import INFO

# Of different mean, std, size and kind; the last one's position embeddings are resized.
NAMES = ["test_efficientnet", "torchvision/shufflenet_v2_x0_5", "vit_tiny_patch16_224"]


def test_each_network_sees_what_it_would_see_alone_and_a_checkpoint_rebuilds_it() -> None:
    together = create_backbones(Backbone(name=NAMES, weights="none", input_size=160).parts)
    alone = [create_backbone(name, "none", input_size=160) for name in NAMES]
    assert len({one.preprocessing.mean for one in alone}) > 1
    widths = together.info.kwargs["widths"]
    head = replace_head_as_set(together.model, 2, HeadSettings())
    weight, bias = torch.randn(2, sum(widths)), torch.randn(2)
    set_linear_head(together.model, weight, bias)
    pixels = torch.rand(2, 3, 160, 160)
    with torch.inference_mode():
        logits, features = LogitsAndFeatures(together.model).eval()(_normalised(pixels, together)).split([2, sum(widths)], 1)
        for found, one in zip(features.split(widths, 1), alone, strict=True):
            expected = FeatureExtractor(one.model).eval()(_normalised(pixels, one))
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits, features @ weight.T + bias)
    info = INFO.model_copy(update={"backbone": together.info, "head": head})
    info = CheckpointInfo.model_validate_json(info.model_dump_json())
    rebuilt = rebuild(info, together.model.state_dict()).eval()
    images = _normalised(pixels, together)
    with torch.inference_mode():
        assert torch.equal(rebuilt(images), together.model.eval()(images))


def test_several_of_one_name_are_several_and_the_largest_photos_go_to_all() -> None:
    """Of 160 and of 224 px: the first is a transformer, which takes no other size than the one that it is built for."""
    found = create_backbones(Backbone(name=["test_vit3", "test_vit3", "torchvision/shufflenet_v2_x0_5"], weights="none").parts)
    assert found.preprocessing.input_size == (3, 224, 224)
    assert found.info.name == "test_vit3 + test_vit3 + torchvision/shufflenet_v2_x0_5"
    assert found.model.eval()(torch.zeros(2, 3, 224, 224)).shape == (2, 1)


def _normalised(pixels: torch.Tensor, backbone) -> torch.Tensor:
    mean, std = (torch.tensor(getattr(backbone.preprocessing, name)).view(3, 1, 1) for name in ("mean", "std"))
    return (pixels - mean) / std
