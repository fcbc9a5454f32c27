"""Sentence and word vectors."""
