"""Export of models to a single file that runs without PyTorch."""
