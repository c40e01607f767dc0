"""Data parallelism: the only module that says pmap.

Every device holds the whole state and its slice of the batch. The state is unmapped (in_axes and
out_axes are None), so it has its natural shape everywhere outside of a step, and neither a
checkpoint nor a notebook meets a device axis.

Two devices can share one network, AlexNet's: then `devices` are pairs. A pair has a slice of the
batch, and each of its devices holds one half of the state (see `models.layers.division`). The state
has its natural shape here, too.

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
from models.layers import backend, division
from train_lib.distributed import memory, processes

AXIS = "batch"
TOWER = "tower"  # the axis of the devices that share a network
# What an output of a step is: a state, equal on all devices, or one slice per entry of `Devices`.
_STATE, _EQUAL, _SLICED = "state", "equal", "sliced"
# One entry for each slice of a batch: a device, or the devices that share a network.
Devices = Sequence[jax.Device] | Sequence[tuple[jax.Device, ...]]
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
            " the same command, with --allow_config_change if the config has changed, then resumes"
            " from the last checkpoint"
        ) from error


def at_most(count: int) -> int:
    """`count` devices, or 0 (all) if there are fewer. For a run from a larger machine."""
    return count if count <= len(jax.local_devices()) * processes.count() else 0


def local_devices(count: int, per_network: int = 1) -> Devices:
    """The first devices of this process: its share of `count` devices, or all if count is 0.

    per_network: the number of devices that share a network.
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
    devices = available[: count // process_count] if count else available
    return devices if per_network == 1 else _grouped(devices, per_network)


def _grouped(devices: Sequence[jax.Device], size: int) -> Devices:
    """Groups of `size` devices. Raises UserError if one is left, or for several processes."""
    field = f"config.devices_per_network={size}"
    if processes.count() > 1:
        raise UserError(f"{field} works in one process only: start one, or set it to 1")
    if len(devices) % size:
        raise UserError(
            f"{field} does not divide the number of devices, which is {len(devices)} (of"
            f" {len(jax.local_devices())}): set another config.num_devices, or"
            " config.devices_per_network=1"
        )
    return [tuple(devices[i : i + size]) for i in range(0, len(devices), size)]


def each(devices: Devices) -> list[jax.Device]:
    """All devices of the entries of `devices`."""
    return list(np.array(devices).flat)


def global_device_count(devices: Devices) -> int:
    """The number of devices of all processes, each of which has as many as `devices`."""
    return len(each(devices)) * processes.count()


def check_batch_size(batch_size: int, devices: Devices) -> None:
    """Raises UserError if a batch does not divide over the devices of all processes."""
    count = len(devices) * processes.count()
    if batch_size % count:
        nearest = max(count, round(batch_size / count) * count)
        what = "pairs of devices" if _share_networks(devices) else "devices"
        raise UserError(
            f"config.batch_size={batch_size} is not divisible by the number of {what} ({count}):"
            f" use {nearest}, or set config.num_devices"
        )


def replicate(tree, devices: Devices):
    """A copy of `tree` on every device, with the same sharding as the output of a step.

    With another sharding the first step would be compiled twice. Devices that share a network get
    their parts of the copy.
    """
    if not _share_networks(devices):
        return jax.device_put(tree, _sharding(devices))
    mesh = _mesh(devices)
    return jax.device_put(tree, jax.tree.map(lambda leaf: NamedSharding(mesh, _part(leaf)), tree))


def scatter(batch, devices: Devices):
    """Starts to copy a batch to the devices. Leaves are [devices, ...], one slice per entry."""
    return jax.device_put(batch, _sharding(devices, AXIS))


def _share_networks(devices: Devices) -> bool:
    return isinstance(devices[0], tuple)


def _mesh(devices: Devices) -> Mesh:
    array = np.array(devices)
    return Mesh(array, (AXIS, TOWER)[: array.ndim])


def _sharding(devices: Devices, *axes: str) -> NamedSharding:
    return NamedSharding(_mesh(devices), PartitionSpec(*axes))


def _part(leaf) -> PartitionSpec:
    """How devices that share a network divide an array of its state: along its last axis.

    This is the axis of a layer's maps or units, in kernels, biases, and what belongs to them, such
    as velocities. Numbers without axes are on all devices.
    """
    return PartitionSpec(*[None] * (leaf.ndim - 1), TOWER) if leaf.ndim else PartitionSpec()


def train_step(
    step: Callable, devices: Devices, data: tuple = (), options: dict | None = None
) -> Callable:
    """step(state, batch) -> (state, record) on the devices of all processes; the state is donated.

    devices: of this process. Batch leaves are [devices, ...]; state and record are equal on all
    devices. data: further arguments of step, which `replicate` has put on the devices. options: of
    the compiler; None for `backend.compiler_options`.
    """
    all_devices, outputs = _devices_of_all_processes(devices), (_STATE, _EQUAL)
    run = _mapped(step, all_devices, outputs, donate_argnums=(0,), options=options, data=data)
    return (lambda state, batch: run(state, batch, *data)) if data else run


def have_own_memory(devices: Devices) -> bool:
    """Whether the devices are accelerators with memory of their own, each with its own network."""
    return not _share_networks(devices) and each(devices)[0].platform != "cpu"


def eval_step(step: Callable, devices: Devices) -> Callable:
    """step(state, batch) -> (sums, examples) on this process's devices.

    Batch leaves are [devices, ...]; sums are equal on all devices, examples are [devices, ...].
    """
    return _mapped(step, devices, (_EQUAL, _SLICED))


def predict_step(step: Callable, devices: Devices) -> Callable:
    """step(state, batch) -> outputs [n, ...] on this process's devices, as [devices, n, ...]."""
    return _mapped(step, devices, _SLICED)


def _mapped(step: Callable, devices, outputs, donate_argnums=(), options=None, data=()) -> Callable:
    """`step(state, batch, *data)` under pmap, compiled with the options of the devices' backend.

    `jax.pmap` takes no compiler options, so it is traced inside `jax.jit`, which does. Only
    `jax.pmap` itself can use the devices of several processes: those steps have no options.

    outputs: what the step's outputs are, for example (_EQUAL, _SLICED).
    """
    if _share_networks(devices):
        mapped = _divided(step, devices, outputs)
    else:
        out_axes = jax.tree.map({_STATE: None, _EQUAL: None, _SLICED: 0}.get, outputs)
        arguments = dict(
            axis_name=AXIS,
            in_axes=(None, 0, *[None] * len(data)),
            out_axes=out_axes,
            devices=list(devices),
        )
        if any(device.process_index != jax.process_index() for device in devices):
            return jax.pmap(step, donate_argnums=donate_argnums, **arguments)
        mapped = jax.pmap(step, **arguments)
    if options is None:
        options = backend.compiler_options(each(devices)[0].platform)
    return jax.jit(mapped, donate_argnums=donate_argnums, compiler_options=options)


def _divided(step: Callable, devices, outputs) -> Callable:
    """As `jax.pmap` does it in `_mapped`, on devices that share networks."""

    def on_device(state, batch):
        with division.divided(TOWER):
            results = step(state, jax.tree.map(lambda leaf: leaf.squeeze(0), batch))
        return jax.tree.map(
            lambda kind, result: _with_first_axis(result) if kind == _SLICED else result,
            outputs,
            results,
        )

    def run(state, batch):
        parts = jax.tree.map(_part, state)
        specs = {_STATE: parts, _EQUAL: PartitionSpec(), _SLICED: PartitionSpec(AXIS)}
        return jax.shard_map(
            on_device,
            mesh=_mesh(devices),
            in_specs=(parts, specs[_SLICED]),
            out_specs=jax.tree.map(specs.get, outputs),
            check_vma=False,  # as in pmap; `division` relies on it
        )(state, batch)

    return run


def _with_first_axis(tree):
    return jax.tree.map(lambda leaf: leaf[None], tree)


def _devices_of_all_processes(devices: Devices) -> Devices:
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
    """Inside a step: the number of its device, or pair, among those of all processes."""
    return jax.lax.axis_index(AXIS)


def mean(tree):
    """Inside a step: the mean over devices."""
    return tree if _is_single_device() else jax.lax.pmean(tree, AXIS)


def total(tree):
    """Inside a step: the sum over devices."""
    return tree if _is_single_device() else jax.lax.psum(tree, AXIS)


def on_any_part(flags: jax.Array) -> jax.Array:
    """Inside a step: whether each flag, bool, is true on a device that shares this network."""
    return jax.lax.psum(flags, TOWER) > 0 if division.axis_name() else flags


def _is_single_device() -> bool:
    # A sum over one device would only copy its operand.
    return jax.lax.psum(1, AXIS) == 1
