"""Stage 1: sources, archives, layouts, drawn photos."""
