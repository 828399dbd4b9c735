"""Wrong labels that were planted among drawn photos are found, as the pipeline goes: features, folds, candidates."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.data.drawn.petimages import draw_photo
from pipeline.evaluation.label_errors import hold_against, label_errors
from pipeline.models.backbone import create_backbone, evaluation_transform
from pipeline.training.features import FeatureExtractor
from pipeline.training.out_of_fold import out_of_fold

ROOT = Path(__file__).resolve().parents[2]
PHOTOS, SHARE = 240, 0.05


def test_most_of_the_planted_errors_are_among_few_candidates() -> None:
    backbone = create_backbone("test_resnet", str(ROOT / "pipeline/weights/test_resnet.drawn.safetensors"))
    transform = evaluation_transform(backbone.preprocessing)
    true = np.arange(PHOTOS) % 2
    drawn = (draw_photo(("cat", "dog")[kind], np.random.default_rng([0, index])) for index, kind in enumerate(true))
    images = torch.stack([transform(Image.fromarray(photo)) for photo in drawn])
    with torch.inference_mode():
        features = torch.cat([FeatureExtractor(backbone.model).eval()(part) for part in images.split(40)])
    planted = np.random.default_rng(1).choice(PHOTOS, round(SHARE * PHOTOS), replace=False)
    labels = true.copy()
    labels[planted] = 1 - true[planted]
    ledger = np.full(PHOTOS, "", dtype=object)
    ledger[planted] = "reversed"
    groups = [f"photo {index}" for index in range(PHOTOS)]
    candidates = label_errors(labels, out_of_fold(features, torch.from_numpy(labels), groups, l2=1e-1))
    found = hold_against(ledger, candidates)
    print(found, hold_against(ledger, candidates[:24]), hold_against(ledger, candidates[:12]))
    assert found.doubted == len(planted) == 12
