"""Where speech is: how likely each 32 ms are speech, as samples come.

The network and its weights are Silero's voice activity detector (Silero Team, package `silero-vad`, MIT). Its weights
are read from the safetensors file inside the package, which is never imported: importing it runs TorchScript and
sets the threads of the whole process.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from serein.data.audio import SAMPLE_RATE_HZ, Waveform
from serein.errors import ModelError

FRAME = 512  # samples; the network was trained on frames of 32 ms at 16 kHz
CONTEXT = 64  # samples of the frame before that it hears again
FRAME_S = FRAME / SAMPLE_RATE_HZ
_REFLECTED = 64
_NUM_BINS = 129
_STATE = 128
_MOST_FRAMES = 1024  # at once: 33 s, some 20 MB

State = tuple[torch.Tensor, torch.Tensor]


class SpeechNetwork(nn.Module):
    """Magnitudes of a spectrum, four convolutions within a frame, an LSTM from frame to frame, one sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 2 * _NUM_BINS, 256, stride=128, bias=False)  # real parts, then imaginary ones
        self.conv1 = nn.Conv1d(_NUM_BINS, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, _STATE, 3, padding=1)
        self.lstm = nn.LSTM(_STATE, _STATE)
        self.final_conv = nn.Conv1d(_STATE, 1, 1)

    def forward(self, frames: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Return (frame,) how likely each is speech.

        Args:
            frames: (frame, CONTEXT + FRAME) consecutive frames, each with the end of the one before.
            state: What the LSTM kept of what came before.
        """
        parts = self.stft_conv(nn.functional.pad(frames, (0, _REFLECTED), mode="reflect").unsqueeze(1))
        features = (parts[:, :_NUM_BINS].square() + parts[:, _NUM_BINS:].square()).sqrt()
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            features = convolution(features).relu()
        hidden, state = self.lstm(features.squeeze(2), state)
        return self.final_conv(hidden.relu().unsqueeze(2)).sigmoid().flatten(), state


@cache
def speech_network() -> SpeechNetwork:
    """Return the network with the weights of the installed package.

    Raises:
        ModelError: The package is not installed, or lacks the weights.
    """
    found = find_spec("silero_vad")
    folders = () if found is None else found.submodule_search_locations or ()
    paths = [path for folder in folders if (path := Path(folder) / "data" / "silero_vad_16k.safetensors").is_file()]
    if not paths:
        raise ModelError(
            "the weights of the voice activity detector are missing",
            where="silero-vad",
            remedy="Install it with: pip install 'silero-vad>=6.2'.",
        )
    network = SpeechNetwork()
    network.load_state_dict(_as_sequence(load_file(paths[0])))
    return network.eval().requires_grad_(False)


def _as_sequence(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the weights of an LSTM's cell to those of an LSTM."""
    return {
        f"lstm.{name.removeprefix('lstm_cell.')}_l0" if name.startswith("lstm_cell.") else name: tensor
        for name, tensor in weights.items()
    }


class SpeechDetector:
    """Says of every 32 ms how likely they are speech; the answer does not hang on how the samples are handed over."""

    def __init__(self) -> None:
        self.network = speech_network()
        self.state: State = (torch.zeros(1, _STATE), torch.zeros(1, _STATE))
        self.waiting: Waveform = np.zeros(CONTEXT, np.float32)  # the context, then less than a frame

    def feed(self, waveform: Waveform) -> NDArray[np.float32]:
        """Return (frame,) for the frames that (sample,) more complete."""
        self.waiting = np.concatenate([self.waiting, waveform])
        num_frames = (len(self.waiting) - CONTEXT) // FRAME
        if not num_frames:
            return np.zeros(0, np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(self.waiting, CONTEXT + FRAME)[: num_frames * FRAME : FRAME]
        heard = [self._hear(frames[start : start + _MOST_FRAMES]) for start in range(0, num_frames, _MOST_FRAMES)]
        self.waiting = self.waiting[num_frames * FRAME :].copy()
        return np.concatenate(heard)

    def finish(self) -> NDArray[np.float32]:
        """Return (frame,) for what is left, at most one frame, with silence after it."""
        num_left = len(self.waiting) - CONTEXT
        return self.feed(np.zeros(FRAME - num_left, np.float32)) if num_left else np.zeros(0, np.float32)

    @torch.inference_mode()
    def _hear(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        likely, self.state = self.network(torch.from_numpy(frames.copy()), self.state)
        probabilities: NDArray[np.float32] = likely.numpy()
        return probabilities
