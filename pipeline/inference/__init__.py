"""What a checkpoint is used for: predicting photos, from Python or the command line."""

from pipeline.inference.classifier import Classifier, Photo, Prediction

__all__ = ["Classifier", "Photo", "Prediction"]
