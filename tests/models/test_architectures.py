"""Conformers and Whisper: published features, positions as Transformers has them, no more frames than a clip has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from models.test_backbones import CASES, backbone_of, batch, clips, deviation, plain_model, save
from serein.errors import AudioError, ModelError, RecipeError
from serein.models.architectures import relative_positions, rotary_positions
from serein.models.backbones import HuggingFaceBackbone
from serein.models.logmel import kaldi_fbank, kaldi_filters, slaney_filters, whisper_log_mel
from serein.models.pretrained import weights_hash
from serein.models.whisper import WhisperConfig, WhisperEncoder

# --- whisper ---


WHISPER_LENGTHS = (16_000, 7_123, 1_601, 201)


@pytest.fixture(scope="module")
def whisper() -> Any:
    return plain_model(*CASES["whisper"])


def published(waveform: torch.Tensor, n_mels: int, **options: Any) -> torch.Tensor:
    extractor = transformers.WhisperFeatureExtractor(feature_size=n_mels)
    found = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt", **options)
    return found.input_features[0].T


@pytest.mark.parametrize("n_mels", [80, 128])
def test_whispers_features_are_the_published_ones_of_each_clip_alone(n_mels: int) -> None:
    waveforms = [*clips(WHISPER_LENGTHS), torch.zeros(3_000)]
    found = whisper_log_mel(batch(waveforms)[0], torch.tensor([len(waveform) for waveform in waveforms]), n_mels)
    assert found.shape == (5, 100, n_mels)
    for own, waveform in zip(found, waveforms, strict=True):
        theirs = published(waveform, n_mels, padding="do_not_pad")
        assert (own[: len(theirs)] - theirs).abs().max() < 1e-5
        assert (own[len(theirs) :] == 0).all()


@pytest.mark.parametrize("seconds", [1.3, 29.999, 30.0])
def test_features_of_padded_clips_are_the_published_ones(seconds: float) -> None:
    (waveform,) = clips((round(seconds * 16_000),))
    padded = torch.nn.functional.pad(waveform, (0, 480_000 - len(waveform)))
    assert (whisper_log_mel(padded[None], torch.tensor([480_000]), 80)[0] - published(waveform, 80)).abs().max() < 1e-5


def test_a_padded_clip_is_encoded_as_by_transformers(whisper: Any) -> None:
    backbone = backbone_of(whisper, pad_s=1.2)  # of a Whisper with 60 positions
    waveforms = clips(WHISPER_LENGTHS)
    with torch.no_grad():
        together = backbone(*batch(waveforms, padding=torch.nan, extra=20_000))
        assert together.num_frames.tolist() == [50, 22, 5, 1]
        assert [tuple(layer.shape) for layer in together.layers] == [(4, 50, 16)] * 3
        for row, waveform in enumerate(waveforms):
            num_frames = int(together.num_frames[row])
            theirs = whisper(published(waveform, 20, max_length=19_200).T[None]).last_hidden_state[0, :num_frames]
            assert deviation(together.last[row, :num_frames], theirs) < 1e-5


def test_a_clip_longer_than_the_positions_is_refused(whisper: Any) -> None:
    backbone = backbone_of(whisper)
    assert backbone.max_s == 1.2
    assert backbone(*batch(clips((19_359,)))).last.shape == (1, 60, 16)
    with pytest.raises(AudioError, match=r"a clip of 1\.2 s exceeds the model's limit of 1\.2 s.*clips\.window_s"):
        backbone(*batch(clips((19_360,))))


def test_positions_are_not_learned_and_every_other_weight_is(whisper: Any) -> None:
    backbone = backbone_of(whisper)
    groups = backbone.parameter_groups()
    assert list(groups) == ["cnn", "projection", "layer 1", "layer 2"]
    grouped = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(grouped) == sorted(id(parameter) for parameter in backbone.parameters())
    assert groups["cnn"] == [*backbone.model.conv1.parameters(), *backbone.model.conv2.parameters()]
    assert "model.embed_positions.weight" in backbone.state_dict()
    assert "model.embed_positions.weight" not in dict(backbone.named_parameters())


def test_level_db_makes_level_and_offset_of_no_account(whisper: Any, tmp_path: Path) -> None:
    backbone = HuggingFaceBackbone.from_source(str(save(whisper, tmp_path)), level_db=-23.0)
    assert HuggingFaceBackbone.from_config(backbone.describe()).level_db == -23.0
    waveform, num_samples = 0.1 * torch.randn(1, 8000), torch.tensor([8000])
    plain = backbone(waveform, num_samples).last
    for changed in (0.05 * waveform, waveform + 0.3):
        torch.testing.assert_close(backbone(changed, num_samples).last, plain, atol=1e-3, rtol=1e-2)


def test_the_lowest_layers_can_be_kept_alone(whisper: Any, tmp_path: Path) -> None:
    source = str(save(whisper, tmp_path))
    whole, lower = HuggingFaceBackbone.from_source(source), HuggingFaceBackbone.from_source(source, layers=1)
    waveform, num_samples = torch.randn(1, 8000), torch.tensor([8000])
    kept = lower(waveform, num_samples).layers
    assert len(kept) == 2
    for ours, theirs in zip(kept, whole(waveform, num_samples).layers, strict=False):
        torch.testing.assert_close(ours, theirs)
    assert len(HuggingFaceBackbone.from_config(lower.describe()).architecture.layers) == 1
    assert lower.untouched_source() == whole.untouched_source() | {"layers": 1, "sha256": weights_hash(lower)}
    with pytest.raises(RecipeError, match="the model has 2 layers, not 3"):
        HuggingFaceBackbone.from_source(source, layers=3)


def test_overrides_reach_the_encoder(whisper: Any, tmp_path: Path) -> None:
    source = str(save(whisper, tmp_path))
    rates = {"hidden_dropout": 0.5, "layerdrop": 1.0}
    backbone = HuggingFaceBackbone.from_source(source, overrides=rates)
    assert backbone.model.layers[0].dropout == 0.5
    dropped = backbone.train()(*batch(clips((8_000,))))
    assert torch.equal(dropped.layers[0], dropped.layers[2])
    assert not torch.equal(dropped.layers[0], backbone.eval()(*batch(clips((8_000,)))).layers[0])
    with pytest.raises(RecipeError, match="whisper models have no feat_proj_dropout"):
        HuggingFaceBackbone.from_source(source, overrides={"feat_proj_dropout": 0.1})


def test_spec_augment_masks_features_when_asked(whisper: Any, tmp_path: Path) -> None:
    source, waveforms = str(save(whisper, tmp_path)), batch(clips((16_000, 8_000)))
    masks = {"apply_spec_augment": True, "mask_time_prob": 0.5, "mask_feature_prob": 0.5}
    for overrides in ({}, masks):
        backbone = HuggingFaceBackbone.from_source(source, overrides=overrides)
        still, training = backbone(*waveforms).last, backbone.train()(*waveforms).last
        assert torch.equal(still, training) is not bool(overrides)


def test_only_the_encoder_is_loaded_and_it_is_loaded_whole(whisper: Any, tmp_path: Path) -> None:
    save(whisper, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert any(name.startswith("model.decoder.") for name in state)
    classifier = tmp_path / "classifier"
    model = transformers.WhisperForAudioClassification(whisper.config)
    model.encoder.load_state_dict(whisper.state_dict())
    model.save_pretrained(classifier)
    ours, theirs = (HuggingFaceBackbone.from_source(str(each)) for each in (tmp_path, classifier))
    assert ours.untouched_source()["sha256"] == theirs.untouched_source()["sha256"]

    layer = "model.encoder.layers.1.fc1.bias"
    for change, message in (
        ({layer: None}, "weights are missing, such as layers.1.fc1.bias"),
        ({layer.replace("1.fc1", "2.fc1"): state[layer].clone()}, "weights fit nowhere, such as .*layers.2.fc1.bias"),
    ):
        changed = {name: tensor for name, tensor in (state | change).items() if tensor is not None}
        save_file(changed, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match=message):
            HuggingFaceBackbone.from_source(str(tmp_path))


def test_padding_is_described(whisper: Any) -> None:
    description = json.loads(json.dumps(backbone_of(whisper, pad_s=1.2).describe()))
    assert HuggingFaceBackbone.from_config(description).pad_s == 1.2


def test_the_real_base_encoder_can_be_built() -> None:
    config = transformers.WhisperConfig(d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048)
    with torch.device("meta"):
        backbone = HuggingFaceBackbone.from_config(config.to_dict())
    assert (backbone.num_layers, backbone.sizes[0], backbone.max_s, backbone.frame_rate_hz) == (6, 512, 30.0, 50.0)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 19_822_592


def test_the_encoder_is_that_of_transformers_whose_weights_it_takes(whisper: Any) -> None:
    encoder = WhisperEncoder.of(whisper)
    assert encoder.state_dict().keys() == whisper.state_dict().keys()
    assert encoder.conv1.weight.data_ptr() == whisper.conv1.weight.data_ptr()
    frames = torch.randn(2, 30, 16)
    is_frame = torch.arange(30) < torch.tensor([[30], [11]])
    for own, theirs in zip(encoder.layers, whisper.layers, strict=True):
        found, expected = (layer(frames, attention_mask=is_frame[:, None, None]) for layer in (own, theirs))
        assert (found - expected)[is_frame].abs().max() < 1e-6


def test_a_new_encoder_begins_as_that_of_transformers(whisper: Any) -> None:
    config = WhisperConfig(d_model=64, encoder_attention_heads=2, encoder_layers=1)
    own = WhisperEncoder(config).state_dict()
    theirs = type(whisper)(whisper.config_class(**config.to_dict())).state_dict()
    assert own.keys() == theirs.keys()
    for name, weights in own.items():
        assert weights.mean().sub(theirs[name].mean()).abs() < 5e-3, name
        assert weights.std().sub(theirs[name].std()).abs() < 1e-3, name
    torch.testing.assert_close(own["embed_positions.weight"], theirs["embed_positions.weight"])


def test_the_configuration_has_the_names_and_defaults_of_transformers() -> None:
    theirs = transformers.WhisperConfig().to_dict()
    assert {name: theirs[name] for name in WhisperConfig().to_dict()} == WhisperConfig().to_dict()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"encoder_attention_heads": 3}, "3 heads do not divide"), ({"activation_function": "relu"}, "gelu")],
)
def test_a_configuration_that_cannot_be_run_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=rf"config.json is not valid \(.*{message}"):
        HuggingFaceBackbone.from_config({"model_type": "whisper"} | CASES["whisper"][1] | wrong)


@pytest.mark.slow
def test_a_described_encoder_is_run_without_transformers(whisper: Any) -> None:
    description = json.dumps(backbone_of(whisper).describe())
    program = f"""
import json, sys, torch
from serein.models.backbones import HuggingFaceBackbone
description = json.loads({description!r})
with torch.device("meta"):
    HuggingFaceBackbone.from_config(description)
backbone = HuggingFaceBackbone.from_config(description)
backbone(torch.randn(2, 8_000), torch.tensor([8_000, 5_000]))
slow = {{"torch._dynamo", "transformers", "lightning", "sklearn", "scipy", "matplotlib", "pandas"}}
print(*sorted(slow & sys.modules.keys()))
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout == "\n"


@pytest.mark.parametrize("n_mels", [80, 128])
def test_filters_are_those_of_transformers(n_mels: int) -> None:
    bank = transformers.audio_utils.mel_filter_bank
    slaney = bank(201, n_mels, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    assert np.abs(slaney_filters(n_mels) - slaney).max() < 1e-12
    kaldi = bank(257, n_mels, 20, 8000.0, 16_000, mel_scale="kaldi", triangularize_in_mel_space=True)
    assert np.abs(kaldi_filters(n_mels) - kaldi).max() < 1e-12


# --- conformer ---


KALDI_LENGTHS = (16_000, 7_123, 1_601, 560)


def test_w2v_bert_features_are_the_published_ones_of_each_clip_alone() -> None:
    extractor = transformers.SeamlessM4TFeatureExtractor()
    waveforms = clips(KALDI_LENGTHS)
    found = kaldi_fbank(batch(waveforms)[0], torch.tensor(KALDI_LENGTHS), 80)
    assert found.shape == (4, 49, 160)
    for own, waveform in zip(found, waveforms, strict=True):
        theirs = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
        num_frames = int(theirs.attention_mask.sum())
        assert (own[:num_frames] - theirs.input_features[0, :num_frames]).abs().max() < 1e-4
        assert (own[num_frames:] == 0).all()


def test_features_of_silence_are_numbers() -> None:
    assert kaldi_fbank(torch.zeros(1, 800), torch.tensor([800]), 80).abs().max() < 1e-3


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


@pytest.mark.slow
def test_the_real_w2v_bert_can_be_built() -> None:
    with torch.device("meta"):
        backbone = backbone_of(transformers.Wav2Vec2BertModel(transformers.Wav2Vec2BertConfig()))
    assert (backbone.num_layers, backbone.sizes[0], backbone.max_s, backbone.frame_rate_hz) == (24, 1024, None, 50.0)
    assert backbone.parameter_groups()["cnn"] == []
    assert 580e6 < sum(parameter.numel() for parameter in backbone.parameters()) < 581e6
