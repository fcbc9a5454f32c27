"""Shared by benchmarks of backbones: real configurations with random weights, and thin ones to try a benchmark with.

Random weights need the same time and memory as trained ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Transformers' defaults are facebook/wav2vec2-base
WAV2VEC2_BASE: dict[str, Any] = {"model_type": "wav2vec2"}
# microsoft/wavlm-large, config.json
WAVLM_LARGE: dict[str, Any] = {
    "model_type": "wavlm",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "conv_bias": False,
    "do_stable_layer_norm": True,
    "feat_proj_dropout": 0.1,
}
# The same depth, so the same layers can be named; 0.001 of the weights
THIN: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def configuration(real: dict[str, Any], *, is_thin: bool) -> dict[str, Any]:
    """Return a real configuration, or a thin one of the same family and depth."""
    return {**real, **THIN} if is_thin else real


def save_backbone(folder: Path, options: dict[str, Any]) -> None:
    """Save a configuration with random weights, in the format of the real ones on the Hub."""
    import torch
    from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor

    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(**options)).save_pretrained(folder)
    has_mask = options.get("feat_extract_norm") == "layer"
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=has_mask).save_pretrained(folder)
