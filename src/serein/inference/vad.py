"""Voice activity detection: the speech probability of every 32 ms, as samples arrive.

The network and its weights are Silero's voice activity detector (Silero Team, package `silero-vad`, MIT). Its weights
are read from the safetensors file inside the package, which is never imported: importing it runs TorchScript and
sets the threads of the whole process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from serein.audio import SAMPLE_RATE_HZ, Waveform
from serein.errors import ModelError
from serein.models.logmel import power_spectrum

FRAME = 512  # samples; the network was trained on frames of 32 ms at 16 kHz
CONTEXT = 64  # samples of the previous frame that the network receives again
FRAME_S = FRAME / SAMPLE_RATE_HZ
_REFLECTED = 64
_WINDOW, _STEP = 256, 128
_STATE = 128
_LSTM_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_MOST_FRAMES = 1024  # at once: 33 s, some 20 MB

QUIET_RMS = 0.0015  # if the level is below this, frames are amplified to it, as the network misses quiet speech
SILENCE_RMS = 1e-4  # below this, there is nothing to amplify
_LEVEL_FRAMES = 33  # 1 s, longer than a click; half of it is longer than a knock or a plug

State = tuple[torch.Tensor, torch.Tensor]


class SpeechNetwork(nn.Module):
    """Magnitudes of a spectrum, four convolutions within a frame, an LSTM from frame to frame, one sigmoid.

    Args:
        weights: Weights of Silero's layers, by name. Its `stft_conv` is a Fourier transform with a Hann window, for
            which `torch.stft` is faster. Its LSTM cell is run over all frames at once here.
    """

    window: torch.Tensor

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(_WINDOW), persistent=False)
        layers, length = [], (CONTEXT + FRAME + _REFLECTED - _WINDOW) // _STEP + 1
        for number, stride in enumerate((1, 2, 2, 1), start=1):
            layer = _as_linear(weights[f"conv{number}.weight"], weights[f"conv{number}.bias"], length, stride)
            layers += [layer, nn.ReLU()]
            length = -(-length // stride)
        self.within_frame = nn.Sequential(nn.Flatten(), *layers)
        self.lstm = nn.LSTM(_STATE, _STATE)
        self.lstm.load_state_dict({f"{kind}_l0": weights[f"lstm_cell.{kind}"] for kind in _LSTM_WEIGHTS})
        self.output = _as_linear(weights["final_conv.weight"], weights["final_conv.bias"], 1, 1)

    def forward(self, frames: torch.Tensor, state: State, counts: Sequence[int]) -> tuple[torch.Tensor, State]:
        """Return (frame,) speech probabilities.

        Args:
            frames: (frame, CONTEXT + FRAME) consecutive frames, each preceded by the end of the previous one; one
                stream after the other.
            state: The LSTM's state after the previous frames, each (1, stream, _STATE).
            counts: Number of frames of each stream, at least one.
        """
        reflected = frames[:, -1 - _REFLECTED : -1].flip(1)  # a fifth of the time of `pad`
        power = power_spectrum(torch.cat([frames, reflected], 1), self.window, _WINDOW, _STEP)
        features = self.within_frame(power.sqrt())
        if len(counts) == 1:
            hidden, state = self.lstm(features.unsqueeze(1), state)
            hidden = hidden.squeeze(1)
        else:
            packed = pack_sequence(list(torch.split(features, list(counts))), enforce_sorted=False)
            hidden, state = self.lstm(packed, state)
            padded, _ = pad_packed_sequence(hidden)
            hidden = torch.cat([padded[:count, stream] for stream, count in enumerate(counts)])
        return self.output(hidden.relu()).sigmoid().flatten(), state


def _as_linear(weight: torch.Tensor, bias: torch.Tensor, length: int, stride: int) -> nn.Linear:
    """Return a convolution over few positions as a single matrix, which takes two fifths of the time.

    Args:
        weight: (channel out, channel in, position) of the convolution, padded to the length of its input.
        length: Positions of its input.
    """
    num_inputs = weight.shape[1] * length
    each = torch.eye(num_inputs).reshape(num_inputs, weight.shape[1], length)
    columns = nn.functional.conv1d(each, weight, stride=stride, padding=weight.shape[2] // 2)
    layer = nn.Linear(num_inputs, columns[0].numel())
    layer.weight.data, layer.bias.data = columns.flatten(1).T.contiguous(), bias.repeat_interleave(columns.shape[2])
    return layer


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
    return SpeechNetwork(load_file(paths[0])).eval().requires_grad_(False)


@dataclass(eq=False)
class SpeechDetector:
    """Returns the speech probability of every 32 ms, which does not depend on the size of the blocks.

    Attributes:
        waiting: The context, followed by less than a frame.
        recent: (_LEVEL_FRAMES - 1,) RMS of the last frames.
        sustained: RMS that half of the frames of some second reached.
    """

    network: SpeechNetwork = field(default_factory=speech_network)
    state: State = field(default_factory=lambda: (torch.zeros(1, 1, _STATE), torch.zeros(1, 1, _STATE)))
    waiting: Waveform = field(default_factory=lambda: np.zeros(CONTEXT, np.float32))
    recent: NDArray[np.float32] = field(default_factory=lambda: np.zeros(_LEVEL_FRAMES - 1, np.float32))
    sustained: float = 0.0

    def feed(self, waveform: Waveform) -> NDArray[np.float32]:
        """Return probabilities, (frame,), of the frames completed by these samples, (sample,)."""
        return feed_all([self], [waveform])[0]

    def finish(self) -> NDArray[np.float32]:
        """Return probabilities, (frame,), of the rest, at most one frame, padded with silence."""
        num_left = len(self.waiting) - CONTEXT
        return self.feed(np.zeros(FRAME - num_left, np.float32)) if num_left else np.zeros(0, np.float32)

    def take(self, waveform: Waveform) -> NDArray[np.float32]:
        """Return the frames completed by these samples, (frame, CONTEXT + FRAME), without running the network."""
        waiting = np.concatenate([self.waiting, waveform])
        num_frames = (len(waiting) - CONTEXT) // FRAME
        self.waiting = waiting[num_frames * FRAME :].copy()
        if not num_frames:
            return np.zeros((0, CONTEXT + FRAME), np.float32)
        frames: NDArray[np.float32] = np.lib.stride_tricks.sliding_window_view(waiting, CONTEXT + FRAME)[::FRAME]
        return frames[:num_frames] * self.gains(frames[:num_frames])[:, None]

    def gains(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the gain of each frame, (frame,): 1 unless its level is quiet.

        The level is that of the loudest frame of the last second, or the sustained level if that is higher: a click
        counts for a second, speech and other long sounds for good, so that nobody who is far away is amplified in a
        pause.
        """
        rms = np.concatenate([self.recent, frames[:, CONTEXT:].std(axis=1)])  # which ignores a constant offset
        self.recent = rms[len(frames) :]
        last_second = np.lib.stride_tricks.sliding_window_view(rms, _LEVEL_FRAMES)  # (frame, _LEVEL_FRAMES)
        median = np.partition(last_second, _LEVEL_FRAMES // 2, axis=1)[:, _LEVEL_FRAMES // 2]
        sustained = np.maximum.accumulate(np.append(np.float32(self.sustained), median))
        self.sustained = float(sustained[-1])
        levels = np.maximum(last_second.max(axis=1), sustained[1:])
        gains = QUIET_RMS / np.clip(levels, SILENCE_RMS, QUIET_RMS)
        return np.where(levels < SILENCE_RMS, 1.0, gains).astype(np.float32)


@torch.inference_mode()
def feed_all(detectors: Sequence[SpeechDetector], waveforms: Sequence[Waveform]) -> list[NDArray[np.float32]]:
    """Feed many detectors in one batch, which takes a fraction of the time.

    Returns:
        For each detector, (frame,) probabilities as from `SpeechDetector.feed`.
    """
    frames = [detector.take(waveform) for detector, waveform in zip(detectors, waveforms, strict=True)]
    probabilities: list[list[NDArray[np.float32]]] = [[np.zeros(0, np.float32)] for _ in detectors]
    at_once = max(1, _MOST_FRAMES // max(1, len(detectors)))
    for start in range(0, max(map(len, frames), default=0), at_once):
        active = [number for number, each in enumerate(frames) if len(each) > start]
        parts = [frames[number][start : start + at_once] for number in active]
        states = [detectors[number].state for number in active]
        state = (torch.cat([each[0] for each in states], 1), torch.cat([each[1] for each in states], 1))
        counts = [len(part) for part in parts]
        speech, (output, cell) = detectors[active[0]].network(torch.from_numpy(np.concatenate(parts)), state, counts)
        for place, (number, own) in enumerate(zip(active, torch.split(speech, counts), strict=True)):
            detectors[number].state = (output[:, place : place + 1].clone(), cell[:, place : place + 1].clone())
            probabilities[number].append(own.numpy())
    return [np.concatenate(each) for each in probabilities]
