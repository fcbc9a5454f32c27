"""Processes and devices: how many processes work together, and the device of each.

There is one process unless `torchrun` or SLURM's `srun` started more, plus the workers that it starts. It uses a GPU if
there is one, unless another device is named.
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
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.nn import functional as F

from serein.allocator import keep_freed_memory
from serein.errors import ModelError, RunError, imported

if sys.platform == "linux":
    from multiprocessing.context import ForkServerContext as Context
    from multiprocessing.context import ForkServerProcess as Process
else:
    from multiprocessing.context import SpawnContext as Context
    from multiprocessing.context import SpawnProcess as Process

T = TypeVar("T")

MOST_THREADS = 8  # of `core_threads`; more gain nothing, because some work holds Python's lock


def processor_name() -> str:
    """Return the name of the processor, as far as the system reports it."""
    linux = Path("/proc/cpuinfo")  # on Linux, `platform` reports only the architecture
    said = linux.read_text(errors="replace") if linux.is_file() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", said, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class DistributedInfo:
    """The processes of one training.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of all processes.
        local_size: Number of processes on this machine.
        local_rank: Number of this process on this machine, from 0.
    """

    rank: int
    size: int
    local_size: int
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Return whether this process writes files and prints output."""
        return self.rank == 0


def distributed_info() -> DistributedInfo:
    """Read the environment variables that `torchrun` or SLURM's `srun` set."""
    local_rank = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:
        size = int(os.environ["WORLD_SIZE"])
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        return DistributedInfo(int(os.environ["RANK"]), size, local_size, local_rank)
    size = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))  # only `srun` sets it: a batch script itself is one process
    if size > 1 and "SLURM_PROCID" in os.environ:
        per_node = os.environ.get("SLURM_NTASKS_PER_NODE", str(size))
        return DistributedInfo(int(os.environ["SLURM_PROCID"]), size, int(per_node), local_rank)
    return DistributedInfo(0, 1, 1)


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """Yield the module `ray`, connected to the available cluster, or to a local one that ends with the block.

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
    """Connect the processes that `torchrun` or SLURM started, before any of them trains; do nothing if there is one.

    A resumed run whose trainings are finished has predictions to share, but no training left that would connect them.

    Args:
        uses_gpus: Whether they train on GPUs, one each.
    """
    processes = distributed_info()
    if processes.size == 1 or is_joined():
        return
    if "MASTER_ADDR" not in os.environ:  # SLURM's nodes agree on an address, but name none
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        slurm = SLURMEnvironment(auto_requeue=False)
        os.environ |= {"MASTER_ADDR": slurm.main_address, "MASTER_PORT": str(slurm.main_port)}
    if uses_gpus:
        torch.cuda.set_device(processes.local_rank)
    how: Any = {"rank": processes.rank, "world_size": processes.size, "timeout": timedelta(hours=1)}
    distributed.init_process_group("nccl" if uses_gpus else "gloo", **how)


@contextmanager
def peer_errors(where: Path) -> Iterator[None]:
    """Raise RunError if this process no longer reaches the others that train with it, usually because one has ended."""
    try:
        yield
    except RuntimeError as error:
        if not is_joined() or not (isinstance(error, distributed.DistError) or "/gloo/" in str(error)):
            raise
        reason = re.sub(r"^\[\S+\] |\. .*", "", str(error).splitlines()[0])
        raise RunError(
            f"cannot reach the other processes ({reason})",
            where=where,
            remedy="If one of them was stopped, continue with --resume and as many processes.",
        ) from None


def is_joined() -> bool:
    """Return whether this process is in a process group, even if it is the only one."""
    return distributed.is_available() and distributed.is_initialized()


def wait_for_all() -> None:
    """Wait until every process gets here; do nothing if there is only one."""
    if is_joined():
        distributed.barrier()


def all_gather(value: T) -> list[T]:
    """Return the values of all processes, in order of rank."""
    if not is_joined():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


class WorkerProcess(Process):
    """A worker. It imports the user's script, as usual, only if that has `if __name__ == "__main__"`.

    Otherwise, the import would run the script again in every worker.
    """

    def start(self) -> None:
        """Start the process, without a script that cannot be imported."""
        main = sys.modules["__main__"]
        script = Path(getattr(main, "__file__", None) or "")
        if not (script.is_file() and "__main__" in script.read_text(encoding="utf-8", errors="replace")):
            sys.modules["__main__"] = ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = main


class WorkerContext(Context):
    """The multiprocessing context of workers."""

    Process = WorkerProcess


def worker_context(*modules: str) -> BaseContext:
    """Return the multiprocessing context of worker processes, each of which calls `begin_worker` first.

    On Linux, a server imports the modules once and workers are forked from it, so they start in milliseconds instead of
    after seconds of imports, and share its memory. That is safe as long as imports start no OpenMP threads, which a
    fork does not copy. The server ends with this process and the last of its workers. On other systems, workers are
    spawned.

    Args:
        modules: Modules that workers need; importing them does not compute anything.
    """
    context = WorkerContext()
    if sys.platform != "linux":
        return context
    context.set_forkserver_preload(list(modules))
    with without_interrupt():
        forkserver.ensure_running()
    first = context.Process()  # waits until the server has imported everything; the keyboard may interrupt this
    first.start()
    first.join()
    return context


@contextmanager
def without_interrupt() -> Iterator[None]:
    """Let processes that start within the block ignore keyboard interrupts: their parent receives and stops them."""
    is_main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGINT, previous)


def begin_worker(environment: Mapping[str, str]) -> None:
    """Let this process end when its parent does, even by `kill -9`, and leave keyboard interrupts to the parent.

    Args:
        environment: Environment of the parent; a worker starts with that of the server.
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
    """Return the rows of all processes, in order of rank; processes may have different numbers of rows.

    Every process computes the same loss over all rows, and the gradients of a row are summed over processes.
    Distributed training averages these, which gives the gradient of a single process with all rows.

    Args:
        rows: (own row, ...).

    Returns:
        (row, ...).
    """
    from torch.distributed.nn import functional as differentiable

    numbers = all_gather(len(rows))
    padded = F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, max(numbers) - len(rows))).contiguous()
    if rows.requires_grad:
        parts = list(differentiable.all_gather(padded))  # type: ignore[no-untyped-call]
    else:
        parts = [torch.empty_like(padded) for _ in numbers]
        distributed.all_gather(parts, padded)
    return torch.cat([part[:number] for part, number in zip(parts, numbers, strict=True)])


def device_of(name: str | torch.device = "auto") -> torch.device:
    """Return a device by name.

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
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0]
        # a list of PyTorch's device types, or of its arguments
        why = "" if reason.startswith("Expected one of") or isinstance(error, TypeError) else f" ({reason})"
        raise ModelError(
            f"no device '{name}' on this machine{why}",
            where="--device",
            remedy="Choose auto or cpu; cuda (cuda:1, ...) needs a GPU and a PyTorch with CUDA, mps a GPU of Apple's.",
        ) from None
    return device


def own_device(name: str = "auto") -> torch.device:
    """Return the device of this process; if several processes train together on GPUs, each has its own.

    Args:
        name: See `device_of`.

    Raises:
        ModelError: There is no such device, or several processes would share one GPU.
    """
    device = device_of(name)
    if device.type != "cuda" or distributed_info().size == 1:
        return device
    if device.index is not None:
        what, remedy = f"the GPU '{name}' cannot be shared by processes", "Name auto or cuda; each takes its own GPU."
        raise ModelError(what, where="--device", remedy=remedy)
    number, num_gpus = distributed_info().local_rank, torch.cuda.device_count()
    if number >= num_gpus:
        raise ModelError(
            f"process {number + 1} on this machine has no GPU of its own; the number of GPUs that it finds: {num_gpus}",
            where="--device",
            remedy="Start one process for each GPU; with SLURM, use --gpus-per-node, not --gpus-per-task.",
        )
    return torch.device("cuda", number)


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions for bfloat16; older GPUs emulate it, which is slower than float32."""
    if device.type == "cuda":
        with torch.cuda.device(-1 if device.index is None else device.index):  # -1: the current one
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    is_cpu = device.type == "cpu"
    return is_cpu and bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise `torch.OutOfMemoryError` also where MPS raises an ordinary RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("MPS backend out of memory"):
            raise
        raise torch.OutOfMemoryError(str(error)) from None


def release_memory(device: torch.device) -> None:
    """Return a device's unused memory, which PyTorch keeps in pieces that may be too small."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).empty_cache()


@contextmanager
def moved_to(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a module to a device, and back at the end of the block, because training leaves its model on the CPU."""
    home = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    try:
        module.to(device)
        yield
    finally:
        module.to(home)


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device; a host tensor is copied without waiting for the device's pending computations.

    CUDA does so only from pinned memory. On MPS, a non-blocking copy may read memory that has already been freed
    (pytorch/pytorch#189690).
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type != "mps")


@contextmanager
def core_threads(num: int) -> Iterator[Executor | None]:
    """Start threads that share PyTorch's threads among them, or none if there would be only one.

    On the CPU, running batches side by side takes less time than running one after the other on all cores, because the
    cores would wait for each other at every operation.
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
        torch.set_num_threads(num_inside)  # the setting of one thread applies to all that start later
        torch.clear_autocast_cache()


def _begin_thread(num_inside: int) -> None:
    torch.set_num_threads(num_inside)
    torch.autocast_increment_nesting()  # as within `autocast`, which keeps cast weights
