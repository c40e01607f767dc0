"""Several processes that train one network: how they connect, and how they share values.

There is one process per machine (or per accelerator). All are started with the same command. Only
process 0 reads and writes the run's workdir. Without `join` there is a single process, and all
functions of this module work for it, too. `parallel` has the computations that devices share.
"""

import contextlib
import json
import sys
import time
import traceback
from collections.abc import Callable

import jax
import numpy as np
from flax import serialization

from errors import TryAgain, UserError, one_line
from train_lib.distributed import shell
from train_lib.distributed.peers import Group, Peers
from train_lib.distributed.signals import delay_abort

_peers: Peers | None = None
_BROADCAST_BYTES = 2**26  # sent to all processes at once


def count() -> int:
    """The number of processes."""
    return _peers.count if _peers else 1


def index() -> int:
    """This process's number, from 0."""
    return _peers.index if _peers else 0


def is_first() -> bool:
    """Whether this is the process that writes files and prints."""
    return index() == 0


def detect_group() -> Group:
    """The group of this process, as SLURM, Open MPI, Kubernetes or a TPU pod describes it.

    Raises UserError if none of them started this process, TryAgain if one of them does not answer.
    """
    from jax._src import clusters  # not public, but `jax.distributed.initialize` uses it

    try:
        detected = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, 60
        )
    except (OSError, RuntimeError) as error:  # a name or a service is not yet known
        raise TryAgain(
            f"--distributed: the other processes cannot be found ({one_line(error)}): start all"
            " again"
        ) from error
    if None in detected[:3]:
        raise UserError(
            "--distributed: neither SLURM, Open MPI, Kubernetes nor a TPU pod has started this"
            " process: give --coordinator, --num_processes and --process_id"
        )
    address, number, process, local_devices = detected
    return Group(address, int(number), int(process), local_devices and tuple(local_devices))


def join(group: Group, task: str) -> None:
    """Connects all processes of the group, and waits for them. Then JAX knows all their devices.

    task: must be the same in all processes. Call this before JAX computes anything.
    Raises UserError if the processes cannot connect (TryAgain if a new start may succeed).
    If a process is lost meanwhile, this one ends as in `all_finish_or_fail`.
    """
    global _peers
    if not 0 <= group.index < group.count:
        raise UserError(
            f"--num_processes={group.count} --process_id={group.index}: number the processes from 0"
        )
    _peers = Peers(group, task)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # JAX's preemption service would handle SIGTERM, but `signals` must handle it.
    jax.config.update("jax_enable_preemption_service", False)
    delay_abort()
    with _report_errors_to_peers():
        try:
            jax.distributed.initialize(
                f"{_peers.host}:{_peers.jax_port}",
                group.count,
                group.index,
                local_device_ids=group.local_devices,
                cluster_detection_method="deactivate",
                initialization_timeout=round(group.start_timeout) + 60,
                # Canon's coordinator detects lost processes, so JAX's heartbeats are not used.
                heartbeat_timeout_seconds=10**6,
                # JAX always starts a service in process 0. The coordinator's service is used.
                coordinator_bind_address="127.0.0.1:0",
            )
            if (jax.process_index(), jax.process_count()) != (group.index, group.count):
                raise UserError(
                    f"this is process {group.index} of {group.count}, but its TPU pod numbers it"
                    f" {jax.process_index()} of {jax.process_count()}: give --distributed, which"
                    " uses the pod's numbers"
                )
            with shell.without_stdout():  # Gloo prints while it connects the processes
                gather()
        except jax.errors.JaxRuntimeError as error:
            _peers.wait_for_report_of_loss()
            raise TryAgain(
                f"the processes do not connect ({one_line(error)}): check that all ports between"
                " their machines are open, then start all again"
            ) from error


@contextlib.contextmanager
def all_finish_or_fail():
    """A context that all processes leave together. If one of them fails, all of them end.

    If all processes raise the same exception, its attribute `raised_by_all_processes` must be True.
    """
    with _report_errors_to_peers():
        try:
            yield
        except BaseException as error:
            if getattr(error, "raised_by_all_processes", False):
                _leave_group()
            raise
        _leave_group()


@contextlib.contextmanager
def _report_errors_to_peers():
    """Ends all processes after an error in this context, unless a lost process caused the error."""
    try:
        yield
    except BaseException as error:
        if _peers is None:
            raise
        status = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
        is_unexpected = isinstance(error, Exception) and not hasattr(error, "exit_code")
        if is_unexpected:
            _peers.wait_for_report_of_loss()  # a lost process may have caused it
            traceback.print_exc()
        _peers.report_failure(str(error) or type(error).__name__, status)
        if is_unexpected:
            shell.exit_now(status)
        raise


def _leave_group() -> None:
    """Leaves the group, after waiting for all processes to reach this point."""
    global _peers
    if _peers:
        _peers.wait_for_peers()
        jax.distributed.shutdown()
        _peers.leave()
        _peers = None


def delay_exit_while(is_saving: Callable[[], bool]) -> None:
    """If another process ends this one, the exit waits briefly while `is_saving()` is true."""
    if _peers:
        _peers.is_saving = is_saving


def share_stop_request(stop) -> None:
    """Tells all processes when `stop`, a `signals.StopRequest`, is set in one of them."""
    if _peers:
        _peers.stop = stop


def wait_for_signal_name(stop) -> None:
    """Waits up to 3 s until `stop` has the name of the signal that another process received."""
    deadline = time.monotonic() + 3
    while _peers and stop.signal_name is None and time.monotonic() < deadline:
        time.sleep(0.05)


def print_once(*lines: str, file=None) -> None:
    """Prints in the first process only. file: the console, which nobody may read any longer."""
    if is_first():
        with contextlib.suppress(BrokenPipeError) if file else contextlib.nullcontext():
            print(*lines, sep="\n", file=file or sys.stdout, flush=True)


def check_same(name: str, value) -> None:
    """Raises UserError, which names a process that differs, unless all have the same value.

    value: any value that JSON can represent.
    """
    first, *others = [values["value"] for values in gather(value=json.dumps(value))]
    for process, other in enumerate(others, 1):
        if other != first:
            raise UserError(
                f"process {process} and process 0 differ in {name} ({other} and {first}): give all"
                " processes the same"
            )


def bytes_from_first(make: Callable[[], bytes]) -> bytes:
    """Sends the result of `make()` from the first process to all. Only the first one calls it."""
    if count() == 1:
        return make()
    from jax.experimental import multihost_utils

    content = make() if is_first() else b""
    size = gather(size=len(content))[0]["size"]
    parts = []
    for start in range(0, size, _BROADCAST_BYTES):
        part = np.zeros(min(_BROADCAST_BYTES, size - start), np.uint8)
        if is_first():
            part[:] = np.frombuffer(content, np.uint8, len(part), start)
        parts.append(np.asarray(multihost_utils.broadcast_one_to_all(part)).tobytes())
    return b"".join(parts)


def arrays_from_first(make: Callable[[], dict]) -> dict[str, np.ndarray]:
    """Sends the named arrays that `make()` returns from the first process to all."""
    content = bytes_from_first(lambda: serialization.msgpack_serialize(make()))
    return serialization.msgpack_restore(content)


def tree_from_first(tree):
    """Sends the first process's tree of arrays to all, bit for bit.

    The trees of the other processes must have the same structure.
    """
    if count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    arrays = arrays_from_first(lambda: {str(i): leaf for i, leaf in enumerate(leaves)})
    return structure.unflatten(arrays[str(i)] for i in range(len(leaves)))


def gather(**values) -> list[dict]:
    """The values of every process, in process order, in all processes.

    values: NumPy arrays, whose lengths may differ between processes, numbers or strings.
    """
    if count() == 1:
        return [values]
    from jax.experimental import multihost_utils

    content = np.frombuffer(serialization.msgpack_serialize(values), np.uint8)
    _peers.wait_for_peers()  # collectives have a time limit, so all processes must start together
    size = np.array([len(content)], np.uint32)
    sizes = np.asarray(multihost_utils.process_allgather(size))[:, 0]
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(content)] = content
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [
        serialization.msgpack_restore(row[:size].tobytes())
        for row, size in zip(rows, sizes, strict=True)
    ]
