"""`serein export`: one file says what the model says, for every backbone family, pooling, encoder and kind of task."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import serein
from models.test_backbones import CASES, ONE_OF_EACH, backbone_of, batch, clips, plain_model
from serein.checkpoint import Checkpoint, ModelOptions
from serein.choices import NamedOptions
from serein.data.manifest import Utterance
from serein.errors import ModelError
from serein.exporting import export as exporting
from serein.exporting.export import export
from serein.inference.batching import model_outputs
from serein.inference.predictor import Predictor
from serein.inference.runtimes import EmbeddingSelection, ExportedFile, OnnxRuntime
from serein.models.blocks import POOLINGS
from serein.models.logmel import LogMelBackbone
from serein.models.model import assemble
from serein.recipe import Category, Cnn2d, CnnBlstm, Dimensions, FeatureProjection, LogMel, Tasks, Transformer
from serein.tasks.classes import ClassLabels, ClassTask
from serein.tasks.dimensions import DimensionsTask

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
GOLDEN = Path(__file__).parents[1] / "golden" / "models"
TASK = ClassTask(Category(), ClassLabels(("a", "b", "c", "d"), {}))


def checkpoint_of(
    backbone: Any, pooling: str = "mean", encoder: NamedOptions | None = None, size: int = 1
) -> Checkpoint:
    torch.manual_seed(1)
    model = assemble(backbone, encoder, {"emotion": (Category(pooling=pooling), 4)}, size).eval()
    for module in model.modules():
        if hasattr(module, "running_var") and module.running_var is not None:
            module.running_var.uniform_(0.5, 1.5)
    return Checkpoint(model, ModelOptions(encoder=encoder, ensemble_size=size), {"emotion": TASK})


def furthest(checkpoint: Checkpoint, path: Path) -> float:
    """Return the largest difference of logits between file and model, over batches that the exporter never saw."""
    report = export(Predictor(checkpoint, "cpu"), path)
    worst = report["difference"]["output"]
    file = OnnxRuntime(ExportedFile.open(path), "cpu")
    for lengths in ((16_000, 7_123, 1_600), (400,), (9_001,) * 3, (12_000, 560)):
        waveforms = clips(lengths)
        with torch.inference_mode():
            expected = checkpoint.model(*batch(waveforms, padding=9.0, extra=700))["emotion"].output
        found, _ = file.run([w.numpy() for w in waveforms], {}, ["emotion"], EmbeddingSelection("emotion"))
        worst = max(worst, float((found["emotion"] - expected).abs().max()))
    return float(worst)


FEW = {"conv_dim": [8] * 3, "conv_kernel": [10, 8, 8], "conv_stride": [5, 8, 8]}  # 320 samples a frame, as seven have
QUICK = {"wav2vec2: group"}
OWN_POOLINGS = ["attention", "std", "mean", "mean", "std", "max", "channel-attention", "mean", "vector-attention"]
OF_EACH = dict(zip(ONE_OF_EACH, OWN_POOLINGS, strict=True))


@pytest.mark.parametrize(
    ("case", "pooling"),
    [pytest.param(case, pooling, marks=() if case in QUICK else pytest.mark.slow) for case, pooling in OF_EACH.items()],
)
def test_every_backbone_family(case: str, pooling: str, tmp_path: Path) -> None:
    family, options = CASES[case]
    checkpoint = checkpoint_of(backbone_of(plain_model(family, options if case in QUICK else options | FEW)), pooling)
    assert furthest(checkpoint, tmp_path / "model.onnx") < 1e-4


def test_a_backbone_of_low_rank(tmp_path: Path) -> None:
    backbone = backbone_of(plain_model(*CASES["whisper"]))
    backbone.factorise(3 * sum(each.numel() for each in backbone.parameters()) // 4, [batch(clips((16_000,)))])
    assert "conv2" in backbone.ranks
    checkpoint = checkpoint_of(backbone)
    assert furthest(checkpoint, tmp_path / "model.onnx") < 1e-4
    exporting.quantise(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    feed_forward = [matrix for name, matrix in backbone.named_parameters() if ".fc" in name and matrix.ndim == 2]
    assert products(tmp_path / "int8.onnx")["MatMulInteger"] == len(feed_forward)  # attention's products stay


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("SEREIN_EXPORTS") != "all", reason="minutes: set SEREIN_EXPORTS=all")
@pytest.mark.parametrize("case", sorted(CASES.keys() - OF_EACH.keys()))
def test_every_kind_of_each_family(case: str, tmp_path: Path) -> None:
    assert furthest(checkpoint_of(backbone_of(plain_model(*CASES[case]))), tmp_path / "model.onnx") < 1e-4


LOG_MEL = {"name": "logmel", "n_mels": 20, "top_db": 60.0, "normalisation": ("level", "corpus", "clip")}
STEM = Cnn2d(channels=(4, 6, 8), size=16, stem="stride", time_downsampling=2)
ENCODERS: dict[str, NamedOptions] = {
    "cnn2d": STEM,
    "cnn-blstm": CnnBlstm(channels=(8, 8), kernels=(3, 5), hidden=6, layers=2),
    "transformer": Transformer(cnn=STEM, layers=2, heads=2, feed_forward_size=16),
    "transformer, projected": Transformer(
        projection=FeatureProjection(stride=3, size=16), layers=1, heads=2, feed_forward_size=16
    ),
}


@pytest.mark.parametrize(
    "encoder", [pytest.param(name, marks=() if name == "cnn2d" else pytest.mark.slow) for name in ENCODERS]
)
def test_every_encoder_and_an_ensemble(encoder: str, tmp_path: Path) -> None:
    backbone = LogMelBackbone(LogMel.model_validate(LOG_MEL))
    checkpoint = checkpoint_of(backbone, "channel-attention", ENCODERS[encoder], size=2)
    assert furthest(checkpoint, tmp_path / "model.onnx") < 1e-4


def test_the_poolings_of_the_families_are_all_there_are() -> None:
    assert set(OF_EACH.values()) == set(POOLINGS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["branches", "branches-shared", "conditioned-gender-text", "emotion-asr", "emotion-gender", "words"]
)
def test_the_same_json_from_other_runtimes(kind: str, tmp_path: Path) -> None:
    report = export(GOLDEN / kind, tmp_path / "m.onnx")
    runtimes: list[Any] = ["onnx", *(["openvino"] if find_spec("openvino") else [])]
    expected, *others = (
        model.predict(_noise(2.5), 16_000, segments="never").to_dict()
        for model in (
            serein.load(GOLDEN / kind, "cpu"),
            *(serein.load(tmp_path / "m.onnx", runtime=name) for name in runtimes),
        )
    )
    for name in report["left_out"]:
        del expected["tasks"][name]
    for found in others:
        _assert_close(found, expected)


def test_threads_share_an_openvino_model(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    serein.export(GOLDEN / "classes", tmp_path / "m.onnx")
    model = serein.load(tmp_path / "m.onnx", runtime="openvino")
    sounds = [_noise(seconds) for seconds in (1.0, 2.0, 3.0, 4.0)]
    expected = [model.embed(sound, 16_000, segments="never") for sound in sounds]
    with ThreadPoolExecutor(len(sounds)) as threads:
        found = list(threads.map(lambda sound: model.embed(sound, 16_000, segments="never"), sounds * 20))
    np.testing.assert_allclose(found, expected * 20, atol=1e-6)


def test_a_file_tells_all_that_a_service_needs(tmp_path: Path) -> None:
    folder, path = GOLDEN / "classes", tmp_path / "classes.onnx"
    report = serein.export(folder, path)
    assert json.loads(path.with_suffix(".parity.json").read_text()) == report
    assert report["difference"]["output"] < 1e-4
    assert report["equal_labels"] == 1.0
    ours, theirs = serein.load(folder, "cpu"), serein.load(path)
    assert theirs.identity == ours.identity
    assert theirs.classes == ours.classes
    sound = _noise(40.0)
    _assert_close(theirs.predict(sound, 16_000).to_dict(), ours.predict(sound, 16_000).to_dict())
    np.testing.assert_allclose(
        theirs.embed(sound, 16_000, segments="never"), ours.embed(sound, 16_000, segments="never"), atol=1e-4
    )
    with pytest.raises(ModelError, match="stays where it was loaded"):
        theirs.to("cpu")
    with pytest.raises(ModelError, match="an exported file cannot be exported again. Name the model folder"):
        serein.export(theirs, tmp_path / "again.onnx")
    with pytest.raises(ModelError, match="does not run in PyTorch"):
        serein.load(path, runtime="torch")
    with pytest.raises(ModelError, match=r"computes only in float32, as it was exported\. Leave out --precision"):
        serein.load(path, precision="bfloat16")
    with pytest.raises(ModelError, match="float16"):
        serein.load("tiny", precision="float16")  # type: ignore[arg-type]
    assert serein.load(path, precision="float32").runtime.precision == "float32"


def test_what_cannot_be_exported_says_why(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"predicts words with its task 'asr'.*CTC"):
        serein.export(GOLDEN / "asr", tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"must end in \.onnx"):
        serein.export(GOLDEN / "classes", tmp_path / "m.pt")
    with pytest.raises(ModelError, match="no exported file for 'onnx'"):
        serein.load(GOLDEN / "classes", runtime="onnx")
    with pytest.raises(ModelError, match=r"Run: serein export tiny -o model\.onnx; then use --model model\.onnx\."):
        serein.load("tiny", runtime="onnx")
    with pytest.raises(ModelError, match=r"is not a model folder, and contains no model\.onnx"):
        serein.load(tmp_path, runtime="onnx")
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x01nothing")
    with pytest.raises(ModelError, match="is not a model exported by serein"):
        serein.load(tmp_path / "broken.onnx")


def test_damaged_metadata_are_refused(tmp_path: Path) -> None:
    onnx, path = pytest.importorskip("onnx"), tmp_path / "m.onnx"
    about = {"name": "m", "sha256": "0", "precision": "float32", "conditions": {"gender": 3}, "outputs": ["a.output"]}

    def opened(changes: dict[str, Any]) -> ExportedFile:
        model, content = onnx.ModelProto(), about | {"description": {}, "labels": {}} | changes
        model.metadata_props.add(
            key="serein", value=json.dumps({key: content[key] for key in content if content[key] != ""})
        )
        path.write_bytes(model.SerializeToString())
        return ExportedFile.open(path)

    assert opened({}).about["conditions"] == {"gender": 3}
    damaged: list[dict[str, Any]] = [
        {"sha256": ""},  # absent
        {"outputs": 1},
        {"conditions": {"gender": 10**12}},
        {"description": []},
        {"labels": {"emotion": float("inf")}},
    ]
    for changes in damaged:
        with pytest.raises(ModelError, match="is not a model exported by serein"):
            opened(changes)
    lengths_of_2_64 = b"\x72" + b"\xff" * 9 + b"\x01" + b"\x0a" + b"\xff" * 9 + b"\x01"
    for content in (lengths_of_2_64, b"\x72\x10\x0a\x06serein", b"\x72\x10"):  # the last two state 16 bytes
        path.write_bytes(content)
        with pytest.raises(ModelError, match="is not a model exported by serein"):
            ExportedFile.open(path)


def _noise(seconds: float) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).normal(size=round(16_000 * seconds))).astype(np.float32)


def _assert_close(found: Any, expected: Any) -> None:
    """Compare JSON: numbers to 1e-4, all else exactly."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            _assert_close(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _assert_close(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-4)
    else:
        assert found == expected


# -- 8-bit integers --------------------------------------------------------------------------------------------------


def products(path: Path) -> dict[str, int]:
    """Return how many products of integers, and how many convolutions, an exported file has."""
    onnx = pytest.importorskip("onnx")
    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    return {kind: kinds.count(kind) for kind in ("MatMulInteger", "Conv")}


@pytest.fixture(scope="module")
def in_both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Path, dict[str, dict[str, Any]]]:
    """Return a model, the folder with it in float32 and in int8, which are traced once, and what was said of them."""
    family, options = CASES["wav2vec2: group"]
    checkpoint = checkpoint_of(backbone_of(plain_model(family, options | FEW), do_normalize=False))
    folder = tmp_path_factory.mktemp("both")
    exact = folder / "exact.onnx"
    said = {"exact": export(Predictor(checkpoint, "cpu"), exact)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_trace", lambda graph, checkpoint, path: shutil.copy(exact, path))
        said["int8"] = export(Predictor(checkpoint, "cpu"), folder / "int8.onnx", int8=True)
    return checkpoint, folder, said


def test_int8_rounds_the_feed_forward_layers_of_a_transformer(in_both: Any) -> None:
    checkpoint, folder, said = in_both
    assert said["int8"]["precision"] == "int8"
    assert 1e-6 < said["int8"]["difference"]["output"] < 0.02 * said["exact"]["largest_output"]
    before, after = products(folder / "exact.onnx"), products(folder / "int8.onnx")
    layers = checkpoint.model.backbone.num_layers
    assert after["MatMulInteger"] == 2 * layers  # attention and its projections stay
    assert after["Conv"] == before["Conv"]


def test_an_exported_file_has_no_weights_for_pytorch(in_both: Any) -> None:
    checkpoint = serein.load(in_both[1] / "exact.onnx").checkpoint
    with pytest.raises(ModelError, match="an exported file does not run in PyTorch. Name the model folder"):
        model_outputs(checkpoint, lambda position: _noise(0.5), [8_000])


def test_int8_of_a_clip_does_not_depend_on_its_batch(in_both: Any) -> None:
    file = OnnxRuntime(ExportedFile.open(in_both[1] / "int8.onnx"), "cpu")
    quiet, loud = _noise(0.5), 50 * _noise(0.7)
    selection = EmbeddingSelection("emotion")
    (alone, _), (together, _) = (file.run(clips, {}, ["emotion"], selection) for clips in ([quiet], [quiet, loud]))
    np.testing.assert_allclose(together["emotion"][0], alone["emotion"][0], atol=1e-5)


def test_frames_of_two_products_in_a_row_are_scaled() -> None:
    """As in the model `small`, whose factorised layers are two products each."""
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    helper, drawn = onnx.helper, np.random.default_rng(0)
    weights = [onnx.numpy_helper.from_array(drawn.normal(size=(4, 4)).astype(np.float32), name) for name in "ab"]
    first = helper.make_node("MatMul", ["x", "a"], ["y"], name="first")
    second = helper.make_node("MatMul", ["y", "b"], ["z"], name="second")
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 4]) for name in "xz"]
    graph = helper.make_graph([first, second], "two", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    frames = {"x": drawn.normal(size=(3, 4)).astype(np.float32)}
    before = ort.InferenceSession(model.SerializeToString()).run(None, frames)
    exporting._scale_frames(model.graph, ["first", "second"])
    np.testing.assert_allclose(ort.InferenceSession(model.SerializeToString()).run(None, frames), before, atol=1e-5)


def test_int8_that_changes_the_labels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, path = GOLDEN / "classes", tmp_path / "m.onnx"
    monkeypatch.setattr(exporting, "quantise", partial(_other_signs, exporting.quantise))
    with pytest.raises(ModelError, match=r"int8 would change the labels of \d+ of 8 clips"):
        export(folder, path, int8=True, clips=[_noise(0.2 + 0.1 * number) for number in range(8)])
    assert not path.exists()


def test_int8_that_changes_numbers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Dimensions(names=("arousal", "valence"))
    torch.manual_seed(1)
    model = assemble(LogMelBackbone(LogMel()), None, {"dimensions": (options, 2)}).eval()
    (bias,) = [each for each in model.parameters() if each.shape == (2,)]
    bias.data.fill_(0.5)
    task = DimensionsTask("dimensions", options, {})
    checkpoint = Checkpoint(model, ModelOptions(tasks=Tasks(emotion=None, dimensions=options)), {"dimensions": task})
    monkeypatch.setattr(exporting, "quantise", partial(_other_signs, exporting.quantise))
    with pytest.raises(ModelError, match="int8 would change the numbers of 8 of 8 clips"):
        export(Predictor(checkpoint, "cpu"), tmp_path / "m.onnx", int8=True, clips=[_noise(0.5)] * 8)


def _other_signs(quantise: Any, path: Path, out: Path, given: Any = None) -> None:
    """Quantise, and negate what the last layer reads from: all predictions change."""
    onnx = pytest.importorskip("onnx")
    quantise(path, out, given)
    model = onnx.load(str(out))
    (output,) = [node for node in model.graph.node if {"emotion.output", "dimensions.output"} & {*node.output}]
    name, output.output[0] = output.output[0], "before"
    model.graph.node.append(onnx.helper.make_node("Neg", ["before"], [name]))
    onnx.save(model, str(out))


def test_given_clips_have_their_own_conditions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    run = OnnxRuntime.run

    def watched(file: Any, waveforms: Any, conditions: Any, *rest: Any) -> Any:
        seen.extend(conditions["gender"].tolist())
        return run(file, waveforms, conditions, *rest)

    monkeypatch.setattr(OnnxRuntime, "run", watched)
    utterances = [Utterance(id="a", audio="a.wav", gender="male"), Utterance(id="b", audio="b.wav")]
    how: Any = {"clips": [_noise(0.5)] * 2, "utterances": utterances}
    export(GOLDEN / "conditioned-gender", tmp_path / "m.onnx", **how)
    assert seen == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]


@pytest.mark.slow
def test_weights_beside_a_file_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch writes the weights of large models into a second file."""
    import onnx

    real = exporting._trace

    def beside(graph: Any, checkpoint: Checkpoint, path: Path) -> None:
        real(graph, checkpoint, path)
        where: dict[str, Any] = {"save_as_external_data": True, "location": f"{path.name}.data", "size_threshold": 100}
        onnx.save_model(onnx.load(path), path, **where)

    monkeypatch.setattr(exporting, "_trace", beside)
    waveform = np.random.default_rng(0).standard_normal(8_000).astype(np.float32)
    expected = []
    for number, name in enumerate(("a", "b")):
        checkpoint = checkpoint_of(LogMelBackbone(LogMel(n_mels=16)), encoder=Cnn2d(channels=(4, 8), size=8))
        for weight in checkpoint.model.parameters():
            weight.data += 0.1 * number
        expected.append(furthest(checkpoint, tmp_path / f"{name}.onnx"))
        file = OnnxRuntime(ExportedFile.open(tmp_path / f"{name}.onnx"), "cpu")
        outputs, _ = file.run([waveform], {}, ["emotion"], EmbeddingSelection("emotion"))
        expected[number] = outputs["emotion"].numpy()
    for name, own in zip(("a", "b"), expected, strict=True):
        file = OnnxRuntime(ExportedFile.open(tmp_path / f"{name}.onnx"), "cpu")
        outputs, _ = file.run([waveform], {}, ["emotion"], EmbeddingSelection("emotion"))
        np.testing.assert_array_equal(outputs["emotion"].numpy(), own)
    assert not np.array_equal(expected[0], expected[1])
    assert sorted(path.name for path in tmp_path.glob("*.data")) == ["a.onnx.data", "b.onnx.data"]
