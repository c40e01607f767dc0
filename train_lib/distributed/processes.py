"""Several processes that train one net: how they come together, and what they tell each other.

One process a machine (or an accelerator), all started with the same command; process 0 alone reads
and writes the run's folder. Everything here is also right for a single process, which needs no
`join`. The devices' own traffic is `parallel`'s.
"""

import contextlib
import ctypes
import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

import jax
import numpy as np

from errors import TryAgain, UserError, one_line
from train_lib.distributed import shell
from train_lib.distributed.peers import Peers

_peers: Peers | None = None
_CHUNK = 2**26  # bytes that are sent to all at once


def count() -> int:
    """How many processes there are."""
    return _peers.count if _peers else 1


def index() -> int:
    """This process's number, from 0."""
    return _peers.index if _peers else 0


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return index() == 0


def join(
    coordinator: str,
    number: int,
    process: int,
    what: str,
    local_devices: list[int] | None = None,
    patience: float = 50.0,
    silence: float = 30.0,
) -> None:
    """Waits for all `number` processes; from then on JAX knows the devices of all.

    coordinator: HOST:PORT, where process 0 is to be found. process: this one's number.
    what: a word that must be the same for all. local_devices: the numbers of this machine's
    devices that this process may use. patience, silence: seconds to wait for the others, and
    after which one that does not answer ends the run of all.
    Raises UserError if they do not come together (TryAgain where a new start may mend it), and
    ends as `all_finish_or_fail` where one is lost meanwhile. Nothing of JAX may have run before.
    """
    global _peers
    if number < 1 or not 0 <= process < number:
        raise UserError(
            f"--num_processes={number} --process_id={process}: they are numbered from 0"
        )
    _peers = Peers(coordinator, number, process, patience, silence, what)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM for its own, away from `signals`.
    jax.config.update("jax_enable_preemption_service", False)
    _delay_abort()
    with _report_errors_to_peers():
        try:
            jax.distributed.initialize(
                f"{_peers.host}:{_peers.port}",
                number,
                process,
                local_device_ids=local_devices,
                cluster_detection_method="deactivate",
                initialization_timeout=round(patience) + 60,
                # Who is lost is the coordinator's to find, not JAX's heartbeats'.
                heartbeat_timeout_seconds=10**6,
                # Process 0 starts a service in any case; this one nobody uses.
                coordinator_bind_address="127.0.0.1:0",
            )
            found = (jax.process_index(), jax.process_count())
            if found != (process, number):
                raise UserError(
                    f"this is process {process} of {number}, and to its TPU pod {found[0]} of"
                    f" {found[1]}: give --distributed, which asks the pod"
                )
            with shell.without_stdout():  # Gloo writes there as it connects
                gather()
        except jax.errors.JaxRuntimeError as error:
            _peers.wait_for_report_of_loss()  # of one that was lost on the way
            raise TryAgain(
                f"the processes do not connect ({one_line(error)}): are all ports open between"
                " their machines? Start all again"
            ) from error


def _delay_abort() -> None:
    """Lets an abort of this process wait 6 s, for news of what it comes of.

    JAX's client aborts when it finds that its service is gone, as where process 0's whole container
    was killed, and no option of it prevents that. `Peers` notices as well, says who it was, and
    ends this process with the status that asks for a new start; it must only come first.
    """
    if os.name == "posix":
        libc = ctypes.CDLL(None)
        # A handler gets the number of its signal: for this one 6.
        libc.signal(int(signal.SIGABRT), ctypes.cast(libc.sleep, ctypes.c_void_p))


def detect() -> tuple[str, int, int, list[int] | None]:
    """(coordinator, number, process, local_devices) from SLURM, Open MPI, Kubernetes or a TPU pod.

    Raises UserError where none of them started this process, TryAgain where one does not answer.
    """
    from jax._src import clusters  # what `jax.distributed.initialize` itself asks; not public

    try:
        found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, 60
        )
    except (OSError, RuntimeError) as error:  # a name not yet known, a service not yet there
        raise TryAgain(
            f"--distributed: the other processes are not to be found ({one_line(error)}): start"
            " all again"
        ) from error
    if None in found[:3]:
        raise UserError(
            "--distributed: neither SLURM, Open MPI, Kubernetes nor a TPU pod has started this"
            " process: give --coordinator, --num_processes and --process_id"
        )
    address, number, process, local = found
    return address, int(number), int(process), local and list(local)


@contextlib.contextmanager
def all_finish_or_fail():
    """Around what the processes do together: all reach its end, or all end with one's error.

    If all processes raise an exception, it has a true attribute `raised_by_all_processes`.
    """
    with _report_errors_to_peers():
        try:
            yield
        except BaseException as error:
            if _peers and getattr(error, "raised_by_all_processes", False):
                _leave_group()
            raise
        if _peers:
            _leave_group()


@contextlib.contextmanager
def _report_errors_to_peers():
    """An error in here is the end of all of them, unless it comes of one that is lost."""
    try:
        yield
    except BaseException as error:
        if _peers:
            words = str(error) or type(error).__name__
            code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
            if not hasattr(error, "exit_code") and isinstance(error, Exception):
                # Perhaps one that is lost took it along: the news of that is on its way.
                _peers.wait_for_report_of_loss()
                traceback.print_exc()
                _peers.report_failure(words, code)
                shell.exit_now(code)
            _peers.report_failure(words, code)
        raise


def _leave_group() -> None:
    """Once all have come here: nobody waits for one that has left."""
    global _peers
    _peers.wait_for_peers()
    jax.distributed.shutdown()
    _peers.leave()
    _peers = None


def delay_exit_while(is_saving: Callable[[], bool]) -> None:
    """An end because of another process waits a moment while `is_saving()`."""
    if _peers:
        _peers.is_saving = is_saving


def check_same(what: str, value) -> None:
    """Raises UserError, naming one that differs, unless all processes have the same value.

    value: numbers or strings in lists, as JSON has them.
    """
    own = np.frombuffer(json.dumps(value).encode(), np.uint8)
    values = [one["value"].tobytes() for one in gather(value=own)]
    for process, other in enumerate(values):
        if other != values[0]:
            raise UserError(
                f"process {process} has another {what} ({other.decode()}) than process 0"
                f" ({values[0].decode()}): give all the same"
            )


def share_stop_request(stop) -> None:
    """Tells the others when `stop`, a `signals.StopRequest`, is asked for, and it when they are."""
    if _peers:
        _peers.stop = stop


def wait_for_signal_name(stop) -> None:
    """Gives the news of which process was asked to stop a moment to come."""
    end = time.monotonic() + 3
    while _peers and stop.signal_name is None and time.monotonic() < end:
        time.sleep(0.05)


def print_once(*lines: str, file=None) -> None:
    """Prints, in the first process alone."""
    if is_first():
        print(*lines, sep="\n", file=file or sys.stdout, flush=True)


def bytes_from_first(make: Callable[[], bytes]) -> bytes:
    """What `make()` gives in the first process, in all of them; the others do not call it."""
    if count() == 1:
        return make()
    content = make() if is_first() else b""
    _peers.wait_for_peers()  # collectives give up on one that is late, and `make` may take long
    size = int.from_bytes(_broadcast(np.array([len(content)], np.uint64).view(np.uint8)), "little")
    parts = []
    for start in range(0, size, _CHUNK):
        length = min(_CHUNK, size - start)
        part = np.zeros(length, np.uint8)
        if is_first():
            part[:] = np.frombuffer(content, np.uint8, length, start)
        parts.append(_broadcast(part))
    return b"".join(parts)


def _broadcast(values: np.ndarray) -> bytes:
    """The first process's bytes; the others give as many."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(values)).tobytes()


def tree_from_first(tree):
    """The first process's tree of arrays, in all of them, bit for bit.

    The others give a tree of the same structure, shapes and dtypes.
    """
    if count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    content = bytes_from_first(lambda: b"".join(np.asarray(leaf).tobytes() for leaf in leaves))
    found, start = [], 0
    for leaf in leaves:
        dtype, size = np.dtype(leaf.dtype), int(np.prod(leaf.shape, dtype=np.int64))
        flat = np.frombuffer(content, dtype, size, start)
        found.append(flat.reshape(leaf.shape).copy())
        start += flat.nbytes
    return structure.unflatten(found)


def arrays_from_first(make: Callable[[], dict]) -> dict[str, np.ndarray]:
    """As `bytes_from_first`, of named arrays."""
    return _unpack(bytes_from_first(lambda: _pack(make())))


def _pack(arrays: dict) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _unpack(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content), allow_pickle=False) as npz:
        return dict(npz)


def gather(**arrays: np.ndarray) -> list[dict[str, np.ndarray]]:
    """The arrays of every process, in all of them, by number. Their lengths may differ."""
    if count() == 1:
        return [arrays]
    from jax.experimental import multihost_utils

    content = np.frombuffer(_pack(arrays), np.uint8)
    _peers.wait_for_peers()
    own = np.array([len(content)], np.uint64).view(np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(own)).copy().view(np.uint64)[:, 0]
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(content)] = content
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [_unpack(row[: int(size)].tobytes()) for row, size in zip(rows, sizes, strict=True)]
