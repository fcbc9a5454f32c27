"""From waveform to vectors: backbones, encoders, heads, and the folder in which a model is saved."""
