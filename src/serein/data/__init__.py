"""What was recorded: utterances, manifests, audio, corpora, folds, batches."""
