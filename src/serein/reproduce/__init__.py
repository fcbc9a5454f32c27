"""Reproduction of a paper's tables: every row is trained, and our scores are shown next to the published ones."""
