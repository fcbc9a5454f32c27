"""Using a model: recordings in, class probabilities out."""
