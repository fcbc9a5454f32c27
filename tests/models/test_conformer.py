"""Conformers: the published log-mel features, positions as Transformers has them, batch norm over real frames."""

from __future__ import annotations

import pytest
import torch
import transformers

from models.test_backbones import CASES, backbone_of, batch, clips, plain_model
from serein.models.conformer import fbank, relative_positions, rotary_positions

LENGTHS = (16_000, 7_123, 1_601, 560)


def test_features_are_the_published_ones_of_each_clip_alone() -> None:
    extractor = transformers.SeamlessM4TFeatureExtractor()
    waveforms = clips(LENGTHS)
    found = fbank(batch(waveforms)[0], torch.tensor(LENGTHS), 80)
    assert found.shape == (4, 49, 160)
    for own, waveform in zip(found, waveforms, strict=True):
        theirs = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
        num_frames = int(theirs.attention_mask.sum())
        assert (own[:num_frames] - theirs.input_features[0, :num_frames]).abs().max() < 1e-4
        assert (own[num_frames:] == 0).all()


def test_features_of_silence_are_numbers() -> None:
    assert fbank(torch.zeros(1, 800), torch.tensor([800]), 80).abs().max() < 1e-3


@pytest.mark.parametrize("kind", ["relative", "rotary"])
def test_positions_are_those_of_transformers(kind: str) -> None:
    model = plain_model(*CASES["wav2vec2-conformer: rotary" if kind == "rotary" else "wav2vec2-conformer"])
    hidden = torch.zeros(1, 300, 16)
    own = relative_positions(hidden) if kind == "relative" else rotary_positions(hidden, 2, 10_000)
    torch.testing.assert_close(own, model.encoder.embed_positions(hidden), atol=2e-5, rtol=0)


def test_batch_norm_of_a_layer_learns_from_real_frames_alone() -> None:
    backbone = backbone_of(plain_model(*CASES["wav2vec2-conformer"])).train()
    seen: list[torch.Tensor] = []
    norm = backbone.architecture.layers[0].conv_module.batch_norm
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    states = backbone(*batch(clips((8_000, 2_000))))
    assert seen[0].shape == (states.num_frames.sum(), 16)


def test_the_real_w2v_bert_can_be_built() -> None:
    with torch.device("meta"):
        backbone = backbone_of(transformers.Wav2Vec2BertModel(transformers.Wav2Vec2BertConfig()))
    assert (backbone.num_layers, backbone.sizes[0], backbone.max_s, backbone.frame_rate_hz) == (24, 1024, None, 50.0)
    assert backbone.parameter_groups()["cnn"] == []
    assert 580e6 < sum(parameter.numel() for parameter in backbone.parameters()) < 581e6
