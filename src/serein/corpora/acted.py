"""Acted corpora whose file names contain all metadata: patterns, codes, licences and published counts.

Every file is one utterance, in whatever folder; emotions are in the corpus's own words. Acted corpora that ship tables
or texts with their clips are in `serein.corpora.acted_tables`.
"""

from __future__ import annotations

from pathlib import Path

from serein.corpora.corpus import Acted, Expected, audio_files, in_order, name_parts
from serein.data.manifest import Utterance
from serein.errors import ManifestError

# Ten German actors say ten sentences in seven emotions (Burkhardt et al. 2005): speaker 03, text a01, emotion F
# (Freude), version a.
EMODB_NAMES = Acted(
    name="emodb",
    title="EmoDB",
    languages=("de",),
    licence="CC BY 4.0",
    citation=(
        "Burkhardt, F., Paeschke, A., Rolfes, M., Sendlmeier, W. and Weiss, B. (2005). "
        "A Database of German Emotional Speech. Interspeech 2005, 1517-1520. https://doi.org/10.21437/Interspeech.2005-446"
    ),
    example="03a01Fa.wav",
    pattern=r"(?P<speaker>03|08|09|1[0-6])(?P<text>a0[12457]|b0[1239]|b10)(?P<emotion>[WLEAFTN])[a-z]?",
    # The letter is the initial of the German word: Wut, Langeweile, Ekel, Angst, Freude, Trauer.
    emotions={
        "W": "anger",
        "L": "boredom",
        "E": "disgust",
        "A": "fear",
        "F": "happiness",
        "T": "sadness",
        "N": "neutral",
    },
    genders={
        "03": "male",
        "08": "female",
        "09": "female",
        "10": "male",
        "11": "male",
        "12": "male",
        "13": "female",
        "14": "female",
        "15": "male",
        "16": "female",
    },
    ages={
        "03": 31,
        "08": 34,
        "09": 21,
        "10": 32,
        "11": 26,
        "12": 30,
        "13": 32,
        "14": 35,
        "15": 25,
        "16": 31,
    },
    texts={
        "a01": "Der Lappen liegt auf dem Eisschrank.",
        "a02": "Das will sie am Mittwoch abgeben.",
        "a04": "Heute abend könnte ich es ihm sagen.",
        "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
        "a07": "In sieben Stunden wird es soweit sein.",
        "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
        "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
        "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
        "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
        "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
    },
    expected=Expected(
        emotions={
            "anger": 127,
            "boredom": 81,
            "disgust": 46,
            "fear": 69,
            "happiness": 71,
            "sadness": 62,
            "neutral": 79,
        },
        speakers={
            "03": 49,
            "08": 58,
            "09": 43,
            "10": 38,
            "11": 55,
            "12": 35,
            "13": 61,
            "14": 69,
            "15": 56,
            "16": 71,
        },
    ),
)
EMODB = EMODB_NAMES.corpus()

# Six Italian actors say fourteen sentences in seven emotions (Costantini et al. 2014): emotion dis (disgusto), speaker
# f1, sentence b1.
EMOVO = Acted(
    name="emovo",
    title="EMOVO",
    languages=("it",),
    licence="not stated by its publisher, Fondazione Ugo Bordoni",
    citation=(
        "Costantini, G., Iaderola, I., Paoloni, A. and Todisco, M. (2014). EMOVO Corpus: an Italian Emotional Speech "
        "Database. LREC 2014. https://aclanthology.org/L14-1478/"
    ),
    example="dis-f1-b1.wav",
    pattern=(
        r"(?P<emotion>neu|dis|gio|pau|rab|sor|tri)-(?P<speaker>(?P<gender>[fm])[1-3])"
        r"-(?P<text>b[1-3]|l[1-4]|n[1-5]|d[12])"
    ),
    # The first letters of the Italian word: neutro, disgusto, gioia, paura, rabbia, sorpresa, tristezza.
    emotions={
        "neu": "neutral",
        "dis": "disgust",
        "gio": "joy",
        "pau": "fear",
        "rab": "anger",
        "sor": "surprise",
        "tri": "sadness",
    },
    genders={"f": "female", "m": "male"},
    texts={  # b: short, l: long, n: nonsense, d: questions
        "b1": "Gli operai si alzano presto.",
        "b2": "I vigili sono muniti di pistola.",
        "b3": "La cascata fa molto rumore.",
        "l1": "L'autunno prossimo Tony partirà per la Spagna: nella prima metà di ottobre.",
        "l2": "Ora prendo la felpa di là ed esco per fare una passeggiata.",
        "l3": "Un attimo dopo s'è incamminato... ed è inciampato.",
        "l4": "Vorrei il numero telefonico del Signor Piatti.",
        "n1": "La casa forte vuole col pane.",
        "n2": "La forza trova il passo e l'aglio rosso.",
        "n3": "Il gatto sta scorrendo nella pera",
        "n4": "Insalata pastasciutta coscia d'agnello limoncello.",
        "n5": "Uno quarantatré dieci mille cinquantasette venti.",
        "d1": "Sabato sera cosa farà?",
        "d2": "Porti con te quella cosa?",
    },
    expected=Expected(
        emotions=dict.fromkeys(("neutral", "disgust", "joy", "fear", "anger", "surprise", "sadness"), 84),
        speakers=dict.fromkeys(("f1", "f2", "f3", "m1", "m2", "m3"), 98),
    ),
).corpus()

# Twelve French Canadians say six sentences in seven emotions, mildly and strongly (Gournay et al. 2018): speaker 01,
# emotion C (colère), intensity 1 (mild), sentence 1.
CAFE = Acted(
    name="cafe",
    title="CaFE",
    languages=("fr",),
    licence="CC BY-NC-SA 4.0",
    citation=(
        "Gournay, P., Lahaie, O. and Lefebvre, R. (2018). A Canadian French Emotional Speech Dataset. "
        "ACM Multimedia Systems Conference 2018, 399-402. https://doi.org/10.1145/3204949.3208121"
    ),
    example="01-C-1-1.wav",
    pattern=r"(?P<speaker>0[1-9]|1[0-2])-(?P<emotion>[CDJNPST])-[12]-(?P<text>[1-6])",
    # The letter is the initial of the French word: colère, dégoût, joie, neutre, peur, surprise, tristesse.
    emotions={
        "C": "anger",
        "D": "disgust",
        "J": "happiness",
        "N": "neutral",
        "P": "fear",
        "S": "surprise",
        "T": "sadness",
    },
    genders={f"{speaker:02d}": "male" if speaker % 2 else "female" for speaker in range(1, 13)},
    texts={
        "1": "Un cheval fou dans mon jardin",
        "2": "Deux ânes aigris au pelage brun",
        "3": "Trois cygnes aveugles au bord du lac",
        "4": "Quatre vieilles truies éléphantesques",
        "5": "Cinq pumas fiers et passionnés",
        "6": "Six ours aimants domestiqués",
    },
    expected=Expected(
        emotions={
            **dict.fromkeys(("anger", "disgust", "happiness", "fear", "surprise", "sadness"), 144),
            "neutral": 72,  # at one intensity only
        },
        speakers=dict.fromkeys((f"{speaker:02d}" for speaker in range(1, 13)), 78),
    ),
).corpus()

# Twenty Bangla actors say ten sentences in seven emotions, five times each (Sultana et al. 2021): gender, number and
# name of the speaker, sentence, emotion, take.
SUBESCO = Acted(
    name="subesco",
    title="SUBESCO",
    languages=("bn",),
    licence="CC BY 4.0",
    citation=(
        "Sultana, S., Rahman, M. S., Selim, M. R. and Iqbal, M. Z. (2021). SUST Bangla Emotional Speech Corpus "
        "(SUBESCO): An audio-only emotional speech corpus for Bangla. PLoS ONE 16(4): e0250173. "
        "https://doi.org/10.1371/journal.pone.0250173"
    ),
    example="F_02_MONIKA_S_1_NEUTRAL_5.wav",
    pattern=(
        r"(?P<speaker>(?P<gender>[FM])_(?:0[1-9]|10))_[A-Z]+_S_\d+_"
        r"(?P<emotion>ANGRY|DISGUST|FEAR|HAPPY|NEUTRAL|SAD|SURPRISE)_\d+"
    ),
    genders={"F": "female", "M": "male"},
    expected=Expected(
        emotions=dict.fromkeys(("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"), 1000),
        speakers=dict.fromkeys((f"{gender}_{number:02d}" for gender in "FM" for number in range(1, 11)), 350),
    ),
).corpus()

# Mexican women, men and children say single words in six emotions (Duville et al. 2021): emotion, voice (F, M, C for a
# child), list of words, word. The eleven speakers are not identified, so no utterance has a speaker.
MESD = Acted(
    name="mesd",
    title="MESD",
    languages=("es",),
    licence="CC BY 4.0",
    citation=(
        "Duville, M. M., Alonso-Valerdi, L. M. and Ibarra-Zarate, D. I. (2021). Mexican Emotional Speech Database "
        "Based on Semantic, Frequency, Familiarity, Concreteness, and Cultural Shaping of Affective Prosody. "
        "Data 6(12), 130. https://doi.org/10.3390/data6120130"
    ),
    example="Happiness_F_A_de_nada.wav",
    pattern=r"(?i)(?P<emotion>anger|disgust|fear|happiness|neutral|sadness)_(?P<gender>[FMC])_[AB]_(?P<text>.+)",
    genders={"F": "female", "f": "female", "M": "male", "m": "male"},
    # 864 were recorded; the release (version 5) contains 862, which EmoBox lists (Ma et al. 2024)
    expected=Expected(
        emotions={
            "anger": 143,
            "disgust": 144,
            "fear": 144,
            "happiness": 144,
            "neutral": 143,
            "sadness": 144,
        },
    ),
).corpus()


# Two Canadian actresses, a younger and an older one, say 200 words in seven emotions (Dupuis & Pichora-Fuller 2010).
# In the example, the older actress says "Say the word back" angrily.
TESS = Acted(
    name="tess",
    title="TESS",
    languages=("en",),
    licence="CC BY-NC-ND 4.0",
    citation=(
        "Pichora-Fuller, M. K. and Dupuis, K. (2020). Toronto emotional speech set (TESS). Borealis. "
        "https://doi.org/10.5683/SP2/E8H2MF"
    ),
    example="OAF_back_angry.wav",
    pattern=r"(?P<speaker>OAF?|YAF)_(?P<text>[A-Za-z]+)_(?P<emotion>angry|disgust|fear|happy|neutral|ps|sad)",
    emotions={"ps": "pleasant surprise"},
    speakers={"OA": "OAF"},  # one file of the release is misnamed: OA_bite_neutral.wav
    genders={"OAF": "female", "YAF": "female"},
    ages={"OAF": 64, "YAF": 26},
    carrier="Say the word {}",
    expected=Expected(
        emotions=dict.fromkeys(("angry", "disgust", "fear", "happy", "neutral", "pleasant surprise", "sad"), 400),
        speakers={"OAF": 1400, "YAF": 1400},
    ),
).corpus()

# Four British men say TIMIT's sentences in seven emotions (Haq & Jackson 2010): speaker, emotion, sentence.
# `AudioData/DC/a01.wav` in the corpus's own release, `DC_a01.wav` in copies of it.
SAVEE_NAMES = Acted(
    name="savee",
    title="SAVEE",
    languages=("en",),
    licence="for research, on registration with the University of Surrey",
    citation=(
        "Haq, S. and Jackson, P. J. B. (2010). Multimodal Emotion Recognition. In W. Wang (ed.), Machine Audition: "
        "Principles, Algorithms and Systems, IGI Global, 398-423. https://doi.org/10.4018/978-1-61520-919-4.ch017"
    ),
    example="DC/a01.wav",
    pattern=r"(?:(?P<speaker>DC|JE|JK|KL)_)?(?P<emotion>a|d|f|h|n|sa|su)\d\d",
    emotions={
        "a": "anger",
        "d": "disgust",
        "f": "fear",
        "h": "happiness",
        "n": "neutral",
        "sa": "sadness",
        "su": "surprise",
    },
    genders={"DC": "male", "JE": "male", "JK": "male", "KL": "male"},
    expected=Expected(
        emotions={
            **dict.fromkeys(("anger", "disgust", "fear", "happiness", "sadness", "surprise"), 60),
            "neutral": 120,
        },
        speakers=dict.fromkeys(("DC", "JE", "JK", "KL"), 120),
    ),
)


def parse_savee(root: Path) -> list[Utterance]:
    """Return every clip of SAVEE below `root`, sorted by speaker and name; ids are as in the second layout (DC_a01).

    Raises:
        ManifestError: There is no folder or no audio, a file name does not match, a speaker is unknown, or a clip is in
            two places.
    """
    utterances = []
    for path in audio_files(root):
        utterance, speaker = SAVEE_NAMES.utterance(path), path.parent.name
        if not utterance.speaker:
            if speaker not in SAVEE_NAMES.genders:
                raise ManifestError(
                    f"is not in a speaker's folder ({', '.join(SAVEE_NAMES.genders)})",
                    where=path,
                    remedy="Specify the corpus's own folder, AudioData.",
                )
            own = {"id": f"{speaker}_{utterance.id}", "speaker": speaker, "gender": SAVEE_NAMES.genders[speaker]}
            utterance = utterance.model_copy(update=own)
        utterances.append(utterance)
    return in_order(utterances, root)


SAVEE = SAVEE_NAMES.corpus(parse_savee)

# Greek actors say twenty sentences in five emotions (Vryzas et al. 2018); the release grows with actors. Emotion,
# sentence, speaker and, if there are several, take. The genders of the speakers are not published.
AESDD = Acted(
    name="aesdd",
    title="AESDD",
    languages=("el",),
    licence="not stated by its publisher, Aristotle University of Thessaloniki",
    citation=(
        "Vryzas, N., Kotsakis, R., Liatsou, A., Dimoulas, C. A. and Kalliris, G. (2018). Speech Emotion Recognition "
        "for Performance Interaction. Journal of the Audio Engineering Society 66(6), 457-467. "
        "https://doi.org/10.17743/jaes.2018.0036"
    ),
    example="a06 (5)b.wav",
    pattern=r"(?P<emotion>[adfhs])\d\d \(0?(?P<speaker>[1-9]\d?)\)[a-z]?",
    emotions={"a": "anger", "d": "disgust", "f": "fear", "h": "happiness", "s": "sadness"},
    # counts of the release with six speakers, whose files EmoBox lists (Ma et al. 2024)
    expected=Expected(
        emotions={"anger": 121, "disgust": 122, "fear": 120, "happiness": 119, "sadness": 122},
        speakers={"1": 100, "2": 100, "3": 98, "4": 99, "5": 107, "6": 100},
    ),
    broken=("s05 (3)",),
).corpus()

# 24 Canadian actors say two sentences in eight emotions (Livingstone & Russo 2018): modality (03: audio only), channel
# (01: speech), emotion, intensity, statement, repetition, actor.
RAVDESS_NAMES = Acted(
    name="ravdess",
    title="RAVDESS (speech)",
    languages=("en",),
    licence="CC BY-NC-SA 4.0",
    citation=(
        "Livingstone, S. R. and Russo, F. A. (2018). The Ryerson Audio-Visual Database of Emotional Speech "
        "and Song (RAVDESS). PLoS ONE 13(5): e0196391. https://doi.org/10.1371/journal.pone.0196391"
    ),
    example="03-01-06-01-02-01-12.wav",
    pattern=(
        r"(?P<modality>0[1-3])-(?P<channel>0[12])-(?P<emotion>0[1-8])-0[12]-(?P<text>0[12])-0[12]"
        r"-(?P<speaker>0[1-9]|1\d|2[0-4])"
    ),
    emotions={
        "01": "neutral",
        "02": "calm",
        "03": "happy",
        "04": "sad",
        "05": "angry",
        "06": "fearful",
        "07": "disgust",
        "08": "surprised",
    },
    genders={f"{actor:02d}": "male" if actor % 2 else "female" for actor in range(1, 25)},
    texts={"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"},
    expected=Expected(
        emotions={
            **dict.fromkeys(("calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"), 192),
            "neutral": 96,  # at one intensity only
        },
        speakers=dict.fromkeys((f"{actor:02d}" for actor in range(1, 25)), 60),
    ),
)


def ravdess_kind(path: Path) -> str:
    """Return the kind of a RAVDESS clip: "speech", "song", or "video" of speech.

    Raises:
        ManifestError: Its name does not match the clip names of RAVDESS.
    """
    parts = name_parts(
        path,
        RAVDESS_NAMES.pattern,
        corpus="RAVDESS",
        example=RAVDESS_NAMES.example,
        remedy="Move it out of the corpus's folder.",
    )
    if parts["channel"] == "02":
        return "song"
    return "speech" if parts["modality"] == "03" else "video"


def parse_ravdess(root: Path) -> list[Utterance]:
    """Return the audio-only speech clips of RAVDESS below `root`, sorted by actor and name.

    Raises:
        ManifestError: There is no folder or no speech clip, a file name does not match, or a clip is in two places.
    """
    utterances = [RAVDESS_NAMES.utterance(path) for path in audio_files(root) if ravdess_kind(path) == "speech"]
    if not utterances:
        raise ManifestError(
            f"contains no audio-only speech clips ({'; '.join(ravdess_remarks(root))})",
            where=root,
            remedy="Download Audio_Speech_Actors_01-24.zip from https://zenodo.org/records/1188976.",
        )
    return in_order(utterances, root)


def ravdess_remarks(root: Path) -> list[str]:
    """Return notes on the song and video clips, which the parser leaves out."""
    kinds = [ravdess_kind(path) for path in audio_files(root)]
    counts = {kind: kinds.count(kind) for kind in ("song", "video")}
    return [f"left out {count} clips of {kind}" for kind, count in counts.items() if count]


RAVDESS = RAVDESS_NAMES.corpus(parse_ravdess, ravdess_remarks)
