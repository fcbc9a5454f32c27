"""Judging: scores with intervals, and the report, of anybody's predictions."""
