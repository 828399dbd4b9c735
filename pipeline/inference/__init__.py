"""What a checkpoint is used for: predicting photos, exporting the network, a local page."""

from pipeline.inference.classifier import Classifier, Photo, Prediction

__all__ = ["Classifier", "Photo", "Prediction"]
