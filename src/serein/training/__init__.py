"""Training: stages that run one after the other."""
