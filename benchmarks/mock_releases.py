"""Stand-ins for corpora that need a licence: IEMOCAP, MSP-Podcast and VoxCeleb1 as folders that their parsers accept.

The numbers of turns, classes, sessions, splits, speakers and hours are those published for the corpora. The content is
made up: every clip begins with a moment of unique noise, followed by silence, and takes one block on disk.

    python benchmarks/mock_releases.py OUT                                # all of them, at full size
    python benchmarks/mock_releases.py OUT --only msp-podcast --part 0.01 --sound-s 12

`msp-podcast` is release 1.11, with labelled test sets; `msp-challenge` is the release of the Odyssey 2024 challenge,
whose only test set, Test3, has no labels. Prepare them with `serein corpus prepare`, and parts with `--partial`.
"""

from __future__ import annotations

import argparse
import csv
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
WORDS = (
    "so",
    "I",
    "was",
    "there",
    "and",
    "we",
    "said",
    "what",
    "you",
    "know",
    "about",
    "it",
    "because",
    "they",
    "never",
)


@dataclass(frozen=True)
class Size:
    """How much of a release is written.

    Attributes:
        part: Fraction of the turns; 1 is all.
        sound_s: Length of the noise at the beginning of each clip; the rest is a hole in the file.
        longest_s: Length to which clips are cut.
    """

    part: float = 1.0
    sound_s: float = 0.1
    longest_s: float = 1000.0

    def of(self, count: int, least: int = 2) -> int:
        """Return how many of `count` turns to write: at least `least`, or all."""
        return max(min(count, least), round(count * self.part))


def apportion(total: int, weights: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    """Divide a number by weights into whole numbers with the same sum (largest remainders).

    Example:
        >>> apportion(10, [1, 1, 1]).tolist()
        [4, 3, 3]
    """
    exact = total * np.asarray(weights, float) / np.sum(weights)
    whole = np.floor(exact).astype(np.int64)
    for position in np.argsort(whole - exact, kind="stable")[: total - whole.sum()]:
        whole[position] += 1
    return whole


def write_clip(path: Path, duration_s: float, size: Size, rng: np.random.Generator) -> None:
    """Write a 16-bit WAV file that begins with noise and continues as a hole, which reads as silence."""
    length = round(min(duration_s, size.longest_s) * RATE_HZ)
    sound = rng.integers(-3000, 3000, size=min(length, round(size.sound_s * RATE_HZ)), dtype=np.int16)
    head = struct.pack("<4sI4s4sIHHII", b"RIFF", 36 + 2 * length, b"WAVE", b"fmt ", 16, 1, 1, RATE_HZ, 2 * RATE_HZ)
    with open(path, "wb") as file:
        file.write(head + struct.pack("<HH4sI", 2, 16, b"data", 2 * length) + sound.tobytes())
        file.truncate(44 + 2 * length)


def text(rng: np.random.Generator) -> str:
    """Return some words."""
    return " ".join(WORDS[number] for number in rng.integers(len(WORDS), size=rng.integers(3, 12)))


# -- IEMOCAP: 10,039 turns of five sessions, 12.4 hours ----------------------------------------------------------------

IEMOCAP_TURNS = {  # emotion -> turns of each session
    "ang": (229, 137, 240, 327, 170),
    "hap": (135, 117, 135, 65, 143),
    "exc": (143, 210, 151, 238, 299),
    "sad": (194, 197, 305, 143, 245),
    "neu": (384, 362, 320, 258, 384),
    "fru": (280, 325, 382, 481, 381),
    "xxx": (437, 425, 565, 439, 641),  # no agreement; from here on, the division among sessions is arbitrary
    "sur": (16, 38, 25, 11, 17),
    "fea": (10, 12, 10, 4, 4),
    "oth": (1, 1, 1, 0, 0),
    "dis": (1, 1, 0, 0, 0),
}
SAID = {"ang": "Anger", "hap": "Happiness", "exc": "Excited", "sad": "Sadness", "neu": "Neutral", "fru": "Frustration"}
SAID |= {"sur": "Surprise", "fea": "Fear", "oth": "Other", "dis": "Disgust"}
COMMENTS = ("amazed", "impressed", "joking", "polite", "impatient", "worried")
DIALOGS = [*(f"impro0{n}" for n in range(1, 8)), *(f"script0{part}_{take}" for part in (1, 2, 3) for take in (1, 2))]


def write_iemocap(root: Path, size: Size) -> None:
    """Write `Session1` to `Session5` as in IEMOCAP_full_release: the dialogues and sentences that the parser reads."""
    rng = np.random.default_rng(1)
    for number in range(5):
        session = root / f"Session{number + 1}"
        codes = [code for code, turns in IEMOCAP_TURNS.items() for _ in range(size.of(turns[number], 4))]
        rng.shuffle(codes)
        dialogs = [f"Ses0{number + 1}{gender}_{name}" for gender in "FM" for name in DIALOGS]
        for folder in ("EmoEvaluation", "transcriptions"):
            (session / "dialog" / folder).mkdir(parents=True)
        for place, dialog in enumerate(dialogs):
            _write_dialog(session, dialog, codes[place :: len(dialogs)], size, rng)


def _write_dialog(session: Path, dialog: str, codes: Sequence[str], size: Size, rng: np.random.Generator) -> None:
    evaluation, said, start_s = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""], [], 3.0
    clips = session / "sentences" / "wav" / dialog
    clips.mkdir(parents=True)
    for number, code in enumerate(codes):
        name = f"{dialog}_{'FM'[rng.integers(2)]}{number:03d}"
        duration_s = float(np.clip(rng.gamma(2.0, 2.22), 0.58, 34.0))
        write_clip(clips / f"{name}.wav", duration_s, size, rng)
        values = ", ".join(f"{value:.4f}" for value in rng.uniform(1, 5, size=3))
        evaluation.append(f"[{start_s:.4f} - {start_s + duration_s:.4f}]\t{name}\t{code}\t[{values}]")
        raters = [str(rng.choice(list(SAID))) if code == "xxx" else code for _ in range(2)]
        raters.append(str(rng.choice(list(SAID))))
        comments = [str(rng.choice(COMMENTS)) if rng.random() < 0.2 else "" for _ in range(4)]
        for rater, label, comment in zip(("E1", "E2", "E3", "F1"), (*raters, "neu"), comments, strict=True):
            evaluation.append(f"C-{rater}:\t{SAID[label]};\t({comment})")
        evaluation += ["A-E1:\tval 3; act 2; dom  2;\t()", ""]
        said.append(f"{name} [{start_s:08.4f}-{start_s + duration_s:08.4f}]: {text(rng)}")
        start_s += duration_s + 0.5
    (session / "dialog" / "EmoEvaluation" / f"{dialog}.txt").write_text("\n".join(evaluation) + "\n")
    (session / "dialog" / "transcriptions" / f"{dialog}.txt").write_text("\n".join(said) + "\n")


# -- MSP-Podcast: turns of 2.75 to 11 s, five raters each --------------------------------------------------------------

# split -> rows of the table, and rows with one of the eight emotions (diatlova2024, also for the test sets)
CHALLENGE = {"Train": (68_119, 53_386), "Development": (19_815, 15_341)}
RELEASE_1_11 = {
    "Train": (84_030, 65_860),
    "Development": (19_815, 15_341),
    "Test1": (30_647, 23_730),
    "Test2": (14_815, 11_470),
}
NUM_TEST3 = 2_347
SPEAKERS = {"Train": 1_500, "Development": 450, "Test1": 300, "Test2": 120}  # made up
EMOTIONS = {"N": 0.40, "H": 0.25, "A": 0.11, "S": 0.10, "U": 0.05, "C": 0.04, "D": 0.03, "F": 0.02}  # made up, skewed
MAJOR = {"N": "Neutral", "H": "Happy", "A": "Angry", "S": "Sad", "U": "Surprise", "C": "Contempt", "D": "Disgust"}
MAJOR |= {"F": "Fear", "O": "Other", "X": "Neutral"}


def write_msp_podcast(root: Path, size: Size, splits: Mapping[str, tuple[int, int]] = RELEASE_1_11) -> None:
    """Write `Audios`, `Labels` and `Transcripts` of a release; labels of Test3 are not in it."""
    rng = np.random.default_rng(2)
    for folder in ("Audios", "Labels", "Transcripts"):
        (root / folder).mkdir(parents=True)
    consensus = [["FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set"]]
    detailed = [["FileName", "WorkerID", "EmoClass_Major", "EmoClass_Second", "EmoAct", "EmoVal", "EmoDom"]]
    first_speaker = 1
    for podcast, (split, (num_rows, num_labelled)) in enumerate(splits.items(), start=1):
        num_kept = size.of(num_labelled, 8)
        letters = list(np.repeat(list(EMOTIONS), apportion(num_kept, list(EMOTIONS.values()))))
        if num_kept < 200:  # a small part still contains every class
            letters[: len(EMOTIONS)] = EMOTIONS
        letters += ["OX"[n % 2] for n in range(size.of(num_rows - num_labelled))]
        rng.shuffle(letters)
        num_speakers = size.of(SPEAKERS[split], 8)
        for number, letter in enumerate(letters):
            speaker = first_speaker + int(rng.integers(num_speakers))
            name = f"MSP-PODCAST_{podcast:02d}{speaker:04d}_{number:05d}.wav"
            known = [str(speaker), ("Female", "Male")[speaker % 2]]
            who = ["Unknown", "Unknown"] if rng.random() < 0.05 else known
            values = rng.integers(1, 8, size=(5, 3))
            consensus.append([name, letter, *(f"{value:.4f}" for value in values.mean(axis=0)), *who, split])
            for rater, answers in enumerate(values, start=1):  # four of five raters agree, two if there is no label
                is_other = rater == 5 or (letter in "OX" and rater > 2)
                major = str(rng.choice(list(MAJOR.values()))) if is_other else MAJOR[letter]
                worker = f"WORKER{1 + int(rng.integers(10_000)):08d}"
                detailed.append([name, worker, major, f"{major},Concerned", *map(str, answers)])
            _write_turn(root, name, size, rng)
        first_speaker += num_speakers
    for number in range(1, size.of(NUM_TEST3, 4) + 1):
        _write_turn(root, f"MSP-PODCAST_test3_{number:04d}.wav", size, rng)
    for name, rows in (("labels_consensus.csv", consensus), ("labels_detailed.csv", detailed)):
        with (root / "Labels" / name).open("w", newline="") as file:
            csv.writer(file).writerows(rows)


def _write_turn(root: Path, name: str, size: Size, rng: np.random.Generator) -> None:
    write_clip(root / "Audios" / name, float(2.75 + 8.25 * rng.beta(1.3, 2.4)), size, rng)
    (root / "Transcripts" / name).with_suffix(".txt").write_text(text(rng) + "\n")


def write_msp_challenge(root: Path, size: Size) -> None:
    """Write the release of the challenge: train, dev, and Test3 without labels."""
    write_msp_podcast(root, size, CHALLENGE)


# -- VoxCeleb1: 153,516 clips of 22,496 videos, 1,251 speakers, 352 hours, none below 4 s ------------------------------

VOXCELEB1_CLIPS = {1: 138_361, 2: 6_904, 3: 8_251}  # of the identification split: train, dev, test
NUM_VOXCELEB1_SPEAKERS, NUM_VOXCELEB1_VIDEOS = 1_251, 22_496


def write_voxceleb1(root: Path, size: Size) -> None:
    """Write `wav/id10001/VIDEO/00001.wav`, `iden_split.txt` and `vox1_meta.csv`; a part has fewer speakers."""
    rng = np.random.default_rng(3)
    num_speakers = size.of(NUM_VOXCELEB1_SPEAKERS, 8)
    of_speaker = rng.uniform(0.4, 1.6, size=NUM_VOXCELEB1_SPEAKERS)  # 45 to 250 clips per speaker
    clips = {
        split: apportion(total, of_speaker if split == 1 else np.ones_like(of_speaker))
        for split, total in VOXCELEB1_CLIPS.items()
    }
    videos = apportion(NUM_VOXCELEB1_VIDEOS - 2 * NUM_VOXCELEB1_SPEAKERS, of_speaker)  # one for dev, one for test
    lines, meta = [], ["VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"]
    for number in range(num_speakers):
        speaker = f"id{10_001 + number}"
        meta.append(f"{speaker}\tSpeaker_{number}\t{'fm'[number % 2]}\tIreland\tdev")
        for split, counts in clips.items():
            num_videos = int(videos[number]) if split == 1 else 1
            total = int(counts[number]) if size.part == 1 else min(int(counts[number]), 6)
            for video, num_clips in enumerate(apportion(total, np.ones(num_videos))):
                folder = root / "wav" / speaker / f"s{split}-video-{video:02d}"
                if num_clips:
                    folder.mkdir(parents=True)
                for clip in range(1, num_clips + 1):
                    duration_s = float(np.clip(4.0 + rng.exponential(4.25), 4.0, 145.0))
                    write_clip(folder / f"{clip:05d}.wav", duration_s, size, rng)
                    lines.append(f"{split} {speaker}/{folder.name}/{clip:05d}.wav")
    (root / "iden_split.txt").write_text("\n".join(lines) + "\n")
    (root / "vox1_meta.csv").write_text("\n".join(meta) + "\n")


RELEASES: dict[str, Callable[[Path, Size], None]] = {
    "iemocap": write_iemocap,
    "msp-podcast": write_msp_podcast,
    "msp-challenge": write_msp_challenge,
    "voxceleb1": write_voxceleb1,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the releases, and print the time that each took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="output folder; each release gets a subfolder")
    parser.add_argument("--only", choices=RELEASES, action="append", help="write this one; can be repeated")
    parser.add_argument("--part", type=float, default=1.0, help="fraction of the turns; 1 is all")
    parser.add_argument("--sound-s", type=float, default=0.1, help="seconds of noise at the beginning of each clip")
    options = parser.parse_args(arguments)
    for name in options.only or RELEASES:
        started = time.monotonic()
        (options.out / name).mkdir(parents=True)
        RELEASES[name](options.out / name, Size(options.part, options.sound_s))
        print(f"{name}: {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
