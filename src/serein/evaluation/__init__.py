"""Evaluation: scores with intervals, and the report, of any system's predictions."""
