"""Power spectra of windows of samples: by Fourier transform, or as a product, which runs in every runtime."""

from __future__ import annotations

import numpy as np
import torch


def power_spectrum(samples: torch.Tensor, window: torch.Tensor, fft: int, hop: int) -> torch.Tensor:
    """Return the squared magnitude of the short-time Fourier transform, (batch, bin, frame).

    Args:
        samples: (batch, sample), padded by the caller: frame t begins at sample t * hop.
        window: (sample,), no longer than `fft`; shorter ones are centred in it.
        fft: Samples of a transform.
        hop: Samples from one frame to the next.

    Example:
        >>> power_spectrum(torch.ones(1, 8), torch.ones(4), fft=4, hop=4)[0, 0].tolist()
        [16.0, 16.0]
    """
    if not torch.compiler.is_exporting():
        spectrum = torch.stft(
            samples, fft, hop, window=window, win_length=len(window), center=False, return_complex=True
        )
        return spectrum.real.square() + spectrum.imag.square()
    before = (fft - len(window)) // 2
    after = fft - len(window) - before
    windows = windows_of(samples[:, before : samples.shape[1] - after], len(window), hop) * window
    return power_of_windows(windows, fft).transpose(1, 2)


def windows_of(samples: torch.Tensor, length: int, hop: int) -> torch.Tensor:
    """Return every window of (batch, sample): (batch, window, length).

    Example:
        >>> windows_of(torch.arange(5.0)[None], 3, 2).tolist()
        [[[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]]
    """
    if not torch.compiler.is_exporting():
        return samples.unfold(1, length, hop)
    starts = torch.arange((samples.shape[1] - length) // hop + 1, device=samples.device) * hop
    return samples[:, starts[:, None] + torch.arange(length, device=samples.device)]  # ONNX has no views


def power_of_windows(windows: torch.Tensor, fft: int) -> torch.Tensor:
    """Return the squared magnitude of the Fourier transform of (..., sample), filled up with zeros: (..., bin).

    An exported model multiplies by cosines and sines: onnxruntime takes 2.5 times as long for its transform, and
    the sums are as exact.
    """
    if not torch.compiler.is_exporting():
        spectrum = torch.fft.rfft(windows, fft)
        whole: torch.Tensor = spectrum.real.square() + spectrum.imag.square()
        return whole
    angles = np.outer(np.arange(windows.shape[-1]), np.arange(fft // 2 + 1)) % fft * (2.0 * np.pi / fft)
    waves = torch.tensor(np.concatenate([np.cos(angles), np.sin(angles)], axis=1), dtype=windows.dtype)
    real, imaginary = (windows @ waves).chunk(2, dim=-1)
    power: torch.Tensor = real.square() + imaginary.square()
    return power
