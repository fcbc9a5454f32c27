"""Park 2023's Table 7: the time of its networks for one clip; wav2vec2-base's real configuration, random weights.

Measures the speaker network, the emotion network with one to four attention blocks, and both together, each with its
own backbone and, for the case that both have the same frozen weights, with one backbone that runs once. Prints
milliseconds next to the paper's on an RTX 3090, and ratios, which are comparable between machines.

    taskset -c 0,1 python benchmarks/speaker_specific_time.py [--repeats 7] [--json]
    python benchmarks/speaker_specific_time.py --device cuda --precision bfloat16
    python benchmarks/speaker_specific_time.py --thin --repeats 1      # only tries it
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import torch

from backbones import WAV2VEC2_BASE, configuration
from serein import recipe as recipes
from serein.device import num_cores
from serein.models.backbones import HuggingFaceBackbone
from serein.models.model import SpeechModel, assemble
from serein.recipe import Category
from serein.reproduce.extras import inference_time_s

RECIPE = Path(__file__).parents[1] / "recipes" / "park2023" / "recipe.yaml"
DURATIONS_S = (3, 5, 10, 15)
NUM_EMOTIONS, NUM_SPEAKERS = 4, 1251
PUBLISHED_MS: dict[str, tuple[float, ...]] = {
    "speaker": (2.52, 4.20, 8.32, 13.08),
    "emotion, k = 1": (2.49, 4.16, 8.24, 12.96),
    "emotion, k = 2": (2.57, 4.28, 8.52, 13.41),
    "emotion, k = 3": (2.64, 4.40, 8.78, 13.84),
    "emotion, k = 4": (2.71, 4.52, 9.00, 14.22),
    "both, k = 4": (5.28, 8.79, 17.39, 27.26),
}
SHARED = "both, k = 4, one backbone"

Times = dict[str, tuple[float, ...]]  # network -> milliseconds, one for each duration


def main() -> None:
    """Time every network, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=7, help="number of rounds; the median is reported")
    parser.add_argument("--thin", action="store_true", help="a thin backbone, to try the benchmark")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    backbone = configuration(WAV2VEC2_BASE, is_thin=options.thin)
    models = {name: model.to(options.device) for name, model in networks(backbone).items()}
    with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=options.precision == "bfloat16"):
        times_ms = times_of(models, options.repeats)
    where = torch.cuda.get_device_name() if options.device.startswith("cuda") else f"{num_cores()} cores"
    where += f", {options.precision}"
    if options.json:
        print(json.dumps({"where": where, "durations_s": DURATIONS_S, "times_ms": times_ms}))
    else:
        print_tables(times_ms, where)


def times_of(models: dict[str, SpeechModel], num_rounds: int) -> Times:
    """Return the median of some rounds; each runs every network once, so other load affects all of them equally."""
    taken_s = {
        seconds: [
            [inference_time_s(model, seconds, num_repeats=1) for model in models.values()] for _ in range(num_rounds)
        ]
        for seconds in DURATIONS_S
    }
    medians_ms = [[1000 * median(times) for times in zip(*rounds, strict=True)] for rounds in taken_s.values()]
    return {name: tuple(of_length[index] for of_length in medians_ms) for index, name in enumerate(models)}


def networks(backbone: dict[str, Any]) -> dict[str, SpeechModel]:
    """Return every network of the table, and both networks with one backbone."""
    recipe = recipes.load(RECIPE)
    emotion, speaker = recipe.tasks.emotion, recipe.tasks.speaker
    assert emotion is not None
    assert speaker is not None
    emotion = emotion.model_copy(
        update={"projection": backbone.get("hidden_size", emotion.projection)}
    )  # joined by sum
    alone = speaker.model_copy(update={"branch": "main"})
    made = {"speaker": assemble(base(backbone, 0), None, {"speaker": (alone, NUM_SPEAKERS)})}
    for num_blocks in (1, 2, 3, 4):
        made[f"emotion, k = {num_blocks}"] = assemble(
            base(backbone, 0), None, {"emotion": (own(emotion, num_blocks), NUM_EMOTIONS)}
        )
    tasks = {"emotion": (emotion, NUM_EMOTIONS), "speaker": (speaker, NUM_SPEAKERS)}
    for name, seed in (("both, k = 4", 1), (SHARED, 0)):
        made[name] = assemble(base(backbone, 0), None, tasks, branches={"speaker": (base(backbone, seed), None)})
        made[name].share_backbones()
    assert [model.sharing for model in made.values()] == [frozenset()] * 6 + [{"speaker"}]
    return {name: model.eval() for name, model in made.items()}


def base(configuration: dict[str, Any], seed: int) -> HuggingFaceBackbone:
    """Return a backbone with random weights."""
    torch.manual_seed(seed)
    return HuggingFaceBackbone.from_config(configuration)


def own(emotion: Category, num_blocks: int) -> Category:
    """Return the emotion network's head by itself, with the given number of attention blocks."""
    assert emotion.attention is not None
    attention = emotion.attention.model_copy(update={"blocks": num_blocks})
    return emotion.model_copy(update={"attention": attention, "fusion": recipes.Fusion()})


def print_tables(times_ms: Times, where: str) -> None:
    """Print milliseconds next to the paper's, and their ratios."""
    heading = "".join(f"{f'{seconds} s':>18}" for seconds in DURATIONS_S)
    print(f"Milliseconds for one clip: RTX 3090 (published) | {where}\n\n{'':28}{heading}")
    for name, ours in times_ms.items():
        published = PUBLISHED_MS.get(name, (float("nan"),) * len(ours))
        print(f"{name:28}" + "".join(f"{theirs:8.2f} |{own:8.1f}" for theirs, own in zip(published, ours, strict=True)))
    print(f"\n{'Ratios':28}{heading}")
    for label, over, under in (
        ("four blocks over one", "emotion, k = 4", "emotion, k = 1"),
        ("both over emotion alone", "both, k = 4", "emotion, k = 4"),
    ):
        pairs = zip(PUBLISHED_MS[over], PUBLISHED_MS[under], times_ms[over], times_ms[under], strict=True)
        print(f"{label:28}" + "".join(f"{a / b:8.2f} |{c / d:8.2f}" for a, b, c, d in pairs))
    for label, under in (("one backbone over two", "both, k = 4"), ("one backbone over alone", "emotion, k = 4")):
        pairs_ms = zip(times_ms[SHARED], times_ms[under], strict=True)
        print(f"{label:28}" + "".join(f"{'':8} |{c / d:8.2f}" for c, d in pairs_ms))


if __name__ == "__main__":
    main()
