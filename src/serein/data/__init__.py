"""Data: manifests, protocols, folds, batches; changed recordings for training and for tests."""
