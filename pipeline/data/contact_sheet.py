"""Contact sheet: photos with captions in one PNG."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pipeline.files import write_atomically

TILE, CAPTION, MARGIN, TOP, COLUMNS = 176, 38, 12, 48, 6
INK, PAPER = (32, 32, 32), (255, 255, 255)
FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")  # has many more scripts than Pillow's own


def contact_sheet(photos: Sequence[tuple[Path, str]], path: Path, *, title: str) -> None:
    """Write a PNG of stored photos in rows of six, each with its caption of one or two lines."""
    rows = max(-(-len(photos) // COLUMNS), 1)
    sheet = Image.new("RGB", (COLUMNS * (TILE + MARGIN) + MARGIN, TOP + rows * (TILE + CAPTION + MARGIN)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 14), title, INK, font=ImageFont.truetype(FONT, 18))
    for number, (file, caption) in enumerate(photos):
        row, column = divmod(number, COLUMNS)
        x, y = MARGIN + column * (TILE + MARGIN), TOP + row * (TILE + CAPTION + MARGIN)
        with Image.open(file) as photo:
            sheet.paste(ImageOps.fit(photo.convert("RGB"), (TILE, TILE)), (x, y))
        draw.multiline_text((x, y + TILE + 3), caption, INK, font=ImageFont.truetype(FONT, 12), spacing=2)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_atomically(path, buffer.getbuffer())
