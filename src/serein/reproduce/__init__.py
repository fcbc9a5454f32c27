"""Reproduce a paper's tables: train every row, and show our scores next to the published ones."""
