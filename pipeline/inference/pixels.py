"""Preprocessing as an ONNX graph: pixels of any size to the network's input, so that who runs the model needs no other code.

    whole = with_preprocessing(network, preprocessing)      # photos (n, height, width, 3) uint8 -> logits (n, outputs)

The graph does what timm's evaluation transform does with Pillow: resize the shorter side with antialiasing in 8-bit
arithmetic, crop the centre, scale to [0, 1], normalise. ONNX Runtime's 8-bit antialiased Resize follows Pillow's; now and
then a pixel differs by a level or two of 255.
"""

import math

import onnx

from pipeline.checkpoint import Preprocessing

# Pillow's bicubic filter is Keys' with a = -0.5; ONNX's default is another.
MODES = {"bicubic": 'mode = "cubic", cubic_coeff_a = -0.5', "bilinear": 'mode = "linear"'}

# Pillow rounds half a pixel of the crop's offset to the even number, and so does Round.
GRAPH = """
<ir_version: {ir_version}, opset_import: ["": {opset}]>
preprocessing (uint8[n, height, width, 3] photos) => (float[n, 3, {side}, {side}] prepared)
<int64[1] resized_side = {{{resized_side}}}, int64[2] crop = {{{side}, {side}}}, int64[2] spatial = {{2, 3}},
 float half = {{0.5}}, float top = {{255.0}}, float[1, 3, 1, 1] mean = {{{mean}}}, float[1, 3, 1, 1] std = {{{std}}}>
{{
  maps = Transpose <perm = [0, 3, 1, 2]> (photos)
  count_and_channels = Shape <end = 2> (maps)
  size = Shape <start = 2> (maps)
  shorter = ReduceMin <keepdims = 1> (size)
  enlarged = Mul (size, resized_side)
  resized_size = Div (enlarged, shorter)
  resized_shape = Concat <axis = 0> (count_and_channels, resized_size)
  resized = Resize <antialias = 1, coordinate_transformation_mode = "half_pixel", {mode}> (maps, , , resized_shape)
  spare = Sub (resized_size, crop)
  spare_float = Cast <to = 1> (spare)
  offset_float = Mul (spare_float, half)
  offset_rounded = Round (offset_float)
  offset = Cast <to = 7> (offset_rounded)
  end = Add (offset, crop)
  cropped = Slice (resized, offset, end, spatial)
  levels = Cast <to = 1> (cropped)
  shares = Div (levels, top)
  centred = Sub (shares, mean)
  prepared = Div (centred, std)
}}
"""


class Unsupported(Exception):
    """A network or its preprocessing cannot be put into some form; `str(error)` is the reason."""


def with_preprocessing(network: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """Put the preprocessing before a network, within one model.

    Args:
        network: input "images" (n, 3, side, side) float32, normalised.
        preprocessing: of that network, in timm's terms.

    Returns:
        A model with the input "photos" (n, height, width, 3) uint8, RGB, of any height and width that are the same for all n,
        and the network's outputs.

    Raises:
        Unsupported: ONNX has no counterpart of the interpolation, or the crop is another than the centre's square.
    """
    channels, height, width = preprocessing.input_size
    if preprocessing.interpolation not in MODES:
        raise Unsupported(f"ONNX knows no {preprocessing.interpolation} interpolation")
    if preprocessing.crop_mode != "center" or height != width or channels != 3:
        raise Unsupported(f"only a square centre crop of RGB is known, not {preprocessing.crop_mode} to {height} x {width}")
    text = GRAPH.format(
        ir_version=network.ir_version,
        opset=network.opset_import[0].version,
        side=height,
        resized_side=math.floor(height / preprocessing.crop_pct),
        mode=MODES[preprocessing.interpolation],
        mean=", ".join(f"{value:.9f}" for value in preprocessing.mean),
        std=", ".join(f"{value:.9f}" for value in preprocessing.std),
    )
    before = onnx.compose.add_prefix(onnx.parser.parse_model(text), "preprocessing/", rename_inputs=False)
    return onnx.compose.merge_models(before, network, io_map=[("preprocessing/prepared", "images")])
