"""A clip alone and in a batch of other lengths get one answer, on every device that this machine has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import serein
from serein.inference.runtimes import predicting_precision
from serein.training.stages import chosen_precision

# device, precision -> most difference of probabilities
AGREEMENT = {("cpu", "float32"): 1e-5, ("cuda", "float32"): 1e-4, ("cuda", "bfloat16"): 1e-3}


@pytest.mark.parametrize(("device", "precision"), AGREEMENT)
@pytest.mark.parametrize("name", ["ravdess", "default"])
def test_a_clip_alone_and_in_a_batch(name: str, device: str, precision: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA on this machine")
    predictor = serein.load(name, device, precision=precision).uncalibrated()  # type: ignore[arg-type]
    assert predictor.runtime.precision == precision
    rng = np.random.default_rng(0)
    clips = [(0.1 * rng.standard_normal(size)).astype(np.float32) for size in (9_000, 16_000, 31_999, 40_000)]
    together = predictor.predict_clips(clips)
    for clip, among_others in zip(clips, together, strict=True):
        (alone,) = predictor.predict_clips([clip])
        found = among_others.main.probabilities
        assert list(alone.main.probabilities.values()) == pytest.approx(
            list(found.values()), abs=AGREEMENT[device, precision]
        )


def test_auto_is_float32_on_a_processor_and_bfloat16_on_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert predicting_precision("auto", torch.device("cpu")) == "float32"
    assert predicting_precision("auto", torch.device("cuda")) == "bfloat16"
    assert predicting_precision("float32", torch.device("cuda")) == "float32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert predicting_precision("auto", torch.device("cuda")) == "float32"  # as on a T4, which emulates it
    assert chosen_precision("auto", torch.device("cuda")) == "float32"
