"""Backbones: a clip is heard alike alone and in any batch, exactly as Transformers hears it alone."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from serein.errors import AudioError, ModelError, RecipeError
from serein.models import masking
from serein.models.backbones import HuggingFaceBackbone
from serein.models.hidden_states import HiddenStates, frame_mask
from serein.models.masking import WordDropout
from serein.models.pretrained import FAMILIES, HAVE_FEATURES, OVERRIDES, model_class_of, weights_hash

TINY: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
}
DATA2VEC = {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 6}
CONFORMER = {"conv_depthwise_kernel_size": 5, "hidden_act": "swish"}
W2V_BERT = CONFORMER | {
    "feature_projection_input_dim": 16,
    "left_max_position_embeddings": 5,
    "right_max_position_embeddings": 3,
}
WHISPER = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "num_mel_bins": 20,
    "max_source_positions": 60,
    "vocab_size": 60,
    "pad_token_id": 1,
}
NORMS = {
    "group": {"feat_extract_norm": "group"},
    "group, stable": {"feat_extract_norm": "group", "do_stable_layer_norm": True},
    "layer": {"feat_extract_norm": "layer", "conv_bias": True},
    "layer, stable": {"feat_extract_norm": "layer", "do_stable_layer_norm": True},
}
CASES = {
    f"{family}: {norm}": (family, TINY | options)
    for family in ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")
    for norm, options in NORMS.items()
} | {
    "data2vec-audio": ("data2vec-audio", TINY | DATA2VEC),
    "data2vec-audio: odd kernel": ("data2vec-audio", TINY | DATA2VEC | {"conv_pos_kernel_size": 5}),
    "wav2vec2: odd kernel": ("wav2vec2", TINY | {"num_conv_pos_embeddings": 5}),
    "wav2vec2: eager": ("wav2vec2", TINY | {"attn_implementation": "eager"}),
    "wav2vec2: language adapters": ("wav2vec2", TINY | {"do_stable_layer_norm": True, "adapter_attn_dim": 4}),
    "hubert: batch norm": ("hubert", TINY | {"conv_pos_batch_norm": True}),
    "hubert: no projection norm": ("hubert", TINY | {"feat_proj_layer_norm": False}),
    "wavlm: few buckets": ("wavlm", TINY | {"num_buckets": 8, "max_bucket_distance": 16}),
    "wav2vec2-conformer": ("wav2vec2-conformer", TINY | CONFORMER),
    "wav2vec2-conformer: rotary": ("wav2vec2-conformer", TINY | CONFORMER | {"position_embeddings_type": "rotary"}),
    "wav2vec2-conformer: no positions": ("wav2vec2-conformer", TINY | CONFORMER | {"position_embeddings_type": None}),
    "wav2vec2-bert": ("wav2vec2-bert", TINY | W2V_BERT),
    "wav2vec2-bert: eager": ("wav2vec2-bert", TINY | W2V_BERT | {"attn_implementation": "eager"}),
    "wav2vec2-bert: relative": ("wav2vec2-bert", TINY | W2V_BERT | {"position_embeddings_type": "relative"}),
    "wav2vec2-bert: rotary": ("wav2vec2-bert", TINY | W2V_BERT | {"position_embeddings_type": "rotary"}),
    "whisper": ("whisper", WHISPER),
    "whisper: eager": ("whisper", WHISPER | {"attn_implementation": "eager"}),
}
ONE_OF_EACH = [
    "wav2vec2: group",
    "hubert: layer, stable",
    "wavlm: group",
    "unispeech: group",
    "unispeech-sat: layer, stable",
    "data2vec-audio",
    "wav2vec2-conformer",
    "wav2vec2-bert",
    "whisper",
]
LENGTHS = (16_000, 7_123, 1_600, 400, 399, 1)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plain_model(family: str, options: dict[str, Any], spread: float = 0.02) -> Any:
    """Return Transformers' own model, no weight of which is 0 or 1 any more, so that every part of it shows."""
    model_class = model_class_of(family, where="tests")
    torch.manual_seed(7)
    model = model_class(model_class.config_class(**options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
    return model.eval()


def backbone_of(model: Any, **options: Any) -> HuggingFaceBackbone:
    has_features = model.config.model_type in HAVE_FEATURES
    return HuggingFaceBackbone(copy.deepcopy(model), **{"do_normalize": not has_features} | options).eval()


def clips(lengths: tuple[int, ...] = LENGTHS) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [0.1 * torch.randn(length, generator=generator) + 0.02 for length in lengths]


def batch(waveforms: list[torch.Tensor], *, padding: float = 0.0, extra: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True, padding_value=padding)
    return torch.nn.functional.pad(padded, (0, extra), value=padding), lengths


def by_transformers(model: Any, waveform: torch.Tensor, *, do_normalize: bool = True) -> Any:
    family = model.config.model_type
    shortest = 560 if family == "wav2vec2-bert" else 400
    filled = torch.nn.functional.pad(waveform, (0, max(0, shortest - len(waveform))))
    options = {"sampling_rate": 16_000, "return_tensors": "pt"}
    if family == "whisper":
        values = extractor_of(model)(filled.numpy(), padding="do_not_pad", **options).input_features
    elif family == "wav2vec2-bert":
        found = extractor_of(model)(filled.numpy(), **options)
        values = found.input_features[:, : int(found.attention_mask.sum())]  # the last may be half a frame
    else:
        values = extractor_of(model, do_normalize)([waveform.numpy()], return_attention_mask=False, **options)
        values = torch.nn.functional.pad(values.input_values, (0, max(0, shortest - len(waveform))))
    return run_transformers(model, values)


def run_transformers(model: Any, values: torch.Tensor) -> Any:
    with torch.no_grad():
        return fitted(model, values)(values, output_hidden_states=True)


def fitted(model: Any, values: torch.Tensor) -> Any:
    """Return the model; a Whisper with as many positions as the features fill: it takes nothing shorter."""
    if model.config.model_type != "whisper":
        return model
    model, num_frames = copy.deepcopy(model), values.shape[2] // 2
    model.embed_positions = torch.nn.Embedding.from_pretrained(model.embed_positions.weight[:num_frames])
    model.config.max_source_positions, model.config.tie_last_hidden_states = num_frames, False
    return model


def features(backbone: HuggingFaceBackbone, waveform: torch.Tensor) -> torch.Tensor:
    """Return what the model's own `forward` takes for a clip that is normalised already."""
    filled = torch.nn.functional.pad(waveform, (0, max(0, backbone.receptive_field - len(waveform))))[None]
    values = backbone.architecture.features(filled, torch.tensor([filled.shape[1]]))
    return values.mT if backbone.model.config.model_type == "whisper" else values


def extractor_of(model: Any, do_normalize: bool = True) -> Any:
    if model.config.model_type == "whisper":
        return transformers.WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
    if model.config.model_type == "wav2vec2-bert":
        n_mels = model.config.feature_projection_input_dim // 2
        return transformers.SeamlessM4TFeatureExtractor(feature_size=n_mels, num_mel_bins=n_mels)
    return transformers.Wav2Vec2FeatureExtractor(do_normalize=do_normalize)


def save(model: Any, folder: Path, *, do_normalize: bool | None = True) -> Path:
    whole = model
    if model.config.model_type == "whisper":
        whole = transformers.WhisperForConditionalGeneration(model.config)
        whole.model.encoder.load_state_dict(model.state_dict())
    whole.save_pretrained(folder)
    if do_normalize is not None:
        extractor_of(model, do_normalize).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wav2vec2() -> Any:
    return plain_model("wav2vec2", TINY)


@pytest.fixture
def folder(wav2vec2: Any, tmp_path: Path) -> Path:
    return save(wav2vec2, tmp_path / "wav2vec2")


# --- batching never changes an answer ---


def furthest(ours: HiddenStates, index: int, theirs: Any) -> float:
    """Return the greatest difference of a clip's layers from those of Transformers, relative to a layer's magnitude.

    Values up to 1 are compared absolutely. Rounding differs between processors, in proportion to the numbers summed.
    """
    references = (*theirs.hidden_states, theirs.last_hidden_state)
    layers = (*ours.layers, ours.last)
    assert len(layers) == len(references)
    assert ours.is_frame[index].sum() == references[0].shape[1]
    pairs = zip(layers, references, strict=True)
    return max(deviation(layer[index][ours.is_frame[index]], other[0]) for layer, other in pairs)


def deviation(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the greatest difference, relative to the magnitude of `theirs` where that exceeds 1."""
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1.0))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_clip_is_heard_as_by_transformers_alone(case: str) -> None:
    model = plain_model(*CASES[case])
    backbone, waveforms = backbone_of(model), clips()
    is_rounded = case.startswith("wav2vec2-bert")  # its published features of a few frames are
    rounding = 1e-4 if is_rounded else 1e-5
    with torch.no_grad():
        together = backbone(*batch(waveforms))
        for index, waveform in enumerate(waveforms):
            alone, theirs = backbone(*batch([waveform])), by_transformers(model, waveform)
            if not is_rounded or len(waveform) > 1_000:
                assert furthest(alone, 0, theirs) < rounding
                assert furthest(together, index, theirs) < rounding
            in_batch = together.layers[-1][index, : alone.is_frame.shape[1]]
            assert deviation(alone.layers[-1][0], in_batch) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_nothing_but_rounding_tells_a_batch_from_a_clip(case: str) -> None:
    model = plain_model(*CASES[case], spread=0.2).double()
    backbone = backbone_of(model, do_normalize=False)
    waveforms = clips()
    rounding = 1e-6 if case.startswith("whisper") else 1e-9  # its features are float32 and round by a batch's shape
    with torch.no_grad():
        together = backbone(*batch(waveforms))
        for index, waveform in enumerate(waveforms):
            theirs = run_transformers(model, features(backbone, waveform).double())
            assert furthest(together, index, theirs) < rounding


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_what_lies_on_padding_is_not_heard(family: str) -> None:
    backbone = backbone_of(plain_model(*CASES.get(f"{family}: group") or CASES[family]))
    waveforms = clips((5_000, 3_000))
    with torch.no_grad():
        clean = backbone(*batch(waveforms))
        dirty = backbone(*batch(waveforms, padding=torch.nan, extra=9_000))
    assert torch.equal(clean.is_frame, dirty.is_frame)
    for one, other in zip(clean.layers, dirty.layers, strict=True):
        assert torch.equal(one[clean.is_frame], other[clean.is_frame])


def test_batch_norm_learns_from_real_frames_alone() -> None:
    backbone = backbone_of(plain_model("hubert", TINY | {"conv_pos_batch_norm": True})).train()
    seen: list[torch.Tensor] = []
    norm = backbone.model.encoder.pos_conv_embed.batch_norm
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    heard = backbone(*batch(clips((8_000, 2_000))))
    assert seen[0].shape == (heard.num_frames.sum(), 16)


@pytest.mark.parametrize("do_normalize", [True, False])
def test_normalisation_is_that_of_the_feature_extractor(wav2vec2: Any, do_normalize: bool) -> None:
    layer_normed = plain_model(*CASES["wav2vec2: layer"])
    backbone = backbone_of(layer_normed, do_normalize=do_normalize)
    waveforms = clips((4_000, 900))
    with torch.no_grad():
        heard = backbone(*batch(waveforms))
    for index, waveform in enumerate(waveforms):
        theirs = by_transformers(layer_normed, waveform, do_normalize=do_normalize).last_hidden_state[0]
        assert deviation(heard.last[index, : len(theirs)], theirs) < 1e-5


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_silence_is_heard_as_numbers(case: str) -> None:
    backbone = backbone_of(plain_model(*CASES[case]))
    heard = backbone(torch.zeros(2, 8_000), torch.tensor([8_000, 500]))
    assert all(layer.isfinite().all() for layer in heard.layers)


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_bfloat16_hears_about_the_same(case: str) -> None:
    backbone = backbone_of(plain_model(*CASES[case]))
    waveforms, lengths = batch(clips((6_000, 2_000)))
    with torch.no_grad():
        exact = backbone(waveforms, lengths)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = backbone(waveforms, lengths)
        half = backbone.to(torch.bfloat16)(waveforms, lengths)
    for rough in (mixed, half):
        difference = (rough.last.float() - exact.last)[exact.is_frame].abs().mean()
        assert difference < 0.05 * exact.last[exact.is_frame].abs().mean()


def test_the_shape_of_what_is_heard(wav2vec2: Any) -> None:
    backbone = backbone_of(wav2vec2)
    heard = backbone(torch.randn(2, 32_000), torch.tensor([16_000, 720]))
    assert backbone.num_layers == 2
    assert backbone.sizes == (16, 16, 16)
    assert (backbone.frame_rate_hz, backbone.sample_rate_hz, backbone.receptive_field) == (50.0, 16_000, 400)
    width = int(backbone.architecture.num_frames(20_480))  # the batch is as wide as the next multiple of 5,120 samples
    assert [tuple(layer.shape) for layer in heard.layers] == [(2, width, 16)] * 3
    assert heard.num_frames.tolist() == backbone.num_frames(torch.tensor([16_000, 720])).tolist() == [49, 2]
    assert isinstance(heard, HiddenStates)
    assert heard.last is heard.layers[-1]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("lengths", [(6_000, 2_000, 4_100), (4_000, 4_000)])
def test_layers_above_the_frozen_ones_go_on_from_what_was_kept(case: str, lengths: tuple[int, ...]) -> None:
    backbone = backbone_of(plain_model(*CASES[case]))
    for name, group in backbone.parameter_groups().items():
        for parameter in group:
            parameter.requires_grad_(name == "layer 2")
    assert backbone.num_fixed_layers() == 2
    backbone.model.config.apply_spec_augment = True  # frames below the frozen layers are masked anew in each epoch
    assert backbone.num_fixed_layers() == 0
    backbone.model.config.apply_spec_augment = False
    heard = backbone(*batch(clips(lengths)))
    frames = int(heard.num_frames.max())
    nothing = torch.zeros(0)
    below = HiddenStates((nothing, heard.layers[1][:, :frames].detach()), heard.is_frame[:, :frames])
    found = backbone.resume(below)
    assert torch.equal(found.num_frames, heard.num_frames)
    for one, other in ((found.layers[2], heard.layers[2]), (found.last, heard.last)):
        assert deviation(one.detach()[found.is_frame], other.detach()[heard.is_frame]) < 1e-5
        assert one.requires_grad
    backbone.requires_grad_(True)
    assert backbone.num_fixed_layers() == 0
    backbone.requires_grad_(False)
    assert backbone.num_fixed_layers() == 3
    lower, whole = (weights_hash(backbone.weights_of(number)) for number in (1, 2))
    next(iter(backbone.parameter_groups()["layer 2"])).add_(1.0)
    assert weights_hash(backbone.weights_of(1)) == lower
    assert weights_hash(backbone.weights_of(2)) != whole == weights_hash(backbone_of(plain_model(*CASES[case])))


def test_padded_batches_have_few_widths(wav2vec2: Any) -> None:
    backbone = backbone_of(wav2vec2)
    lengths = [(6_000, 900), (7_100, 6_900), (10_240, 400), (10_241, 400), (6_000, 6_000), (7_100,)]
    widths = [backbone(torch.randn(len(each), 12_000), torch.tensor(each)).last.shape[1] for each in lengths]
    assert len({*widths[:3]}) == 1  # up to 10,240 samples
    assert widths[3] > widths[2]
    assert widths[4:] == [18, 21]  # nothing is padded: as wide as they are


@pytest.mark.parametrize(
    ("lengths", "message"),
    [([100, 0], "clip 1"), ([100, 101], "101"), ([100], r"expected \(batch, sample\)")],
)
def test_lengths_that_do_not_fit_are_refused(wav2vec2: Any, lengths: list[int], message: str) -> None:
    with pytest.raises(AudioError, match=message):
        backbone_of(wav2vec2)(torch.randn(2, 100), torch.tensor(lengths))


def test_frame_mask() -> None:
    assert frame_mask(torch.tensor([0, 2]), 2).tolist() == [[False, False], [True, True]]


# --- the fast ways ---


@pytest.mark.parametrize("num_frames", [1, 250])
def test_a_linear_layer_gives_the_same_both_ways(num_frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, fast = torch.nn.Linear(96, 48), masking.OneDnnLinear(96, 48)
    fast.load_state_dict(layer.state_dict())
    frames = torch.randn(3, num_frames, 96)
    for is_amd in (True, False):
        monkeypatch.setattr(masking, "IS_AMD", is_amd)
        with torch.no_grad():
            assert deviation(fast(frames), layer(frames)) < 1e-5
        assert torch.equal(fast(frames), layer(frames))  # where a gradient is wanted, it is the layer itself


def test_convolutions_give_the_same_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = backbone_of(plain_model(*CASES["wav2vec2: layer"]))
    clip = batch(clips((9_000, 4_000)))
    with torch.no_grad():
        fast = backbone(*clip)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        slow = backbone(*clip)
    assert deviation(fast.last[fast.is_frame], slow.last[slow.is_frame]) < 1e-5


# --- learning ---


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_gradients_are_those_of_transformers(case: str) -> None:
    model = plain_model(*CASES[case])
    backbone = backbone_of(model)
    waveform = clips((5_120,))[0]
    waveform = torch.nn.functional.layer_norm(waveform, (5_120,), eps=1e-7)
    values = features(backbone, waveform)
    model = fitted(model, values)
    model(values).last_hidden_state.square().mean().backward()
    heard = backbone(*batch([waveform, waveform[:2_500]]))
    heard.last[0].square().mean().backward()
    theirs = dict(model.named_parameters())
    for name, parameter in backbone.model.named_parameters():
        if theirs[name].grad is not None and "k_proj.bias" not in name:  # a bias of all keys alike has no effect
            assert parameter.grad is not None, name
            scale = theirs[name].grad.abs().max()
            assert (parameter.grad - theirs[name].grad).abs().max() < 1e-3 * scale + 1e-7, name


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_gradient_checkpointing_changes_no_gradient(case: str) -> None:
    model = plain_model(*CASES[case])
    gradients = []
    for checkpointing in (False, True):
        backbone = backbone_of(model, gradient_checkpointing=checkpointing).train()
        torch.manual_seed(0)
        heard = backbone(*batch(clips((5_000, 3_000))))
        heard.last[heard.is_frame].square().mean().backward()
        gradients.append({name: p.grad for name, p in backbone.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-6) for name in gradients[0])


def test_parameter_groups_name_every_parameter_once(wav2vec2: Any) -> None:
    backbone = backbone_of(wav2vec2)
    groups = backbone.parameter_groups()
    assert list(groups) == ["cnn", "projection", "layer 1", "layer 2"]
    grouped = [id(parameter) for group in groups.values() for parameter in group]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in backbone.parameters()}
    assert sum(p.numel() for p in groups["cnn"]) == sum(
        p.numel() for p in backbone.model.feature_extractor.parameters()
    )


def freeze(backbone: HuggingFaceBackbone, *names: str) -> None:
    for name, group in backbone.parameter_groups().items():
        for parameter in group:
            parameter.requires_grad_(name not in names)


@pytest.mark.parametrize(
    ("frozen", "first_with_graph"),
    [((), 0), (("cnn",), 0), (("cnn", "projection"), 1), (("cnn", "projection", "layer 1"), 2), (("layer 1",), 0)],
)
def test_no_graph_is_kept_below_what_learns(wav2vec2: Any, frozen: tuple[str, ...], first_with_graph: int) -> None:
    backbone = backbone_of(wav2vec2).train()
    freeze(backbone, *frozen)
    heard = backbone(*batch(clips((3_000, 2_000))))
    assert [layer.requires_grad for layer in heard.layers] == [i >= first_with_graph for i in range(3)]
    heard.last.sum().backward()
    for name, group in backbone.parameter_groups().items():
        has_gradient = [p.grad is not None for p in group if p is not backbone.model.masked_spec_embed]
        assert not any(has_gradient) if name in frozen else all(has_gradient), name


def test_frozen_parts_drop_nothing(wav2vec2: Any) -> None:
    backbone = backbone_of(wav2vec2)
    backbone.model.encoder.dropout.p = 0.5
    clip = batch(clips((4_000,)))
    still = backbone(*clip)
    backbone.train()
    assert not torch.equal(backbone(*clip).layers[0], still.layers[0])
    freeze(backbone, "cnn", "projection", "layer 1")  # after train(), as a stage does
    heard = backbone(*clip)
    assert (heard.layers[1] - still.layers[1]).abs().max() < 1e-5
    assert (heard.layers[2] - still.layers[2]).abs().max() > 1e-2
    freeze(backbone, "cnn")
    assert not torch.equal(backbone(*clip).layers[0], still.layers[0])
    freeze(backbone, *backbone.parameter_groups())
    backbone.train()
    assert not any(module.training for module in backbone.model.modules())
    assert not backbone(*clip).last.requires_grad


def test_spec_augment_and_layer_drop_are_off_unless_asked_for(tmp_path: Path) -> None:
    noisy = {"layerdrop": 0.9, "apply_spec_augment": True, "mask_time_prob": 0.9, "mask_time_length": 2}
    folder = save(plain_model("wav2vec2", TINY | noisy), tmp_path)
    quiet = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0}
    clip = batch(clips((16_000, 1_000)))
    backbone = HuggingFaceBackbone.from_source(str(folder), overrides=quiet)
    assert (backbone.train()(*clip).last - backbone.eval()(*clip).last).abs().max() < 1e-5

    np.random.seed(1)  # noqa: NPY002 -- the state that Transformers draws from
    masks = {"apply_spec_augment": True, "mask_time_prob": 0.5, "mask_time_length": 5}
    masked = HuggingFaceBackbone.from_source(str(folder), overrides=quiet | masks)
    assert not torch.equal(masked.train()(*clip).layers[0], masked.eval()(*clip).layers[0])
    masked.train()(*batch(clips((400,))))  # shorter than a mask

    dropping = HuggingFaceBackbone.from_source(str(folder), overrides=quiet | {"layerdrop": 1.0})
    heard = dropping.train()(*clip)
    assert torch.equal(heard.layers[0], heard.layers[2])


def test_a_wavlm_that_drops_layers_keeps_its_position_bias() -> None:
    backbone = backbone_of(plain_model("wavlm", TINY | {"layerdrop": 1.0, "num_hidden_layers": 3})).train()
    heard = backbone(*batch(clips((4_000,))))
    assert not torch.equal(heard.layers[0], heard.layers[1])
    assert torch.equal(heard.layers[1], heard.layers[3])


# --- loading ---


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_saved_model_comes_back(case: str, tmp_path: Path) -> None:
    model = plain_model(*CASES[case])
    backbone = HuggingFaceBackbone.from_source(str(save(model, tmp_path)))
    expected = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    found = backbone.state_dict()
    if case.startswith(("wav2vec2-conformer", "wav2vec2-bert")):  # has modules that it never runs
        expected = {name: tensor for name, tensor in expected.items() if not re.search("pos_conv|embed_pos", name)}
    assert set(found) - {"model.masked_spec_embed"} == set(expected) - {"model.masked_spec_embed"}
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not backbone.training


@pytest.mark.parametrize(
    ("norm", "saved", "expected"),
    [("group", None, False), ("layer", None, True), ("group", True, True), ("layer", False, False)],
)
def test_normalisation_follows_what_was_saved(norm: str, saved: bool | None, expected: bool, tmp_path: Path) -> None:
    save(plain_model("wav2vec2", TINY | {"feat_extract_norm": norm}), tmp_path, do_normalize=saved)
    assert HuggingFaceBackbone.from_source(str(tmp_path)).do_normalize is expected


def test_shards_and_old_binaries_load(wav2vec2: Any, tmp_path: Path) -> None:
    wav2vec2.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    wav2vec2.config.save_pretrained(tmp_path / "binary")
    state = {old_name(name): tensor for name, tensor in wav2vec2.state_dict().items()}
    torch.save(state, tmp_path / "binary" / "pytorch_model.bin")
    hashes = {
        weights_hash(HuggingFaceBackbone.from_source(str(tmp_path / kind)).model) for kind in ("shards", "binary")
    }
    assert hashes == {weights_hash(wav2vec2)}


def old_name(name: str) -> str:
    """Return the name that a weight of the positional convolution had before PyTorch 2."""
    return name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


@pytest.mark.parametrize("head", ["Wav2Vec2ForCTC", "Wav2Vec2ForPreTraining", "Wav2Vec2ForSequenceClassification"])
def test_a_model_with_a_head_gives_its_body(head: str, tmp_path: Path) -> None:
    quantiser = {"codevector_dim": 8, "proj_codevector_dim": 8, "num_codevectors_per_group": 4}
    model = getattr(transformers, head)(transformers.Wav2Vec2Config(**TINY, **quantiser, vocab_size=8))
    model.save_pretrained(tmp_path)
    assert weights_hash(HuggingFaceBackbone.from_source(str(tmp_path)).model) == weights_hash(model.wav2vec2)


def test_the_adapter_behind_the_last_layer_is_left_out(tmp_path: Path) -> None:
    save(plain_model("wav2vec2", TINY | {"add_adapter": True}), tmp_path)
    backbone = HuggingFaceBackbone.from_source(str(tmp_path))
    assert backbone(torch.randn(1, 16_000), torch.tensor([16_000])).last.shape == (1, 49, 16)


def change_weights(folder: Path, change: Any) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def test_a_model_without_mask_embedding_loads_the_same_twice(folder: Path) -> None:
    change_weights(folder, lambda state: state.pop("masked_spec_embed"))
    first, second = (HuggingFaceBackbone.from_source(str(folder)) for _ in range(2))
    assert weights_hash(first) == weights_hash(second)


BREAKS = {
    "weights are missing, such as encoder.layers.1": lambda state: state.pop("encoder.layers.1.layer_norm.weight"),
    "weights fit nowhere, such as encoder.layers.2": lambda state: state.update(
        {"encoder.layers.2.layer_norm.weight": torch.ones(16)}
    ),
    "the weights cannot be loaded": lambda state: state.update({"encoder.layer_norm.weight": torch.ones(17)}),
}


@pytest.mark.parametrize("message", BREAKS)
def test_a_half_loaded_model_is_refused(message: str, folder: Path) -> None:
    change_weights(folder, BREAKS[message])
    with pytest.raises(ModelError, match=message):
        HuggingFaceBackbone.from_source(str(folder))


def test_folders_that_hold_no_model_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no readable config\.json.*wav2vec2, hubert, wavlm"):
        HuggingFaceBackbone.from_source(str(tmp_path / "empty"))
    with pytest.raises(ModelError, match="no such folder"):
        HuggingFaceBackbone.from_source(str(tmp_path / "absent"))
    with pytest.raises(ModelError, match="no such folder"):
        HuggingFaceBackbone.from_source(str(folder / "config.json"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="the weights cannot be loaded"):
        HuggingFaceBackbone.from_source(str(folder))
    weights.unlink()
    with pytest.raises(ModelError, match="the weights cannot be loaded"):
        HuggingFaceBackbone.from_source(str(folder))


@pytest.mark.parametrize("family", ["bert", "moonshine", None])
def test_other_families_are_refused_by_name(family: str | None, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"model_type": family}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=rf"'{family}', expected one of: wav2vec2, hubert, wavlm, data2vec-audio"):
        HuggingFaceBackbone.from_source(str(folder))


def test_a_model_for_another_rate_is_refused(wav2vec2: Any, tmp_path: Path) -> None:
    wav2vec2.save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=8_000).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="expects 8000 Hz"):
        HuggingFaceBackbone.from_source(str(tmp_path))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hidden_size": 8}, "unknown override 'hidden_size', expected one of: hidden_dropout"),
        ({"hidden_dropout": 1.5}, "hidden_dropout is 1.5, expected 0 to 1"),
        ({"layerdrop": "0"}, "layerdrop is '0'"),
        ({"apply_spec_augment": 1}, "apply_spec_augment is 1, expected true or false"),
        ({"mask_time_length": 0}, "mask_time_length is 0, expected a whole number from 1"),
    ],
)
def test_unfit_overrides_are_refused(overrides: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        HuggingFaceBackbone.from_source(str(folder), overrides=overrides)


def test_overrides_reach_the_model(folder: Path) -> None:
    rates = {key: 0.25 for key in OVERRIDES if key.endswith("dropout") and key != "conformer_conv_dropout"}
    backbone = HuggingFaceBackbone.from_source(str(folder), overrides=rates)
    assert {module.p for module in backbone.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}
    assert backbone.model.encoder.layers[0].attention.dropout == 0.25
    assert backbone.describe()["overrides"] == rates


def test_a_hub_name_without_network_fails_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(ModelError, match=r"cannot be reached.*hf download facebook/wav2vec2-base") as failure:
        HuggingFaceBackbone.from_source("facebook/wav2vec2-base")
    assert failure.value.where == "facebook/wav2vec2-base"


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached_offline(model: Any, cache: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Path:
    """Put a model into the Hub's cache as `someone/tiny`, take the network away, and return the model's folder."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    place = cache / "models--someone--tiny"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    save(model, place / "snapshots" / COMMIT, **settings)
    return place


def test_a_cached_hub_model_loads_without_network(
    wav2vec2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_offline(wav2vec2, tmp_path, monkeypatch)
    backbone = HuggingFaceBackbone.from_source("someone/tiny")
    assert backbone.do_normalize
    assert backbone.describe()["revision"] == COMMIT
    assert weights_hash(backbone.model) == weights_hash(wav2vec2)


@pytest.mark.parametrize("case", ["wav2vec2: group", "whisper"])
def test_a_cached_hub_model_needs_the_settings_of_its_features(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the Hub has none, or the architecture alone determines them."""
    place = cached_offline(plain_model(*CASES[case]), tmp_path, monkeypatch, do_normalize=None)
    if case != "whisper":
        with pytest.raises(ModelError, match=r"preprocessor_config\.json, .* hf download someone/tiny preproc"):
            HuggingFaceBackbone.from_source("someone/tiny")
        (place / ".no_exist" / COMMIT).mkdir(parents=True)
        (place / ".no_exist" / COMMIT / "preprocessor_config.json").touch()  # what the Hub answered
    assert not HuggingFaceBackbone.from_source("someone/tiny").do_normalize


# --- describing ---


@pytest.mark.parametrize("case", CASES)
def test_a_description_builds_the_same_again(case: str, tmp_path: Path) -> None:
    source = str(save(plain_model(*CASES[case]), tmp_path))
    backbone = HuggingFaceBackbone.from_source(source, overrides={"hidden_dropout": 0.3})
    description = json.loads(json.dumps(backbone.describe()))
    again = HuggingFaceBackbone.from_config(description)
    assert again.describe() == description
    again.load_state_dict(backbone.state_dict(), strict=True)
    assert weights_hash(again) == description["weights_sha256"]
    waveforms = batch(clips((4_000, 2_000)))
    with torch.no_grad():
        ours, theirs = backbone(*waveforms), again(*waveforms)
    assert all(torch.equal(one, other) for one, other in zip(ours.layers, theirs.layers, strict=True))


def test_a_description_can_be_filled_without_initialising(wav2vec2: Any, folder: Path) -> None:
    backbone = HuggingFaceBackbone.from_source(str(folder))
    with torch.device("meta"):
        again = HuggingFaceBackbone.from_config(backbone.describe())
    assert sum(parameter.numel() for parameter in again.parameters() if not parameter.is_meta) <= 16
    again.load_state_dict(backbone.state_dict(), strict=True, assign=True)
    waveforms = batch(clips((4_000, 2_000)))
    with torch.no_grad():
        assert torch.equal(again(*waveforms).last, backbone(*waveforms).last)


def test_trained_weights_are_not_the_sources(folder: Path) -> None:
    backbone = HuggingFaceBackbone.from_source(str(folder), overrides={"mask_time_prob": 0.0})
    plain = HuggingFaceBackbone.from_source(str(folder))
    assert backbone.untouched_source() == plain.untouched_source()
    assert backbone.untouched_source()["source"] == str(folder)
    with torch.no_grad():
        backbone.model.encoder.layer_norm.bias += 1e-6
    assert backbone.untouched_source() is None
    assert HuggingFaceBackbone.from_config(backbone.model.config.to_dict()).untouched_source() is None


@pytest.mark.parametrize(
    "config",
    [{"model_type": "wav2vec2", "hidden_size": "many"}, {"model_type": "wav2vec2", "conv_dim": [8]}, {}],
)
def test_an_invalid_configuration_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        HuggingFaceBackbone.from_config(config)


def test_weights_hash_tells_names_shapes_and_values_apart() -> None:
    def digest(**buffers: torch.Tensor) -> str:
        module = torch.nn.Module()
        for name, tensor in buffers.items():
            module.register_buffer(name, tensor)
        return weights_hash(module)

    zeros = torch.zeros(2, 3)
    kinds = [{"a": zeros}, {"b": zeros}, {"a": zeros.T}, {"a": zeros.double()}, {"a": zeros + 1}, {"a": zeros[0, 0]}]
    assert len({digest(**kind) for kind in kinds}) == len(kinds)
    assert digest(a=zeros, b=zeros.T) == digest(b=zeros.T.contiguous(), a=zeros)


def test_the_real_base_model_can_be_built() -> None:
    config = transformers.Wav2Vec2Config().to_dict()  # that of facebook/wav2vec2-base in all that shapes it
    with torch.device("meta"):
        shape = HuggingFaceBackbone.from_config(config, {"do_normalize": True})
    assert shape.num_layers == 12
    assert shape.sizes == (768,) * 13
    assert sum(parameter.numel() for parameter in shape.parameters()) == 94_371_712
    assert shape.do_normalize


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_word_dropout_drops_its_share_scales_the_rest_and_learns_alike(dtype: torch.dtype) -> None:
    drop = WordDropout(0.1)
    frames = torch.ones(301, 1001, dtype=dtype, requires_grad=True)
    torch.manual_seed(0)
    answer = drop(frames)
    is_kept = answer != 0
    assert float(is_kept.float().mean()) == pytest.approx(0.9, abs=0.002)
    assert torch.allclose(answer[is_kept], torch.tensor(1 / 0.9, dtype=dtype))
    correlation = np.corrcoef(is_kept.float().numpy()[:, :4].T) - np.eye(4)  # four draws share a word
    assert np.abs(correlation).max() < 0.25
    answer.float().sum().backward()
    assert torch.equal(frames.grad, answer.detach())
    torch.manual_seed(0)
    assert torch.equal(drop(frames), answer)
    assert torch.equal(drop.eval()(frames), frames)


# -- changed bands ---------------------------------------------------------------------------------------------------


def test_whispers_bands_can_be_changed() -> None:
    backbone = backbone_of(plain_model(*CASES["whisper"]))
    seen: list[tuple[tuple[int, ...], list[int]]] = []

    def louder(bands: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        seen.append((tuple(bands.shape), num_frames.tolist()))
        return bands + torch.tensor([1.0, 0.0])[:, None, None]  # the first clip alone

    inputs = batch(clips((16_000, 7_123)))
    with torch.no_grad():
        plain, changed = backbone(*inputs).last, backbone(*inputs, louder).last
    assert seen == [((2, 120, 20), [100, 44])]  # padded to 1.2 s, the most that it takes
    assert deviation(changed[0], plain[0]) > 1e-3
    assert torch.equal(changed[1], plain[1])


def test_backbones_without_bands_say_so() -> None:
    assert [backbone_of(plain_model(*CASES[case])).has_bands for case in ("whisper", "wav2vec2-bert")] == [True, False]
