"""Word error rates of a speech recogniser in serein, in batches, and with Transformers' `generate`, clip by clip.

    python benchmarks/transcripts.py --model openai/whisper-base --data MANIFEST ... [--clips 40] [--json]

Each clip's language is given if the manifest contains it. Clips are evenly spread over each manifest's transcripts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from serein import audio
from serein.audio import SAMPLE_RATE_HZ
from serein.data import manifest
from serein.data.manifest import Utterance
from serein.evaluation.predictions import EvalPrediction
from serein.evaluation.task_scores import score_transcripts
from serein.inference.sources import evenly_spread
from serein.inference.transcription import WhisperTranscriber, load_transcriber, transcribe_each


@torch.inference_mode()
def alone(transcriber: WhisperTranscriber, utterance: Utterance) -> str:
    """Return the transcript by Transformers itself for one clip of at most 30 s."""
    waveform = audio.load(utterance.audio, utterance.start_s, utterance.end_s)
    features = transcriber.extractor(waveform, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")["input_features"]
    language = transcriber.language_code(utterance.language) if utterance.language else None
    tokens = transcriber.model.generate(features.to(transcriber.model.dtype), language=language, task="transcribe")
    text: str = transcriber.tokenizer.batch_decode(tokens, skip_special_tokens=True)[0]
    return " ".join(text.split())


def measured(transcriber: WhisperTranscriber, path: Path, clips: int) -> dict[str, Any]:
    """Return a manifest's figures."""
    spoken = evenly_spread([u for u in manifest.read(path) if u.transcript and u.copy_of is None], clips)
    heard = {u.id: text if isinstance(text, str) else "" for u, text in transcribe_each(transcriber, spoken)}
    theirs = {u.id: alone(transcriber, u) for u in spoken}
    rates = []
    for found in (heard, theirs):
        rows = [EvalPrediction(id=u.id, truth=u.transcript, prediction=found[u.id], speaker=u.speaker) for u in spoken]
        rates.append(round(score_transcripts(rows).word_error_rate, 1))
    same = sum(heard[u.id] == theirs[u.id] for u in spoken)
    return {"data": path.stem, "clips": len(spoken), "serein": rates[0], "transformers": rates[1], "same": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name of a Whisper model")
    parser.add_argument("--data", type=Path, action="append", required=True, help="manifest with transcripts")
    parser.add_argument("--clips", type=int, default=40, help="number of clips from each manifest")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    options = parser.parse_args()
    transcriber = load_transcriber(options.model)
    assert isinstance(transcriber, WhisperTranscriber)
    for path in options.data:
        found = measured(transcriber, path, options.clips)
        if options.json:
            print(json.dumps(found), flush=True)
        else:
            rates = f"word error rate {found['serein']:.1f} %, by Transformers alone {found['transformers']:.1f} %"
            print(f"{found['data']}: {rates}, {found['same']} of {found['clips']} texts the same", flush=True)


if __name__ == "__main__":
    main()
