"""Data: utterances, manifests, audio, corpora, folds, batches."""
