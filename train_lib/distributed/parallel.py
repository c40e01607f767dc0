"""Data parallelism: the only module that says pmap.

Every device holds the whole state and its slice of the batch. The state is unmapped (in_axes and
out_axes are None), so it has its natural shape everywhere outside of a step, and neither a
checkpoint nor a notebook meets a device axis.

When several processes train together (see `processes`), each process hands over the slices of its
own devices. Only the training step runs over the devices of all processes. In an evaluation, each
process uses its own devices for its own part of the examples.
"""

import contextlib
import os
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from errors import UserError, one_line, reported
from models.layers import backend
from train_lib.distributed import memory, processes

AXIS = "batch"
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def use_deterministic_kernels() -> None:
    """Lets XLA choose deterministic kernels on GPUs. Call it before JAX looks for devices.

    Raises UserError if it is too late.
    """
    if _DETERMINISTIC in os.environ.get("XLA_FLAGS", ""):
        return
    from jax._src import xla_bridge  # no public function tells it without looking for devices

    if not xla_bridge.backends_are_initialized():
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DETERMINISTIC}".strip()
    elif jax.default_backend() == "gpu":
        raise UserError(
            "config.deterministic must be set before JAX starts: set XLA_FLAGS="
            f"{_DETERMINISTIC} in the environment"
        )


@contextlib.contextmanager
def explain_device_errors():
    """Raises UserError if JAX finds no devices or a device runs out of memory in this context."""
    memory.keep_freed_memory()
    advice = (
        "another process may use them, or JAX's plugin or the driver is missing; to run on the CPU,"
        " set JAX_PLATFORMS=cpu"
    )
    # It raises AssertionError if a plugin is not installed.
    with reported("JAX finds no devices", advice, RuntimeError, AssertionError):
        jax.local_devices()
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"a device does not have enough memory ({one_line(error)}): lower config.batch_size"
            " (in an evaluation, config.evaluate.batch_size), or end other programs on the device;"
            " the same command then resumes from the last checkpoint"
        ) from error


def local_devices(count: int) -> list[jax.Device]:
    """The first devices of this process: its share of `count` devices, or all if count is 0.

    Raises UserError if there are fewer, or if this is one process of several without `join`.
    """
    memory.keep_freed_memory()
    available, process_count = jax.local_devices(), processes.count()
    if jax.process_count() != process_count:
        raise UserError(
            f"this is one of {jax.process_count()} processes of a TPU pod: start all of them, with"
            " --distributed"
        )
    if count % process_count:
        raise UserError(
            f"num_devices={count} is not divisible by the number of processes ({process_count}):"
            " set another number, or 0 for all devices"
        )
    if count // process_count > len(available):
        raise UserError(
            f"num_devices={count} is more than the number of devices"
            f" ({len(available) * process_count}): lower it, or set 0 for all devices"
        )
    return available[: count // process_count] if count else available


def global_device_count(devices: Sequence[jax.Device]) -> int:
    """The number of devices of all processes, each of which has as many as `devices`."""
    return len(devices) * processes.count()


def check_batch_size(batch_size: int, devices: Sequence[jax.Device]) -> None:
    """Raises UserError if a batch does not divide over the devices of all processes."""
    count = global_device_count(devices)
    if batch_size % count:
        nearest = max(count, round(batch_size / count) * count)
        raise UserError(
            f"config.batch_size={batch_size} is not divisible by the number of devices ({count}):"
            f" use {nearest}, or set config.num_devices"
        )


def replicate(tree, devices: Sequence[jax.Device]):
    """A copy of `tree` on every device, with the same sharding as the output of a step.

    With another sharding the first step would be compiled twice.
    """
    return jax.device_put(tree, _sharding(devices))


def scatter(batch, devices: Sequence[jax.Device]):
    """Starts to copy a batch to the devices. Leaves are [devices, ...], one slice per device."""
    return jax.device_put(batch, _sharding(devices, AXIS))


def _sharding(devices: Sequence[jax.Device], *axes: str) -> NamedSharding:
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(*axes))


def train_step(
    step: Callable, devices: Sequence[jax.Device], options: dict | None = None
) -> Callable:
    """step(state, batch) -> (state, record) on the devices of all processes; the state is donated.

    devices: of this process. Batch leaves are [devices, ...]; state and record are equal on all
    devices. options: of the compiler; None for `backend.compiler_options`.
    """
    all_devices = _devices_of_all_processes(devices)
    return _mapped(step, all_devices, None, donate_argnums=(0,), options=options)


def eval_step(step: Callable, devices: Sequence[jax.Device]) -> Callable:
    """step(state, batch) -> (sums, examples) on this process's devices.

    Batch leaves are [devices, ...]; sums are equal on all devices, examples are [devices, ...].
    """
    return _mapped(step, devices, out_axes=(None, 0))


def predict_step(step: Callable, devices: Sequence[jax.Device]) -> Callable:
    """step(state, batch) -> outputs [n, ...] on this process's devices, as [devices, n, ...]."""
    return _mapped(step, devices, out_axes=0)


def _mapped(step: Callable, devices, out_axes, donate_argnums=(), options=None) -> Callable:
    """`step(state, batch)` under pmap, compiled with the options of the devices' backend.

    `jax.pmap` takes no compiler options, so it is traced inside `jax.jit`, which does. Only
    `jax.pmap` itself can use the devices of several processes: those steps have no options.
    """
    arguments = dict(axis_name=AXIS, in_axes=(None, 0), out_axes=out_axes, devices=list(devices))
    if any(device.process_index != jax.process_index() for device in devices):
        return jax.pmap(step, donate_argnums=donate_argnums, **arguments)
    if options is None:
        options = backend.compiler_options(devices[0].platform)
    mapped = jax.pmap(step, **arguments)
    return jax.jit(mapped, donate_argnums=donate_argnums, compiler_options=options)


def _devices_of_all_processes(devices: Sequence[jax.Device]) -> Sequence[jax.Device]:
    """In the order of the processes, as many devices of each process as `devices`."""
    if processes.count() == 1:
        return devices
    by_process = [jax.local_devices(process_index=i) for i in range(processes.count())]
    counts = {len(available) for available in by_process}
    if len(counts) > 1:
        raise UserError(
            f"processes have different numbers of devices ({sorted(counts)}): give each the same"
            " number"
        )
    return [device for available in by_process for device in available[: len(devices)]]


def device_index() -> jax.Array:
    """Inside a step: the number of its device among the devices of all processes."""
    return jax.lax.axis_index(AXIS)


def mean(tree):
    """Inside a step: the mean over devices."""
    return tree if _is_single_device() else jax.lax.pmean(tree, AXIS)


def total(tree):
    """Inside a step: the sum over devices."""
    return tree if _is_single_device() else jax.lax.psum(tree, AXIS)


def _is_single_device() -> bool:
    # A sum over one device would only copy its operand.
    return jax.lax.psum(1, AXIS) == 1
