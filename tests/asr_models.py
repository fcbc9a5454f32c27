"""Tiny random speech recognisers: real configurations, feature extractors and tokenizers, saved as real ones are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"EATONIHSR"]
TINY_CTC = {
    "vocab_size": len(LETTERS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "pad_token_id": 0,
}


def write_ctc(folder: Path, family: str = "Wav2Vec2", seed: int = 0, **changes: Any) -> Path:
    """Save a model with CTC: `Wav2Vec2`, `Hubert` or another of that kind."""
    import transformers

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(LETTERS)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    config = getattr(transformers, f"{family}Config")(**{**TINY_CTC, **changes})
    model = getattr(transformers, f"{family}ForCTC")(config).eval()
    with torch.no_grad():  # a random model's symbols hardly change from frame to frame
        model.lm_head.weight *= 100
    model.save_pretrained(folder)
    return folder


def write_whisper(folder: Path, languages: tuple[str, ...] = ("en", "de"), seed: int = 1) -> Path:
    """Save a Whisper, multilingual when it has more than one language."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    torch.manual_seed(seed)
    tokenizer = WhisperTokenizer(vocab={symbol: i for i, symbol in enumerate(sorted(ByteLevel.alphabet()))}, merges=[])
    spoken = [f"<|{language}|>" for language in languages]
    tasks = ["<|translate|>", "<|transcribe|>"]
    others = ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    tokenizer.add_tokens(["<|endoftext|>", "<|startoftranscript|>", *spoken, *tasks, *others], special_tokens=True)
    tokenizer.add_tokens([f"<|{i * 0.02:.2f}|>" for i in range(1501)])
    id_of = tokenizer.convert_tokens_to_ids
    WhisperProcessor(WhisperFeatureExtractor(feature_size=8), tokenizer).save_pretrained(folder)
    ends = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), id_of("<|endoftext|>"))
    start = {"decoder_start_token_id": id_of("<|startoftranscript|>")}
    parts = {f"{part}_{size}": 2 for part in ("encoder", "decoder") for size in ("layers", "attention_heads")}
    widths = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=8,
        max_target_positions=32,
        init_std=0.6,
        **parts,
        **widths,
        **ends,
        **start,
    )
    model = WhisperForConditionalGeneration(config)
    known = {"lang_to_id": {token: id_of(token) for token in spoken}, "task_to_id": {t[2:-2]: id_of(t) for t in tasks}}
    model.generation_config = GenerationConfig(
        max_length=16,
        is_multilingual=len(languages) > 1,
        no_timestamps_token_id=id_of("<|notimestamps|>"),
        prev_sot_token_id=id_of("<|startofprev|>"),
        **(known if len(languages) > 1 else {}),
        **ends,
        **start,
    )
    model.save_pretrained(folder)
    return folder
