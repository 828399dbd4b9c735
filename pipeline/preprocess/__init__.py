"""Stage 2: decoding, audit, duplicates, split, stored photos."""
