"""From waveform to vectors: backbones, encoders, heads, and the folder that a model is saved as."""
