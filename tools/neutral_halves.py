"""Label read speech as neutral, and divide its speakers into two halves: one to train on, and one never seen.

python tools/neutral_halves.py LIBRISPEECH.jsonl LEARNED.jsonl UNSEEN.jsonl
"""

import hashlib
import sys

from serein.data import manifest

labels = {"emotion": "neutral", "corpus": "librispeech"}
utterances = [utterance.model_copy(update=labels) for utterance in manifest.read(sys.argv[1])]
for half, path in enumerate(sys.argv[2:4]):
    chosen = [u for u in utterances if int(hashlib.sha256(str(u.speaker).encode()).hexdigest(), 16) % 2 == half]
    manifest.write(chosen, path)
    print(f"{path}: {len(chosen)} utterances of {len({u.speaker for u in chosen})} speakers")
