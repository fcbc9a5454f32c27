"""`serein benchmark`: what it measures fits together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import serein
from serein.exporting import benchmark
from serein.exporting.benchmark import matrix_peak, measure


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads the machine's peak here."""
    monkeypatch.setattr(benchmark, "PEAK_SIZE", 256)
    monkeypatch.setattr(benchmark, "PEAK_S", 0.0)


@pytest.mark.slow
def test_numbers_fit_together() -> None:
    found = measure(serein.load(device="cpu"), clip_s=0.5, seconds=0.01)
    assert found.times_real_time == pytest.approx(0.5 * found.clips_per_s)
    assert 0 < found.latency_p50_s <= found.latency_p95_s
    assert found.flops
    assert found.share_of_peak == pytest.approx(found.flops * found.clips_per_s / found.peak_flops_per_s)
    assert found.memory_bytes > 1e7
    assert dict(found.rows())["model"] == "default, torch, float32"
    assert found.runtime == "torch"


@pytest.mark.slow
def test_a_machine_has_a_peak() -> None:
    assert matrix_peak(torch.device("cpu"), "float32") > 1e6


@pytest.mark.slow
def test_a_backbone_with_a_weight_norm_is_measured() -> None:
    model = serein.load(Path(__file__).parents[1] / "golden" / "models" / "classes-wav2vec2", "cpu")
    before = [weight.requires_grad for weight in model.model.parameters()]
    assert measure(model, clip_s=0.5, seconds=0.01).flops
    assert [weight.requires_grad for weight in model.model.parameters()] == before
