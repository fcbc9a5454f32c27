"""Experiments: their data, folds and runs."""
