"""Two networks in one model: what joins, what is frozen, and what is heard once for both."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from models.test_backbones import CASES, backbone_of, plain_model
from models.test_model import LENGTHS, waves
from serein.errors import RecipeError
from serein.models.hidden_states import Backbone
from serein.models.model import SpeechModel, are_equal, assemble, expand, new_backbone
from serein.recipe import Category, Cnn2d, LogMel

SPEAKER = Category(branch="speaker", attention={"blocks": 1}, pooling="max", loss="arcface")
EMOTION = Category(
    projection=8,
    projection_at="frames",
    projection_kind="relu-linear",
    attention={"blocks": 2},
    pooling="max",
    fusion={"inputs": ["speaker"], "init": 0.5},
    loss="arcface",
    arcface={"scale": 1.0},
)


def two_networks(bands: tuple[int, int] = (16, 16)) -> SpeechModel:
    torch.manual_seed(0)
    main, other = (new_backbone(LogMel(n_mels=number)) for number in bands)
    for backbone in (main, other):
        backbone.fit([backbone.bands(*waves(16_000, 5_000))])
    encoder = Cnn2d(channels=(3, 4), size=8)
    tasks = {"emotion": (EMOTION, 4), "speaker": (SPEAKER, 5)}
    return assemble(main, encoder, tasks, branches={"speaker": (other, encoder)}).eval()


def wav2vecs(difference: float = 0.0) -> SpeechModel:
    backbones = [backbone_of(plain_model(*CASES["wav2vec2: group"])) for _ in range(2)]
    list(backbones[1].parameters())[-1].data.add_(difference)
    size = backbones[0].sizes[-1]
    emotion = EMOTION.model_copy(update={"projection": size})
    tasks = {"emotion": (emotion, 4), "speaker": (SPEAKER, 5)}
    return assemble(backbones[0], None, tasks, branches={"speaker": (backbones[1], None)}).eval()


class Counted:
    """Counts how often each backbone hears."""

    def __init__(self, model: SpeechModel) -> None:
        self.num = {"main": 0, "speaker": 0}
        for name in self.num:
            model.backbone_of(name).register_forward_hook(self._counting(name))

    def _counting(self, name: str) -> object:
        def hook(module: Backbone, inputs: object, output: object) -> None:
            self.num[name] += 1

        return hook


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


# -- answers


def test_batching_changes_no_answer_of_two_networks() -> None:
    model = two_networks((16, 12))
    waveforms, num_samples = waves(*LENGTHS)
    together = model(waveforms, num_samples)
    for row, length in enumerate(LENGTHS):
        alone = model(waveforms[row : row + 1, :length], torch.tensor([length]))
        for task in ("emotion", "speaker"):
            scale = 1.0 if task == "emotion" else 30.0
            ours, theirs = together[task].output[row] / scale, alone[task].output[0] / scale
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
            np.testing.assert_allclose(together[task].embedding[row], alone[task].embedding[0], atol=1e-5)


def test_the_fused_vector_is_the_own_one_and_the_speakers() -> None:
    """E = h_1 + h_2 + 0.5 * h_speaker, of which h_speaker is what the speaker's output layer reads."""
    model, heard = two_networks(), waves(9_000, 4_000)
    hidden_states = model.encode(*heard, model.branches_of())
    fused = model.decode(hidden_states)
    own = model.decode(hidden_states, tasks=["emotion"], use_fusion=False)
    torch.testing.assert_close(fused["emotion"].embedding, own["emotion"].embedding + 0.5 * fused["speaker"].embedding)
    assert list(own) == ["emotion"]


def test_a_network_alone_hears_and_needs_its_own_branch_only() -> None:
    model = two_networks((16, 12))
    assert model.branches_of() == ["speaker", "main"]
    assert model.branches_of(["emotion"]) == ["speaker", "main"]
    assert model.branches_of(["emotion"], use_fusion=False) == ["main"]
    assert model.branches_of(["speaker"]) == ["speaker"]
    counted = Counted(model)
    head_output = model.decode(model.encode(*waves(4_000), ["speaker"]), tasks=["speaker"])
    assert list(head_output) == ["speaker"]
    assert counted.num == {"main": 0, "speaker": 1}


# -- sharing


def test_the_same_frozen_weights_run_once() -> None:
    model, heard = wav2vecs(), waves(9_000, 4_000)
    before, counted = model(*heard), Counted(model)
    model.share_backbones()
    after = model(*heard)
    assert counted.num == {"main": 1, "speaker": 0}
    for task in ("emotion", "speaker"):
        assert torch.equal(before[task].output, after[task].output)


def test_other_weights_run_by_themselves() -> None:
    model = wav2vecs(difference=1e-6)
    assert not are_equal(model.backbone, model.backbone_of("speaker"))
    counted = Counted(model)
    model.share_backbones()
    model(*waves(4_000))
    assert counted.num == {"main": 1, "speaker": 1}


def test_what_learns_is_not_shared() -> None:
    model = wav2vecs()
    model.train_only(["heads"])
    assert model.sharing == {"speaker"}
    model.train_only(["layer 1", "heads"])
    assert model.sharing == frozenset()
    model.train_only(["heads", "speaker.layer 2"])
    assert model.sharing == frozenset()


def test_log_mel_bands_of_one_normalisation_are_shared() -> None:
    model = two_networks()
    model.share_backbones()
    assert model.sharing == {"speaker"}
    model.backbone_of("speaker").mean.add_(1.0)
    model.share_backbones()
    assert model.sharing == frozenset()
    other = two_networks((16, 12))
    other.share_backbones()
    assert other.sharing == frozenset()


# -- what learns


def learning(model: SpeechModel) -> set[str]:
    """Return the parts that learn: `main`, `speaker`, and the heads as `emotion.head` and `speaker.head`."""
    parts = set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            *_, part = name.partition("heads.")
            parts.add(f"{part.split('.')[0]}.head" if part else ("speaker" if "branches" in name else "main"))
    return parts


@pytest.mark.parametrize(
    ("trainable", "tasks", "expected"),
    [
        (["encoder", "heads"], ["emotion"], {"main", "emotion.head"}),  # all frozen
        (["encoder", "heads"], ["emotion", "speaker"], {"main", "emotion.head", "speaker.head"}),  # centres trained
        (["encoder", "heads", "speaker.all"], None, {"main", "emotion.head", "speaker", "speaker.head"}),  # all trained
        (["speaker.encoder", "heads"], ["speaker"], {"speaker", "speaker.head"}),
        (["all"], None, {"main", "emotion.head", "speaker", "speaker.head"}),
    ],
)
def test_ways_of_freezing(trainable: list[str], tasks: list[str] | None, expected: set[str]) -> None:
    model = two_networks()
    model.train_only(trainable, tasks)
    assert learning(model) == expected


def test_every_parameter_is_in_one_group() -> None:
    for model in (two_networks(), wav2vecs()):
        groups = model.parameter_groups()
        assert sorted(id(p) for group in groups.values() for p in group) == sorted(map(id, model.parameters()))


def test_frozen_networks_do_not_drop_out() -> None:
    """The frozen speaker's vector is the same in training; its attention would drop out otherwise."""
    model = two_networks()
    model.train_only(["encoder", "heads"], ["emotion"])
    model.train()
    hidden_states = model.encode(*waves(9_000, 4_000), ["speaker"])
    first, second = (model.decode(hidden_states, tasks=["speaker"])["speaker"].embedding for _ in range(2))
    assert torch.equal(first, second)
    model.train_only(["heads", "speaker.encoder"], ["emotion", "speaker"])
    first, second = (model.decode(hidden_states, tasks=["speaker"])["speaker"].embedding for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("transformer", ["projection", "layer 1", "layer 2"]),
        ("speaker.transformer", ["speaker.layer 1"]),
        ("speaker.backbone", ["speaker.cnn", "speaker.layer 1"]),
        ("speaker.all", ["speaker.cnn", "speaker.layer 1", "speaker.encoder"]),
        ("layers 1-2", ["layer 1", "layer 2"]),
        ("speaker.layer 1", ["speaker.layer 1"]),
        ("heads", ["heads"]),
    ],
)
def test_names_of_parts(name: str, expected: list[str]) -> None:
    own = ["cnn", "projection", "layer 1", "layer 2", "encoder", "heads"]
    assert expand(name, [*own, "speaker.cnn", "speaker.layer 1", "speaker.encoder"]) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("all", ["adapter", "encoder layer 1", "heads", "speaker.cnn", "speaker.encoder"]),
        ("backbone", ["adapter"]),
        ("layers 1-1", ["layer 1"]),
        ("transformer", ["projection", "layer 1"]),
        ("speaker.all", ["speaker.cnn", "speaker.encoder"]),
        ("speaker.backbone", ["speaker.cnn"]),
    ],
)
def test_an_adapted_backbones_own_weights_are_trained_only_by_their_own_names(name: str, expected: list[str]) -> None:
    own = ["cnn", "projection", "layer 1", "adapter", "encoder layer 1", "heads"]
    assert expand(name, [*own, "speaker.cnn", "speaker.encoder"]) == expected
    swapped = expand("speaker.all", ["cnn", "heads", "speaker.cnn", "speaker.adapter", "speaker.encoder"])
    assert swapped == ["speaker.adapter", "speaker.encoder"]


@pytest.mark.parametrize(
    "name", ["speaker.layer 2", "speakers.encoder", "layers 2-1", "speaker.heads", "x", "voice.all"]
)
def test_parts_that_are_not_there(name: str) -> None:
    with pytest.raises(
        RecipeError, match=f"'{name}' is not a part of this model; its parts are: encoder, speaker.layer 1"
    ):
        expand(name, ["encoder", "speaker.layer 1"])
