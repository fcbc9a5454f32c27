"""Using a model: recordings in, class shares out."""
