"""The synthetic corpus: its texts, voices, and simulated raters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from serein.audio import SAMPLE_RATE_HZ, resample
from serein.corpora.espeak import Espeak, Signal, Voice, bend, breathe, in_room, limit, rms, running, tilt, write_wav
from serein.data.files import write_text
from serein.data.manifest import Gender, Rating, Style, Utterance
from serein.errors import ManifestError

SCRIPTED = (
    "I left the keys on the kitchen table.",
    "The train leaves at seven in the morning.",
    "She put the letter in the second drawer.",
    "They are coming back on Monday evening.",
    "You can find the papers next to the door.",
    "We have been waiting here for an hour.",
    "The blue jacket belongs to my brother.",
    "He said that he would call after lunch.",
    "There are four bags under the window.",
    "It takes ten minutes to walk to the shop.",
    "My sister works in the office downstairs.",
    "The meeting was moved to the other room.",
    "I have to tell you about the phone call.",
    "The water in the glass is almost gone.",
    "We talked about it again last weekend.",
    "Somebody parked a van across the street.",
    "The doctor will see you in the afternoon.",
    "Open the box and look at the pictures.",
    "Tomorrow they will paint the front wall.",
    "He carried the chairs into the garden.",
)
EVERYDAY = (
    "I do not know what to say about that.",
    "that is what she told me yesterday.",
    "we will see how it goes tomorrow.",
    "he was standing right there all the time.",
    "I have thought about it the whole day.",
    "you should have seen the look on his face.",
    "it was not what I expected at all.",
    "they want us to come over tonight.",
    "I need to talk to you about this.",
    "nobody told me that you were coming.",
    "so that is how the story ended.",
    "we have been here three times already.",
)
LEANING = {
    "angry": (
        "this is the third time you lied to me.",
        "stop it, I am sick of your excuses.",
        "you had no right to touch my things.",
        "I hate it when they treat us like this.",
        "get out of my way and leave me alone.",
        "how dare he blame me for his mistake.",
    ),
    "happy": (
        "I got the job, and I love it already.",
        "this is the best news of the whole year.",
        "what a beautiful day, let us celebrate.",
        "we won the game and everybody cheered.",
        "I am so glad that you could come.",
        "she said yes, we are getting married.",
    ),
    "neutral": (
        "the bus stops in front of the library.",
        "please fill in the form and sign here.",
        "the report has twelve pages and a table.",
        "my number is on the back of the card.",
        "the store opens at nine on weekdays.",
        "turn left at the corner after the bank.",
    ),
    "sad": (
        "I miss her so much since she died.",
        "it is over, and I have lost everything.",
        "I cried the whole night and felt alone.",
        "nothing will ever be the same again.",
        "he left without even saying goodbye.",
        "I am sorry, I just cannot do it any more.",
    ),
}
OPENERS = ("Well,", "You know,", "I mean,", "Um,", "So,", "Look,", "Oh,", "And then,")
LEANING_SHARE = 0.5  # fraction of improvised utterances whose words lean towards the emotion

CONFUSIONS = {  # the emotions that a rater perceives instead of the intended one, with probabilities
    "angry": {"frustrated": 0.5, "neutral": 0.2, "happy": 0.15, "disgusted": 0.15},
    "happy": {"excited": 0.5, "neutral": 0.3, "surprised": 0.15, "angry": 0.05},
    "neutral": {"sad": 0.35, "frustrated": 0.3, "happy": 0.25, "angry": 0.1},
    "sad": {"neutral": 0.5, "frustrated": 0.3, "disappointed": 0.2},
}
COMMENTS = {  # from weak to strong
    "angry": ("irritated", "annoyed", "mad", "outraged", "furious"),
    "disappointed": ("resigned", "disappointed", "discouraged", "crushed"),
    "disgusted": ("disdainful", "disgusted", "contemptuous", "repulsed"),
    "excited": ("eager", "excited", "enthusiastic", "thrilled"),
    "frustrated": ("impatient", "frustrated", "vexed", "exasperated"),
    "happy": ("content", "pleased", "cheerful", "joyful", "delighted"),
    "neutral": ("flat", "relaxed", "calm", "factual", "composed"),
    "sad": ("downcast", "gloomy", "sorrowful", "miserable", "heartbroken"),
    "surprised": ("curious", "surprised", "amazed", "astonished"),
}
DIMENSIONS = ("valence", "arousal", "dominance")
PLACES = {  # position of an emotion on the dimensions at full strength, from -1 to 1
    # Russell and Mehrabian 1977, doi:10.1016/0092-6566(77)90037-X, their means as quoted by others
    "angry": (-0.51, 0.59, 0.25),
    "disgusted": (-0.60, 0.35, 0.11),
    "excited": (0.62, 0.75, 0.38),
    "frustrated": (-0.64, 0.52, 0.35),
    "happy": (0.81, 0.51, 0.46),
    "sad": (-0.63, -0.27, -0.33),
    "surprised": (0.40, 0.67, -0.13),
    # Gebhard 2005 ("ALMA: a layered model of affect")
    "disappointed": (-0.30, 0.10, -0.40),
    # the middle of every scale
    "neutral": (0.0, 0.0, 0.0),
}
SCALE = (1, 5)  # of a rater's answer, in whole steps, like the five manikins of IEMOCAP (Busso et al. 2008)
ANSWER_SPREAD = 0.5  # standard deviation of an answer before it is rounded


NAME = "synth"
DESCRIPTION = "Synthetic English speech: 10 speakers in 5 sessions, 4 emotions by prosody rules, 3 simulated raters."
LICENCE = "CC0-1.0 (audio and labels; espeak-ng, GPL-3.0-or-later, is only used to generate them)"
CITATION = "serein's synthetic corpus, spoken by espeak-ng, https://github.com/espeak-ng/espeak-ng"
README = f"""# {NAME}: a synthetic corpus

{DESCRIPTION}

Generated by serein (`serein.corpora.synth`) with espeak-ng. No human spoke, acted or rated: speech,
emotions, ratings and comments are drawn from rules. It shows that software runs and that methods can
learn; it is **not evidence about human emotion**, and scores on it do not apply to real speech.

- Licence: {LICENCE}.
- Cite as: {CITATION}.
- `emotion` is the emotion that the synthetic speaker was meant to express; raters may disagree with it and each other.
- `valence`, `arousal` and `dominance` are means of the raters' answers from 1 to 5. Each rater's answer is the position
  of the emotion that they perceive, closer to the middle the weaker its expression, give or take half a step. The
  positions are taken from Russell and Mehrabian 1977 as quoted in later work; the values were not checked against
  the paper's own table.
"""

EMOTIONS = ("angry", "happy", "neutral", "sad")
GENDERS: tuple[Gender, ...] = ("female", "male")
NUM_SESSIONS = 5
RATERS = ("rater1", "rater2", "rater3")


@dataclass(frozen=True)
class Rule:
    """The effect of each emotion on one cue at full strength, relative to the speaker's neutral voice.

    Attributes:
        habit: Standard deviation between speakers.
        spread: Standard deviation between utterances of a speaker.
    """

    angry: float
    happy: float
    sad: float
    habit: float
    spread: float

    def effect(self, emotion: str) -> float:
        """Return the change for `emotion`; neutral changes nothing."""
        return {"angry": self.angry, "happy": self.happy, "sad": self.sad}.get(emotion, 0.0)


RULES = {
    "pitch_st": Rule(angry=+3.0, happy=+4.5, sad=-1.8, habit=0.0, spread=1.2),
    "range_octaves": Rule(angry=+0.6, happy=+0.8, sad=-0.7, habit=0.2, spread=0.3),
    "rise_st": Rule(angry=+1.0, happy=+1.5, sad=-1.5, habit=0.4, spread=1.0),
    "rate_percent": Rule(angry=+14.0, happy=+10.0, sad=-16.0, habit=5.0, spread=7.0),
    "pause_steps": Rule(angry=-0.4, happy=0.0, sad=+1.4, habit=0.4, spread=0.7),
    "loudness_db": Rule(angry=+6.0, happy=+3.0, sad=-5.0, habit=1.5, spread=2.0),
    "tilt_db_per_octave": Rule(angry=+2.4, happy=+0.6, sad=-2.2, habit=0.6, spread=0.8),
    "jitter_percent": Rule(angry=+1.2, happy=-0.3, sad=+0.6, habit=0.2, spread=0.4),
    "breath_db": Rule(angry=+2.0, happy=+1.0, sad=+7.0, habit=2.5, spread=2.5),
    "smile_percent": Rule(angry=0.0, happy=+9.0, sad=-2.0, habit=0.0, spread=2.0),
}
CALM = {  # the baseline of a rule, if not 0
    "rise_st": -0.5,
    "pause_steps": 0.4,
    "loudness_db": -29.0,  # RMS relative to full scale
    "jitter_percent": 1.0,
    "breath_db": -32.0,  # aspiration noise relative to speech
}
IMPROVISED = {"rate_percent": -4.0, "pause_steps": +0.7}  # speech that is planned while speaking
MIN_HZ, MAX_HZ = 60.0, 500.0
MAX_PAUSE_STEPS = 3.0  # from 5 upwards, espeak-ng makes words shorter again


@dataclass(frozen=True)
class Speaker:
    """A synthetic speaker.

    Attributes:
        calm: The voice at rest.
        expressiveness: Factor on the strength of every emotion.
        habits: Cue of `RULES` -> offset in all utterances.
        uses: Cue of `RULES` -> factor on its effect: people do not all use the same cues.
    """

    name: str
    gender: Gender
    session: str
    calm: Voice
    expressiveness: float
    habits: dict[str, float]
    uses: dict[str, float]


@dataclass(frozen=True)
class Clip:
    """Everything about an utterance except its audio: its text and how it is spoken.

    Attributes:
        strength: Strength of the expression, from 0 (none) to about 1; for neutral, how clear it is to raters.
        manner: Cue of `RULES` -> value.
    """

    id: str
    speaker: Speaker
    emotion: str
    style: Style
    text: str
    strength: float
    manner: dict[str, float]


def build(
    out_dir: Path,
    *,
    seed: int = 0,
    clips_per_speaker_and_emotion: int = 10,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Utterance]:
    """Write the corpus: `wav/<speaker>/<id>.wav` (16 kHz, mono, 16 bit) and README.md.

    The same seed gives the same bytes with the same versions of espeak-ng, numpy, scipy and soxr. The random
    draws for a clip depend only on the seed and its id, so a smaller corpus is a subset of a larger one.

    Args:
        out_dir: Folder to write to; created if missing. Files of the same name are replaced.
        seed: Seed of the speakers and their utterances.
        clips_per_speaker_and_emotion: 10 gives 400 clips of 1.5 to 5 s, half of them scripted.
        on_progress: Called with (clips done, total).

    Returns:
        One utterance per clip, with absolute audio paths.

    Raises:
        ManifestError: Fewer than 1 clip is requested.
        MissingExtraError: espeakng-loader is not installed.
    """
    clips = plan(seed, clips_per_speaker_and_emotion)
    folder = Path(out_dir).absolute()
    utterances = []
    with running() as espeak:
        for num_done, clip in enumerate(clips, start=1):
            path = folder / "wav" / clip.speaker.name / f"{clip.id}.wav"
            write_wav(path, render(espeak, clip, seed))
            utterances.append(utterance(clip, path, seed))
            if on_progress:
                on_progress(num_done, len(clips))
    write_text(folder / "README.md", README)
    return utterances


def plan(seed: int, clips_per_speaker_and_emotion: int) -> list[Clip]:
    """Return all clips of a corpus, without audio, ordered by speaker and emotion."""
    if clips_per_speaker_and_emotion < 1:
        raise ManifestError(
            f"{clips_per_speaker_and_emotion} clips per speaker and emotion are too few for a corpus",
            where=NAME,
            remedy="Use 1 or more.",
        )
    clips = []
    every = product(cast(seed), EMOTIONS, range(clips_per_speaker_and_emotion))
    for speaker, emotion, index in every:
        name = f"{speaker.name}_{emotion}_{index:03d}"
        rng = _rng(seed, name)
        style: Style = "improvised" if (index + EMOTIONS.index(emotion)) % 2 else "scripted"
        strength = speaker.expressiveness * rng.beta(2.6, 1.2)
        if style == "improvised":
            sentence = str(rng.choice(LEANING[emotion] if rng.random() < LEANING_SHARE else EVERYDAY))
            has_opener = rng.random() < 0.6
            text = f"{rng.choice(OPENERS)} {sentence}" if has_opener else sentence[0].upper() + sentence[1:]
        else:  # the same sentence for all emotions of a speaker, so that scripted words do not reveal the emotion
            order = _rng(seed, speaker.name, "script").permutation(len(SCRIPTED))
            text = SCRIPTED[order[index // 2 % len(SCRIPTED)]]
        planned = IMPROVISED if style == "improvised" else {}
        manner = {
            cue: CALM.get(cue, 0.0)
            + planned.get(cue, 0.0)
            + speaker.habits[cue]
            + rule.effect(emotion) * strength * speaker.uses[cue]
            + rng.normal(0.0, rule.spread)
            for cue, rule in RULES.items()
        }
        clips.append(Clip(name, speaker, emotion, style, text, strength, manner))
    return clips


def cast(seed: int) -> list[Speaker]:
    """Return the ten speakers: one woman and one man in each session."""
    speakers = []
    for session, gender in product(range(1, NUM_SESSIONS + 1), GENDERS):
        name = f"s{session}{gender[0]}"
        rng = _rng(seed, name, "voice")
        is_female = gender == "female"
        f0_hz = rng.normal(185.0, 16.0) if is_female else rng.normal(110.0, 11.0)
        tract_percent = rng.normal(114.0, 3.0) if is_female else rng.normal(99.0, 3.0)
        voice = Voice(
            low_hz=f0_hz * 0.82,
            high_hz=f0_hz * 1.18,
            words_per_minute=rng.normal(185.0, 9.0),
            word_gap=0.0,
            formant_percent=tuple(tract_percent + rng.normal(0.0, 2.5, 9)),
            height_percent=tuple(np.clip(rng.normal(98.0, 9.0, 9), 70.0, 115.0)),
        )
        habits = {cue: rng.normal(0.0, rule.habit) for cue, rule in RULES.items()}
        uses = {cue: rng.uniform(0.6, 1.4) for cue in RULES}
        expressiveness = rng.uniform(0.8, 1.2)
        speakers.append(Speaker(name, gender, f"session{session}", voice, expressiveness, habits, uses))
    return speakers


def render(espeak: Espeak, clip: Clip, seed: int) -> Signal:
    """Return the audio of a clip: (sample,) in (-1, 1) at 16 kHz."""
    rng = _rng(seed, clip.id, "sound")
    calm, manner = clip.speaker.calm, clip.manner
    centre_hz = (calm.low_hz + calm.high_hz) / 2 * 2 ** (manner["pitch_st"] / 12)
    half_hz = (calm.high_hz / calm.low_hz - 1) / 2 * 2 ** manner["range_octaves"] * centre_hz
    smile = np.array([0.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0]) * manner["smile_percent"]
    voice = replace(
        calm,
        low_hz=max(MIN_HZ, centre_hz - half_hz),
        high_hz=min(MAX_HZ, centre_hz + half_hz),
        words_per_minute=calm.words_per_minute * (1 + manner["rate_percent"] / 100),
        word_gap=float(np.clip(manner["pause_steps"], 0.0, MAX_PAUSE_STEPS)),
        formant_percent=tuple(np.array(calm.formant_percent) * (1 + smile / 100)),
    )
    spoken = espeak.speak(clip.text, voice).astype(np.float64)
    bent = bend(spoken, manner["rise_st"], manner["jitter_percent"], rng, espeak.sample_rate_hz)
    speech = resample(bent.astype(np.float32), espeak.sample_rate_hz).astype(np.float64)
    speech = tilt(breathe(speech, manner["breath_db"], rng), manner["tilt_db_per_octave"])
    speech = np.pad(speech, [int(length) for length in rng.uniform(0.1, 0.3, 2) * SAMPLE_RATE_HZ])
    loud = speech * 10 ** (manner["loudness_db"] / 20) / rms(speech)
    return limit(in_room(loud, rng, _rng(seed, clip.speaker.session, "room")))


# Random draws


def _rng(seed: int, *names: str) -> np.random.Generator:
    """Return the random generator of a name, which does not depend on the draws made for other names."""
    return np.random.default_rng(list("/".join((str(seed), *names)).encode()))


# Raters


def utterance(clip: Clip, path: Path, seed: int) -> Utterance:
    """Return the utterance of a clip with the simulated ratings.

    The weaker the expression, the more often a rater is wrong; one in eight chooses a second category. Their answers on
    the dimensions are the position in `PLACES` of the emotion that they perceive, times the strength, plus noise.
    """
    ratings, answers = [], []
    for rater in RATERS:
        rng = _rng(seed, clip.id, rater)
        other = str(rng.choice(list(CONFUSIONS[clip.emotion]), p=list(CONFUSIONS[clip.emotion].values())))
        is_right = rng.random() < 0.45 + 0.5 * min(1.0, clip.strength)
        first, second = (clip.emotion, other) if is_right else (other, clip.emotion)
        labels = (first, second) if rng.random() < 1 / 8 else (first,)
        words = COMMENTS[first]
        place = np.clip(clip.strength + rng.normal(0.0, 0.2), 0.0, 0.999)
        ratings.append(Rating(labels=labels, comment=words[int(place * len(words))], rater=rater))
        noise = _rng(seed, clip.id, rater, "dimensions").normal(0.0, ANSWER_SPREAD, len(DIMENSIONS))
        middle, half = (SCALE[0] + SCALE[1]) / 2, (SCALE[1] - SCALE[0]) / 2
        felt = middle + half * min(1.0, clip.strength) * np.array(PLACES[first]) + noise
        answers.append(np.clip(np.round(felt), *SCALE))
    consensus = np.mean(answers, axis=0).round(4).tolist()
    return Utterance(
        id=clip.id,
        audio=str(path),
        speaker=clip.speaker.name,
        gender=clip.speaker.gender,
        session=clip.speaker.session,
        emotion=clip.emotion,
        **dict(zip(DIMENSIONS, consensus, strict=True)),
        ratings=tuple(ratings),
        transcript=clip.text,
        style=clip.style,
        language="en",
        corpus=NAME,
    )
