"""Adapters: small matrices that learn beside a pretrained model's own weights (LoRA, Hu 2022), by `peft`."""

from __future__ import annotations

import importlib
import re

import torch
from torch import nn

from serein.errors import MissingExtraError
from serein.recipe import Lora

# Part of a layer -> what its linear layers are called in Transformers' families.
TARGETS: dict[str, tuple[str, ...]] = {
    "query": ("q_proj", "linear_q"),
    "key": ("k_proj", "linear_k"),
    "value": ("v_proj", "linear_v"),
    "output": ("out_proj", "linear_out"),
    "feed_forward": ("fc1", "fc2", "intermediate_dense", "output_dense"),
}
ADAPTER_WEIGHT = re.compile(r"\.lora_\w+\.")  # in the names of weights


def add_lora(model: nn.Module, options: Lora) -> None:
    """Put a product of two matrices beside each target: W x + (alpha / rank) B A x, in which B starts as zero.

    Args:
        model: Its targets become `peft`'s layers, which hold the old ones as `base_layer`; its own weights freeze.
        options: Rank, targets and the like.

    Raises:
        MissingExtraError: `peft` is not installed.
    """
    try:
        peft = importlib.import_module("peft")
    except ImportError:
        raise MissingExtraError("peft", "lora") from None
    names = [name for target in options.targets for name in TARGETS[target]]
    config = peft.LoraConfig(
        r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=names
    )
    peft.inject_adapter_in_model(config, model)


def merge_lora(model: nn.Module) -> None:
    """Add each product to the matrix beside it, W + (alpha / rank) B A, and take the adapter out."""
    layer_class = importlib.import_module("peft.tuners.lora").LoraLayer
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, layer_class):
                child.merge(safe_merge=True)
                setattr(module, name, child.get_base_layer())


def own_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return a module's weights without those of its adapter, under the names that they have without it."""
    state = module.state_dict()
    return {plain_name(name): tensor for name, tensor in state.items() if not ADAPTER_WEIGHT.search(name)}


def plain_name(name: str) -> str:
    """Return the name that a weight has without an adapter.

    Example:
        >>> plain_name("layers.0.self_attn.q_proj.base_layer.bias")
        'layers.0.self_attn.q_proj.bias'
    """
    return name.replace(".base_layer.", ".")
