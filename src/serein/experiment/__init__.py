"""An experiment: data, folds, runs."""
