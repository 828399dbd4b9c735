"""What a model is worth: metrics, figures."""
