"""k nearest neighbours of a model's embeddings."""
