"""Model folders: what is loaded is bit for bit what was saved, and any damage is named."""

from __future__ import annotations

import json
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from serein import checkpoint as model_folder
from serein.checkpoint import PARTS, Checkpoint, ModelOptions, load
from serein.data.manifest import Utterance
from serein.errors import ModelError
from serein.models.backbones import HuggingFaceBackbone
from serein.models.model import assemble, new_backbone
from serein.recipe import Category, Clips, Cnn2d, CnnBlstm, Inference, LogMel, Tasks
from serein.tasks.classes import ClassLabels, ClassTask

CATEGORIES = ClassLabels(("calm", "happy", "süß"), {"excited": "happy"})
WAVES = 0.1 * torch.randn(2, 6_000, generator=torch.Generator().manual_seed(0)), torch.tensor([6_000, 4_321])


def checkpoint(encoder: Any = None, ensemble_size: int = 1, **emotion: Any) -> Checkpoint:
    torch.manual_seed(0)
    options = ModelOptions(
        encoder=encoder,
        ensemble_size=ensemble_size,
        tasks=Tasks(emotion=Category(**emotion)),
        clips=Clips(trim_db=30.0, min_s=0.5, pad_mode="repeat"),
        inference=Inference(batch_s=7.0),
    )
    backbone = new_backbone(LogMel(n_mels=12, normalisation=("level", "corpus")))
    backbone.fit([backbone.bands(*WAVES)])
    model = assemble(backbone, encoder, {"emotion": (options.tasks.emotion, 3)}, ensemble_size)
    model.train()(*WAVES)  # moves the running statistics
    return Checkpoint(
        model.eval(),
        options,
        {"emotion": ClassTask(options.tasks.emotion, CATEGORIES)},
        {"recipe": "r", "speakers": ["a/1"], "dev_ua": None},
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    model_folder.save(folder, checkpoint(), "# A card\n")
    return folder


# -- there and back


@pytest.mark.parametrize(
    "made",
    [
        checkpoint(),
        checkpoint(
            Cnn2d(channels=(3, 4, 5), size=6, convolutions=2), batch_norm=True, hidden=(5,), label_smoothing=0.1
        ),
        checkpoint(Cnn2d(channels=(3, 4), size=6), ensemble_size=3),
        checkpoint(
            CnnBlstm(channels=(4,), kernels=(3,), hidden=3, layers=1, layer="weighted"), projection=5, pooling="std"
        ),
    ],
    ids=["bare", "cnn2d", "ensemble", "cnn-blstm"],
)
@torch.inference_mode()
def test_every_bit_comes_back(tmp_path: Path, made: Checkpoint) -> None:
    model_folder.save(tmp_path / "new" / "model", made, "")
    loaded = model_folder.load(tmp_path / "new" / "model")
    assert (loaded.options, loaded.class_labels, loaded.training) == (made.options, made.class_labels, made.training)
    assert not loaded.model.training
    before, after = made.model(*WAVES)["emotion"], loaded.model(*WAVES)["emotion"]
    assert torch.equal(before.output, after.output)
    assert torch.equal(before.embedding, after.embedding)
    state = loaded.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in made.model.state_dict().items())


def whisper_checkpoint() -> Checkpoint:
    sizes = {"d_model": 16, "encoder_attention_heads": 2, "encoder_layers": 1, "encoder_ffn_dim": 24}
    backbone = HuggingFaceBackbone.from_config({"model_type": "whisper", **sizes})
    options = ModelOptions(tasks=Tasks(emotion=Category()))
    model = assemble(backbone, None, {"emotion": (options.tasks.emotion, 3)}, 1)
    return Checkpoint(model.eval(), options, {"emotion": ClassTask(options.tasks.emotion, CATEGORIES)}, {"recipe": "r"})


@pytest.mark.parametrize(
    ("dtype", "moved", "kept"), [("float32", 0, True), ("float16", 0, False), ("float16", 0.01, True)]
)
@torch.inference_mode()
def test_half_as_large_without_the_positions_that_a_formula_gives(
    tmp_path: Path, dtype: str, moved: float, kept: bool
) -> None:
    made = whisper_checkpoint()
    positions = cast(HuggingFaceBackbone, made.model.backbone).model.embed_positions.weight
    positions += moved
    model_folder.save(tmp_path / "model", made, "", backbone="bundle", dtype=getattr(torch, dtype))
    stored = load_file(tmp_path / "model" / "model.safetensors")
    name = "backbone.model.embed_positions.weight"
    assert (name in stored) == kept
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {getattr(torch, dtype)}
    loaded = model_folder.load(tmp_path / "model").model
    tolerance = 1e-3 if dtype == "float16" and kept else 0.0
    torch.testing.assert_close(loaded.state_dict()[name], positions, atol=tolerance, rtol=0)
    before, after = made.model(*WAVES)["emotion"].output, loaded(*WAVES)["emotion"].output
    torch.testing.assert_close(after, before, atol=0 if dtype == "float32" else 1e-2, rtol=0)
    source = HuggingFaceBackbone.from_source(str(tmp_path / "model"))
    torch.testing.assert_close(source.state_dict()["model.embed_positions.weight"], loaded.state_dict()[name])


def test_the_folder_holds_four_readable_files(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", *sorted(PARTS)]
    assert (saved / "README.md").read_text() == "# A card\n"
    assert json.loads((saved / "labels.json").read_text())["emotion"]["classes"] == ["calm", "happy", "süß"]
    with safe_open(saved / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(checkpoint().model.state_dict())
    assert stat.S_IMODE(saved.stat().st_mode) == 0o755
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_nothing_is_pickled(saved: Path) -> None:
    for path in saved.iterdir():
        start = path.read_bytes()[:2]
        assert start != b"PK"
        assert not start.startswith(b"\x80")


def test_a_model_replaces_a_model_and_nothing_else(saved: Path, tmp_path: Path) -> None:
    model_folder.save(saved, checkpoint(hidden=(5,)), "# Another\n")
    assert model_folder.load(saved).options.tasks.emotion.hidden == (5,)
    (tmp_path / "empty").mkdir()
    model_folder.save(tmp_path / "empty", checkpoint(), "")
    assert model_folder.is_model_folder(tmp_path / "empty")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    for foreign in (tmp_path / "notes", tmp_path / "notes" / "a.txt"):
        with pytest.raises(ModelError, match="exists and is not a model folder. Name a new folder"):
            model_folder.save(foreign, checkpoint(), "")
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"


@pytest.mark.parametrize("exists", [True, False])
def test_a_failed_save_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool) -> None:
    folder = tmp_path / "model"
    if exists:
        model_folder.save(folder, checkpoint(), "# Before\n")
    before = {path.name: path.read_bytes() for path in folder.glob("*")}

    def full(state: dict[str, torch.Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(model_folder, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        model_folder.save(folder, checkpoint(hidden=(5,)), "# After\n")
    assert {path.name: path.read_bytes() for path in folder.glob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == (["model"] if exists else [])


def test_a_model_is_saved_through_a_link(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(saved)
    model_folder.save(tmp_path / "link", checkpoint(hidden=(5,)), "# Another\n")
    assert (tmp_path / "link").is_symlink()
    assert model_folder.load(saved).options.tasks.emotion.hidden == (5,)


# -- damage

Damage = Callable[[Path], object]


def changed(name: str, *keys: str, to: object) -> Damage:
    """Set a value in a JSON file, or delete it (`...`)."""

    def damage(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        target = document
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = to
        if to is ...:
            del target[keys[-1]]
        (folder / name).write_text(json.dumps(document))

    return damage


def written(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def cut(share: float) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return damage


def reweighed(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return damage


OUTPUT = "ensemble.0.heads.emotion.output.weight"
DAMAGES: dict[str, tuple[Damage, str]] = {
    **{f"no {part}": (lambda folder, part=part: (folder / part).unlink(), f"{part} missing") for part in PARTS},
    "weights cut in the header": (cut(0.01), "model.safetensors: damaged weights"),
    "weights cut in the middle": (cut(0.5), "model.safetensors: damaged weights"),
    "weights cut at the end": (cut(0.999), "model.safetensors: damaged weights"),
    "weights empty": (written("model.safetensors", b""), "model.safetensors: damaged weights"),
    "weights pickled": (written("model.safetensors", b"\x80\x04K\x01."), "model.safetensors: damaged weights"),
    "a tensor more": (reweighed(lambda s: s.update(more=torch.zeros(1))), 'do not fit model.json: .* "more"'),
    "a tensor less": (reweighed(lambda s: s.pop(OUTPUT)), f'do not fit model.json: .* "{OUTPUT}"'),
    "a tensor of another shape": (reweighed(lambda s: s.update({OUTPUT: s[OUTPUT].T.contiguous()})), "size mismatch"),
    "a class less": (changed("labels.json", "emotion", "classes", to=["calm", "happy"]), "size mismatch"),
    "a newer format": (changed("model.json", "format", to=2), "model.json: format 2 is not 1. Upgrade serein"),
    "no format": (changed("model.json", "format", to=...), "model.json: format None is not 1"),
    "model.json cut": (written("model.json", b'{"format": 1,'), "model.json: damaged: not JSON"),
    "model.json binary": (written("model.json", b"\xff\xfe\x00"), "model.json: damaged: not JSON"),
    "model.json a list": (written("model.json", b"[1]"), "model.json: damaged: contains no keys"),
    "labels.json cut": (written("labels.json", b"{"), "labels.json: damaged: not JSON"),
    **{
        f"no {key}": (changed("model.json", key, to=...), f"do not describe a model .'{key}'.")
        for key in (
            "backbone",
            "backbone_weights",
            "encoder",
            "ensemble_size",
            "tasks",
            "clips",
            "inference",
            "training",
        )
    },
    "an unknown option": (changed("model.json", "tasks", "emotion", "colour", to=1), "do not describe a model"),
    "an unknown pooling": (
        changed("model.json", "tasks", "emotion", "pooling", to="median"),
        "tasks.emotion.pooling: unknown pooling 'median', expected .* Install the package that it comes from",
    ),
    "an unknown encoder": (
        changed("model.json", "encoder", to={"name": "mamba"}),
        "encoder: unknown encoder 'mamba', expected .* Install the package that it comes from",
    ),
    "an unknown task": (changed("model.json", "tasks", "mood", to={}), "unknown task 'mood', expected .* Install the"),
    "an unknown layer": (changed("model.json", "tasks", "emotion", "layer", to=9), "no hidden layer 9"),
    "an unknown backbone": (changed("model.json", "backbone", "name", to="ear"), "model.json: unknown backbone 'ear'"),
    "a backbone that is a word": (changed("model.json", "backbone", to="logmel"), "do not describe a model"),
    "a wrong number of bands": (changed("model.json", "backbone", "n_mels", to="x"), "do not describe a model"),
    "another number of bands": (changed("model.json", "backbone", "n_mels", to=13), "size mismatch"),
    "a member more": (changed("model.json", "ensemble_size", to=2), "do not fit model.json: .* Missing key"),
    "no member": (changed("model.json", "ensemble_size", to=0), "do not describe a model|do not fit model.json"),
    "training that is a list": (changed("model.json", "training", to=["r"]), "do not describe a model"),
    "labels of no task": (written("labels.json", b"{}"), "do not describe a model .'emotion'."),
    "a class twice": (changed("labels.json", "emotion", "classes", to=["calm", "calm", "süß"]), "not distinct names"),
    "a class that is no word": (changed("labels.json", "emotion", "classes", to=["calm", [], "süß"]), "unhashable"),
    "a weight that is no number": (reweighed(lambda s: s[OUTPUT].fill_(float("nan"))), f"{OUTPUT} is not finite"),
    "a number beyond all": (changed("model.json", "ensemble_size", to=10**40), "contains a number beyond"),
    "not a number": (changed("model.json", "clips", "min_s", to=float("nan")), "contains the number nan"),
    "as deep as a well": (
        written("model.json", b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
        "model.json: damaged: nested too deeply",
    ),
    "deeper than any": (written("model.json", b'{"a":' + b"[" * 50 + b"]" * 50 + b"}"), "nested too deeply"),
    "a billion members": (changed("model.json", "ensemble_size", to=10**9), "larger than any model"),
    "a layer of terabytes": (changed("model.json", "tasks", "emotion", "hidden", to=[10**6, 10**6]), "larger than any"),
    "classes that are none": (changed("labels.json", "emotion", "classes", to=None), "do not describe a model"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_with_its_place_and_remedy(saved: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    damage(saved)
    with pytest.raises(ModelError, match=message) as error:
        model_folder.load(saved)
    assert error.value.remedy
    assert "model" in str(error.value.where)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("named", ["run", "run/fold-1/seed-0"])
def test_the_model_of_a_run_is_named(named: str, saved: Path, tmp_path: Path) -> None:
    model = tmp_path / "run/fold-1/seed-0/model"
    shutil.copytree(saved, model)
    with pytest.raises(
        ModelError, match=f"model.json, .* missing. It contains models, such as {re.escape(str(model))}."
    ):
        load(tmp_path / named)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="none: no such model folder. Train one"):
        model_folder.load(tmp_path / "none")
    assert not model_folder.is_model_folder(tmp_path)


def test_speakers_that_a_model_has_learned() -> None:
    checkpoint = model_folder.load(Path(__file__).parent / "golden" / "models" / "classes")
    checkpoint.training["speakers"] = ["own/1", "own/2"]
    speakers = [("own", "2"), ("own", "2"), ("own", None), ("other", "1")]
    seen = [Utterance(id=str(n), audio="-", speaker=who, corpus=corpus) for n, (corpus, who) in enumerate(speakers)]
    assert checkpoint.learned_speakers(seen, "own") == ["own/2"]


def test_speakers_without_a_corpus_are_known_by_the_name_of_their_manifest() -> None:
    """`serein corpus merge` uses the name as their corpus."""
    checkpoint = model_folder.load(Path(__file__).parent / "golden" / "models" / "classes")
    checkpoint.training["speakers"] = ["mine/anna", "emodb/ben"]
    seen = [Utterance(id=who, audio="-", speaker=who) for who in ("anna", "ben")]
    assert checkpoint.learned_speakers(seen, "mine") == ["/anna"]
    assert checkpoint.learned_speakers(seen, "theirs") == []
