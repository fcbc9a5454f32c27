"""Labels read speech as neutral and divides its speakers in two halves, one to learn from and one never seen.

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
