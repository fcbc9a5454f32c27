"""From waveform to vectors: backbones, bodies, heads, and the folder that a model is saved as."""
