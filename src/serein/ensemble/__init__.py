"""Ensembles: several models combined into one."""
