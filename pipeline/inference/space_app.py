"""A Gradio page for a classifier on the Hugging Face hub: `export --push ... --space` makes a Space of it."""

from typing import Any

import gradio
import timm
import torch
from PIL import Image

model: Any = timm.create_model("hf-hub:OWNER/NAME", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))


@torch.inference_mode()
def probabilities(photo: Image.Image) -> dict[str, float]:
    """Class -> probability."""
    photo = photo.convert("RGBA")
    photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")
    logits = model(transform(photo)[None])[0]
    return dict(zip(model.pretrained_cfg["label_names"], logits.softmax(0).tolist(), strict=True))


upload = gradio.Image(type="pil", image_mode=None)  # None: transparent photos come as they are
page = gradio.Interface(probabilities, upload, gradio.Label(num_top_classes=10), flagging_mode="never")

if __name__ == "__main__":
    page.launch()
