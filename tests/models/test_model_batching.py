"""Decision 1, end to end: any backbone with any pooling answers alike alone, batched, and by Transformers."""

from __future__ import annotations

import pytest
import torch

from models.test_backbones import CASES, backbone_of, batch, by_transformers, clips, plain_model
from serein.models.blocks import POOLINGS
from serein.models.hidden_states import HiddenStates
from serein.models.model import assemble
from serein.recipe import Category


@pytest.mark.slow
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("case", CASES)
def test_every_pooling_on_every_backbone(case: str, pooling: str) -> None:
    plain = plain_model(*CASES[case])
    torch.manual_seed(1)
    model = assemble(backbone_of(plain), None, {"emotion": (Category(pooling=pooling), 4)}).eval()
    waveforms = clips((16_000, 7_123, 1_600))
    with torch.inference_mode():
        together = model(*batch(waveforms, padding=9.0, extra=16_000))["emotion"].output
        for row, waveform in enumerate(waveforms):
            alone = model(*batch([waveform]))["emotion"].output[0]
            frames = by_transformers(plain, waveform).last_hidden_state
            theirs = HiddenStates((frames,), torch.ones(frames.shape[:2], dtype=torch.bool))
            by_their_frames = model.decode({"main": theirs})["emotion"].output[0]
            torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=0)
            rounding = 1e-4 if case.startswith("wav2vec2-bert") else 1e-5  # of their features
            torch.testing.assert_close(alone, by_their_frames, atol=rounding, rtol=0)
