"""Data parallelism: the only module that says pmap.

Every device holds the whole state and its slice of the batch. The state is unmapped (in_axes
and out_axes None), so it has its natural shape everywhere outside and no checkpoint or notebook
meets a device axis.

Where several processes train together (`processes`), each hands its own devices' part over and
gets it back; the training step alone runs over the devices of all. Evaluation runs on a process's
own devices, each on its part of the examples.
"""

import contextlib
import os
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from errors import UserError, one_line
from models.layers import backend
from train_lib.distributed import memory, processes

AXIS = "batch"


DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def use_deterministic_kernels() -> None:
    """Makes XLA choose deterministic kernels on GPUs. Before JAX first looks for devices.

    Raises UserError where it is too late.
    """
    if DETERMINISTIC in os.environ.get("XLA_FLAGS", ""):
        return
    from jax._src import xla_bridge  # no public way to ask without looking for devices

    if not xla_bridge.backends_are_initialized():
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()
    elif jax.default_backend() == "gpu":
        raise UserError(
            f"config.deterministic comes too late: set XLA_FLAGS={DETERMINISTIC} before JAX starts"
        )


@contextlib.contextmanager
def explain_device_errors():
    """Errors of the devices as a UserError: none to be had, or out of memory."""
    memory.keep_freed_memory()
    try:
        jax.local_devices()
    except (RuntimeError, AssertionError) as error:  # the latter where a plugin is not installed
        raise UserError(
            f"JAX finds no devices ({one_line(error)}): perhaps another process has them, or its"
            " plugin or their driver is missing; JAX_PLATFORMS=cpu goes without them"
        ) from error
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"a device has not enough memory ({one_line(error)}): lower config.batch_size"
            " (config.evaluate.batch_size if it was a test), or end what else runs there; a run"
            " goes on from its last checkpoint"
        ) from error


def local_devices(count: int) -> list[jax.Device]:
    """This process's share of `count` devices, its first ones; all where count is 0.

    Raises UserError where there are fewer, and for one of several processes that does not know it.
    """
    memory.keep_freed_memory()
    found, hosts = jax.local_devices(), processes.count()
    if jax.process_count() != hosts:
        raise UserError(
            f"this is one of {jax.process_count()} processes of a TPU pod: start all of them, with"
            " --distributed"
        )
    if count % hosts:
        raise UserError(
            f"num_devices={count} does not divide over {hosts} processes: set another, or 0"
        )
    if count // hosts > len(found):
        raise UserError(
            f"num_devices={count}, but there are {len(found) * hosts}: lower it, or set 0"
        )
    return found[: count // hosts] if count else found


def global_device_count(on: Sequence[jax.Device]) -> int:
    """How many devices all processes have together, each as many as `on`."""
    return len(on) * processes.count()


def _of_all(on: Sequence[jax.Device]) -> list[jax.Device]:
    """`on`, and as many devices of each other process, in the order of the processes."""
    if processes.count() == 1:
        return list(on)
    by_process: dict[int, list] = {}
    for device in sorted(jax.devices(), key=lambda device: device.id):
        by_process.setdefault(device.process_index, []).append(device)
    counts = {len(own) for own in by_process.values()}
    if len(counts) > 1:
        raise UserError(f"processes have different numbers of devices ({sorted(counts)})")
    return [device for i in sorted(by_process) for device in by_process[i][: len(on)]]


def batch_per_device(batch_size: int, count: int, what: str) -> int:
    """A device's share of a batch. Raises UserError where it does not divide."""
    if batch_size % count:
        nearest = max(count, round(batch_size / count) * count)
        raise UserError(
            f"{what}={batch_size} does not divide over {count} devices: use {nearest}, or set"
            " num_devices"
        )
    return batch_size // count


def memory_bytes(device: jax.Device) -> int | None:
    """Bytes that a device has, or the machine for a CPU; None where that is not to be had."""
    if device.platform == "cpu":
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, OSError, ValueError):
            return None
    return (device.memory_stats() or {}).get("bytes_limit")


def replicate(tree, on: Sequence[jax.Device]):
    """A copy of `tree` on every device, with the very sharding that the steps return.

    From any other the first step would be compiled once for it and once for its own output.
    """
    return jax.device_put(tree, NamedSharding(Mesh(np.array(on), (AXIS,)), PartitionSpec()))


def scatter(batch, on: Sequence[jax.Device]):
    """Begins to copy a batch whose leaves are [devices, ...], each device its own slice."""
    return jax.device_put(batch, NamedSharding(Mesh(np.array(on), (AXIS,)), PartitionSpec(AXIS)))


def _mapped(step: Callable, on, out_axes, donate_argnums=(), options=None) -> Callable:
    """`step(state, batch)` under pmap, compiled with the options of the devices' backend.

    `jax.pmap` takes no compiler options, so it is traced inside `jax.jit`, which does. Only
    `jax.pmap` itself can combine the devices of several processes: those steps go without options.
    """
    arguments = dict(axis_name=AXIS, in_axes=(None, 0), out_axes=out_axes, devices=list(on))
    if any(device.process_index != jax.process_index() for device in on):
        return jax.pmap(step, donate_argnums=donate_argnums, **arguments)
    if options is None:
        options = backend.compiler_options(on[0].platform)
    mapped = jax.pmap(step, **arguments)
    return jax.jit(mapped, donate_argnums=donate_argnums, compiler_options=options)


def train_step(step: Callable, on: Sequence[jax.Device], options: dict | None = None) -> Callable:
    """step(state, batch) -> (state, record) on every device of all processes; the state is donated.

    on: this process's. batch leaves are [devices, ...], of those; state and record come out equal
    on all. options: of the compiler, None for those of `backend.compiler_options`.
    """
    return _mapped(step, _of_all(on), None, donate_argnums=(0,), options=options)


def eval_step(step: Callable, on: Sequence[jax.Device]) -> Callable:
    """step(state, batch) -> (sums, examples).

    sums come out equal on all devices, examples as [devices, ...].
    """
    return _mapped(step, on, out_axes=(None, 0))


def predict_step(step: Callable, on: Sequence[jax.Device]) -> Callable:
    """step(state, batch) -> outputs [n, ...], as [devices, n, ...]."""
    return _mapped(step, on, out_axes=0)


def device_index() -> jax.Array:
    """The number of the device that runs the step, among all of all processes, inside a step."""
    return jax.lax.axis_index(AXIS)


def _alone() -> bool:
    """Whether a step runs on one device. There a sum over devices would only copy its operand."""
    return jax.lax.psum(1, AXIS) == 1


def mean(tree):
    """The mean over devices, inside a step."""
    return tree if _alone() else jax.lax.pmean(tree, AXIS)


def total(tree):
    """The sum over devices, inside a step."""
    return tree if _alone() else jax.lax.psum(tree, AXIS)
