"""A GPU that is none: its tensors lie in the processor's memory, and it refuses what would wait for a real one.

    python tests/simulated_gpu.py MANIFEST RECIPE...

takes two training steps of each recipe there, as a fold's training would. It fails at a tensor that lies elsewhere,
and in the second step at whatever asks for a value, or copies without `non_blocking`: a GPU then has nothing to do
until Python has sent more work.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
ASKING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
}
COPIES = {aten._to_copy.default, aten.copy_.default}
DEVICE = torch.device("cpu")  # until `start`


class GpuTensor(torch.Tensor):
    """Says that it lies on the simulated GPU; `own` holds the numbers."""

    own: torch.Tensor

    @staticmethod
    def __new__(cls, own: torch.Tensor) -> GpuTensor:
        like = {"strides": own.stride(), "storage_offset": own.storage_offset(), "dtype": own.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(cls, own.size(), device=DEVICE, **like)
        tensor.own = own.detach()
        return tensor

    def tolist(self) -> Any:
        wait("tolist")
        return self.own.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> GpuTensor:
        copied = GpuTensor(self.own.clone())
        is_parameter = isinstance(self, torch.nn.Parameter)
        return torch.nn.Parameter(copied, self.requires_grad) if is_parameter else copied

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(operation, args, kwargs or {})


class SimulatedGpu(TorchDispatchMode):
    """Takes in what is made on the device without a tensor that lies there."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(operation, args, kwargs or {})


is_watched = False


def wait(what: str) -> None:
    """Note that the host would wait for the device."""
    if is_watched:
        raise RuntimeError(f"waits for the device: {what}")


def run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the processor, if all that it reads lies where the device could read it."""
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)]
    on_gpu = [each for each in tensors if isinstance(each, GpuTensor)]
    on_host = [each for each in tensors if not isinstance(each, GpuTensor)]
    device = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    is_for_gpu = device is not None and device.type == DEVICE.type
    if not on_gpu and not is_for_gpu:
        return operation(*args, **kwargs)
    if operation in ASKING or (operation in INDEXING and any(is_mask(each) for each in args[1])):
        wait(str(operation))
    is_copy = operation in COPIES and (bool(on_host) or (device is not None and device.type == "cpu"))
    if is_copy and not (kwargs.get("non_blocking") or args[2:] == (True,)):
        wait(f"{operation} without non_blocking")
    elsewhere = [each for each in on_host if each.ndim > 0]
    if on_gpu and elsewhere and operation not in COPIES:
        shapes = [(tuple(each.shape), each.device.type) for each in tensors]
        raise RuntimeError(f"{operation}: tensors lie on different devices: {shapes}")
    if operation is aten.copy_.default and not isinstance(args[0], GpuTensor):
        args[0].copy_(args[1].own)
        return args[0]
    there = {**kwargs, "device": torch.device("cpu")} if is_for_gpu else kwargs
    own_args, own_kwargs = tree_map(lambda each: each.own if isinstance(each, GpuTensor) else each, (args, there))
    made = operation(*own_args, **own_kwargs)
    if operation is aten._to_copy.default and device is not None and not is_for_gpu:
        return made
    wrapped = tree_map(lambda each: GpuTensor(each) if isinstance(each, torch.Tensor) else each, made)
    if operation is aten._to_copy.default or not on_gpu:
        return wrapped
    return return_and_correct_aliasing(operation, args, kwargs, wrapped)


def is_mask(index: Any) -> bool:
    """Tell whether an index is one of numbers that must be counted first."""
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


class Backend(backend_registration._DummyBackendModule):
    """What PyTorch asks of the device's kind."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def start() -> None:
    """Register the device in this process, for good: a process that has it cannot be forked."""
    global DEVICE
    backend_registration._setup_privateuseone_for_python_backend("simulated", Backend())
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(..., device=)` is then seen by the mode
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    DEVICE = torch.device("simulated", 0)


@contextmanager
def watched(*, on: bool) -> Iterator[None]:
    """Fail at what would wait for the device."""
    global is_watched
    is_watched = on
    try:
        yield
    finally:
        is_watched = False


class Done(Exception):
    """Both steps were taken."""


class TwoSteps(SimpleNamespace):
    """Stands in for Lightning's trainer, which knows real devices alone."""

    def fit(self, module: Any, datamodule: Any, **_: Any) -> None:
        module._trainer = self
        module.to(DEVICE)
        optimizer = module.configure_optimizers()
        optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
        for number, batch in enumerate(islice(datamodule.train_dataloader(), 2)):
            module._batch, module._batch_index = batch, number
            with watched(on=number == 1):  # constants are copied once, in the first
                module._batch = batch.to(DEVICE)
                loss, _ = module.batch_losses()
                loss.backward()
                module.on_before_optimizer_step(optimizer)
                optimizer.step()
                if module.averaged is not None:
                    module.averaged.update(module.model, number + 1)
                optimizer.zero_grad()
        if not torch.isfinite(loss.own):
            raise RuntimeError("the loss is no number")
        raise Done


def main() -> None:
    """Take the steps, and say which recipe failed where."""
    from serein import recipe as recipes
    from serein.experiment import data as experiment_data
    from serein.experiment import fold
    from serein.training import stages

    start()
    stages.build_trainer = lambda *_, **__: TwoSteps(
        current_epoch=0, global_rank=0, global_step=0, world_size=1, accumulate_grad_batches=1
    )
    manifest, *paths = sys.argv[1:]
    num_failed = 0
    for path in paths:
        try:
            experiment = experiment_data.prepare(recipes.load(Path(path)), Path(manifest), lambda *_: None)
            with SimulatedGpu(), tempfile.TemporaryDirectory() as folder:
                fold.train_fold(experiment, experiment.folds.folds[0], 0, Path(folder), lambda *_: None, label="x")
        except Done:
            continue
        except Exception:
            num_failed += 1
            print(f"{Path(path).stem}:\n{traceback.format_exc()}", file=sys.stderr)
    sys.exit(num_failed > 0)


if __name__ == "__main__":
    main()
