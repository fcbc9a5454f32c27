"""From waveform to vectors: backbones, encoders, heads."""
