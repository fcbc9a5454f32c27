"""What work runs on: how many processes work together, and the device of each.

One process, unless `torchrun` or SLURM started more; workers that this one starts; and a GPU where there is one, unless
another device is named.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.nn import functional as F

from serein.allocator import keep_freed_memory
from serein.errors import ModelError, imported

T = TypeVar("T")

MOST_THREADS = 8  # of `core_threads`: what holds Python's lock leaves no more to win


def processor_name() -> str:
    """Return what the processor is called, as far as the system says."""
    linux = Path("/proc/cpuinfo")  # there `platform` knows the architecture alone
    said = linux.read_text(errors="replace") if linux.is_file() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", said, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class DistributedInfo:
    """The processes of one training.

    Attributes:
        rank: This process, from 0.
        size: All processes.
        local_size: Processes on this machine.
    """

    rank: int
    size: int
    local_size: int

    @property
    def is_first(self) -> bool:
        """Tell whether this process writes files and speaks."""
        return self.rank == 0


def distributed_info() -> DistributedInfo:
    """Read what `torchrun` or SLURM say in the environment."""
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:
        size = int(os.environ["WORLD_SIZE"])
        return DistributedInfo(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_WORLD_SIZE", size)))
    size = int(os.environ.get("SLURM_NTASKS", "1"))
    if size > 1 and "SLURM_PROCID" in os.environ:
        per_node = os.environ.get("SLURM_NTASKS_PER_NODE", str(size))
        return DistributedInfo(int(os.environ["SLURM_PROCID"]), size, int(per_node))
    return DistributedInfo(0, 1, 1)


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """Give the module `ray`, joined to the cluster at hand, or to one of this machine alone that ends with the block.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics are sent
    ray = imported("ray", "cluster")
    is_ours = not ray.is_initialized()
    if is_ours:
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            ray.init(address="auto", **quiet)
        except ConnectionError:
            ray.init(include_dashboard=False, **quiet)
    try:
        yield ray
    finally:
        if is_ours:
            ray.shutdown()


def join_processes(*, uses_gpus: bool) -> None:
    """Let the processes that `torchrun` started find each other before any of them trains; nothing when there is one.

    A run that goes on with finished trainings has predictions to share and nothing left that would introduce them.

    Args:
        uses_gpus: Whether they train on GPUs, one each.
    """
    if distributed_info().size == 1 or "MASTER_ADDR" not in os.environ or is_joined():
        return
    if uses_gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if uses_gpus else "gloo", timeout=timedelta(hours=1))


def is_joined() -> bool:
    """Tell whether this process has joined others, or is one of one."""
    return distributed.is_available() and distributed.is_initialized()


def wait_for_all() -> None:
    """Wait until every process is here; nothing when there is one."""
    if is_joined():
        distributed.barrier()


def all_gather(value: T) -> list[T]:
    """Return the values of all processes, in their order."""
    if not is_joined():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def worker_context(*modules: str) -> BaseContext:
    """Return the context that starts worker processes; each calls `begin_worker` first.

    On Linux a server imports the modules once, and workers are forked from it: they start in milliseconds, not after
    seconds of imports, and share its memory. That is safe as long as imports start no threads of OpenMP, which a fork
    does not copy. The server ends with the last of its workers and this process. Elsewhere workers are spawned.

    Args:
        modules: What workers need; none of them computes anything when it is imported.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    with without_interrupt():
        forkserver.ensure_running()
    first = context.Process()  # the server answers when it has imported all, and the keyboard may interrupt the wait
    first.start()
    first.join()
    return context


@contextmanager
def without_interrupt() -> Iterator[None]:
    """Let processes that start meanwhile ignore the keyboard's interrupt: their parent gets it, and stops them."""
    is_main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGINT, previous)


def begin_worker(environment: Mapping[str, str]) -> None:
    """Let this process end when the one that started it does, even by `kill -9`, and leave the keyboard to that one.

    Args:
        environment: Of the process that started it; a worker is born with that of the server.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)
    keep_freed_memory()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def all_gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return the rows of all processes, in their order; each may have another number of them.

    Every process computes the same loss of all rows, and gradients of a row are summed over processes; the mean that
    distributed training takes of them is then the gradient of one process that has all rows.

    Args:
        rows: (own row, ...).

    Returns:
        (row, ...).
    """
    from torch.distributed.nn import functional as differentiable

    numbers: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(numbers, len(rows))
    padded = F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, max(numbers) - len(rows))).contiguous()
    if rows.requires_grad:
        parts = list(differentiable.all_gather(padded))  # type: ignore[no-untyped-call]
    else:
        parts = [torch.empty_like(padded) for _ in numbers]
        distributed.all_gather(parts, padded)
    return torch.cat([part[:number] for part, number in zip(parts, numbers, strict=True)])


def device_of(name: str | torch.device = "auto") -> torch.device:
    """Return a device by its name.

    Args:
        name: `auto`: CUDA, else Apple's MPS, else the CPU; or `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        ModelError: There is no such device on this machine.

    Example:
        >>> device_of("cpu")
        device(type='cpu')
    """
    if str(name) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        why = "" if reason.startswith("Expected one of") else f" ({reason})"  # a list of all that PyTorch knows
        raise ModelError(
            f"no device '{name}' on this machine{why}",
            where="--device",
            remedy="Choose auto, cpu, cuda, cuda:1 or mps.",
        ) from None
    return device


def own_device(name: str = "auto") -> torch.device:
    """Return the device of this process: of several that train together on GPUs, each has its own.

    Args:
        name: See `device_of`.

    Raises:
        ModelError: There is no such device, or several processes would share one GPU.
    """
    device = device_of(name)
    if device.type != "cuda" or distributed_info().size == 1:
        return device
    if device.index is not None:
        what, remedy = f"several processes cannot train on '{name}' alone", "Name auto or cuda: each takes its own GPU."
        raise ModelError(what, where="--device", remedy=remedy)
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))))


@contextmanager
def moved_to(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a module to a device, and back when the block ends: training leaves its model on the CPU."""
    home = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    try:
        module.to(device)
        yield
    finally:
        module.to(home)


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device; one of the host goes there without waiting for what the device still computes.

    CUDA does so from pinned memory alone. On MPS a copy that nobody waits for may read memory that is freed already
    (pytorch/pytorch#189690).
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type != "mps")


@contextmanager
def core_threads(num: int) -> Iterator[Executor | None]:
    """Start threads that share PyTorch's among them, or none where there would be one.

    On the CPU, batches side by side take less time than one after the other, each on all cores: these wait for each
    other at every operation.
    """
    if num <= 1:
        yield None
        return
    num_inside = torch.get_num_threads()
    pool = ThreadPoolExecutor(num, "serein", _begin_thread, (max(1, num_inside // num),))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(num_inside)  # what one thread sets holds for all that begin after it
        torch.clear_autocast_cache()


def _begin_thread(num_inside: int) -> None:
    torch.set_num_threads(num_inside)
    torch.autocast_increment_nesting()  # as within `autocast`: weights that were cast are kept
