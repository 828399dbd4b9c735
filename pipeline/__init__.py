"""A transfer-learning pipeline for Cats and Dogs; `python -m pipeline --help` lists its commands."""
