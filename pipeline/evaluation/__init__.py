"""Evaluation on the test photos: metrics, comparison, label issues, error analysis and the report."""
