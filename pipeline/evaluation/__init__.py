"""What a model is worth: metrics, comparison, calibration, figures and the report."""
