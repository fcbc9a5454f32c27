"""Where models run: named by `--device` in every command that runs one, and refused before any work where it is not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from cli_fixtures import Call, write_recipe
from serein import cli
from serein import device as devices
from serein.errors import ModelError
from serein.experiment.predict import evaluate

NO_RUN = {"export", "merge", "bundle", "models", "push"}  # they read weights, or compare files on the processor
NO_MODEL = {"corpus preview-augmentation"}  # writes what a recipe changes


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command with its name, `knn build` for instance."""
    root: Any = typer.main.get_command(cli.app)
    for name, command in root.commands.items():
        for own, each in getattr(command, "commands", {"": command}).items():
            yield f"{name} {own}".strip(), each


def test_every_command_that_runs_a_model_takes_a_device() -> None:
    running = {"model", "recipe", "gender", "transcripts", "knn"}
    without = {
        name
        for name, command in commands()
        if {each.name for each in command.params} & running and "device" not in {each.name for each in command.params}
    }
    assert without - NO_RUN - NO_MODEL == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "predict DATA --model MODEL",
        "embed DATA --model MODEL",
        "evaluate --model MODEL --data DATA --allow-seen-speakers",
        "benchmark MODEL",
        "knn build --model MODEL --data DATA --out OUT",
        "knn evaluate RUN",
        "run RECIPE --data DATA --out OUT",
        "train RECIPE --data DATA --out OUT",
        "cross-corpus RECIPE --data DATA --data DATA --out OUT",
        "corpus annotate DATA --gender MODEL --out OUT",
    ],
)
def test_an_unknown_device_is_one_line(
    command: str, tiny_run: Path, tones: Path, tiny: Path, tmp_path: Path, serein: Call
) -> None:
    places = {"DATA": tones, "MODEL": tiny_run / "fold-1/seed-0/model", "RUN": tiny_run, "RECIPE": tiny}
    places["OUT"] = tmp_path / "out"
    outcome = serein(*(places.get(word, word) for word in command.split()), "--device", "quantum")
    assert outcome.status == 1
    if not command.startswith("cross-corpus"):  # one corpus twice is refused first
        assert "no device 'quantum' on this machine" in outcome.complaint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [None, "quantum"])
def test_a_value_that_names_no_device(name: Any) -> None:
    with pytest.raises(ModelError, match=f"no device '{name}' on this machine. Choose auto or cpu"):
        devices.device_of(name)


@pytest.mark.slow
def test_training_says_and_writes_where_it_ran(tones: Path, tmp_path: Path, serein: Call) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", {"protocol": {"dev": "none"}}, {"epochs": 1, "checkpoint": "last"})
    outcome = serein("train", recipe, "--data", tones, "--out", tmp_path / "out", "--device", "cpu")
    assert outcome.status == 0
    assert "trains with torch on cpu, in float32" in outcome.err
    environment = json.loads((tmp_path / "out/environment.json").read_text())
    assert (environment["device"], environment["cpu"]) == ("cpu", devices.processor_name())


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("processor\t: 0\nmodel name\t: A CPU 9 @ 1 GHz\nmodel name\t: B\n", "A CPU 9 @ 1 GHz"),
        ("", "arm64"),
    ],
)
def test_the_processor_is_called_what_the_system_says(said: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arm says nothing there, and other systems have no such file: then the architecture remains."""
    monkeypatch.setattr(Path, "is_file", lambda self: True)
    monkeypatch.setattr(Path, "read_text", lambda self, **_: said)
    monkeypatch.setattr(devices.platform, "processor", lambda: "arm64")
    assert devices.processor_name() == name


def test_a_model_on_the_processor_stays_there_beside_a_gpu(
    tiny_run: Path, tones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a model that moved there would fail
    predictions, _ = evaluate(tiny_run / "fold-1/seed-0/model", tones, allow_seen_speakers=True, device="cpu")
    assert len(predictions) == 36


def test_each_of_several_processes_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "device_of", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.own_device("cuda") == torch.device("cuda")
    assert devices.own_device("cuda:1") == torch.device("cuda:1")
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert devices.own_device("cuda") == torch.device("cuda:1")
    assert devices.own_device("cpu") == torch.device("cpu")
    with pytest.raises(ModelError, match=r"the GPU 'cuda:1' cannot be shared by processes\. Name auto or cuda"):
        devices.own_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ModelError, match=r"process 2 on this machine has no GPU of its own; .*: 1\. Start one"):
        devices.own_device("cuda")


@pytest.mark.parametrize(("name", "is_pinned", "is_awaited"), [("cuda", True, False), ("mps", False, True)])
def test_tensors_are_sent_without_waiting_where_that_is_safe(
    name: str, is_pinned: bool, is_awaited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA waits for what is not pinned; MPS may read memory that is freed already."""
    calls: list[object] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: calls.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, non_blocking: calls.append(not non_blocking) or self)
    devices.sent(torch.zeros(1), torch.device(name))
    assert calls == ["pinned"] * is_pinned + [is_awaited]


@pytest.mark.parametrize("guard", ["", "if __name__ == '__main__':\n    "])
def test_workers_do_not_run_the_script_again(tmp_path: Path, guard: str) -> None:
    script = tmp_path / "script.py"
    lines = [
        "from concurrent.futures import ProcessPoolExecutor",
        "from serein.device import worker_context",
        f"{guard}print(ProcessPoolExecutor(1, worker_context()).submit(abs, -1).result())",
    ]
    script.write_text("\n".join(lines))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
