"""The environment of a command: quiet libraries, devices, and the other processes."""

import contextlib
import dataclasses
import os

from absl.flags import FlagValues
from ml_collections import ConfigDict

from configs import compare
from input_pipeline import sources
from train_lib.distributed import shell


@contextlib.contextmanager
def environment(mode: str, config: ConfigDict, values: FlagValues):
    """Prepares the devices, and joins the other processes, if any, around a command.

    values: the parsed flags. Raises UserError for missing devices, processes or data sets.
    """
    is_group = values.distributed or bool(values.coordinator)
    needs_data = mode in ("train", "evaluate")
    if needs_data and not is_group:
        sources.check(config.dataset)  # before the seconds that JAX takes to load
    if not values["verbosity"].present:
        shell.silence_libraries()
    if mode in ("summary", "export"):
        os.environ["JAX_PLATFORMS"] = "cpu"  # they compute little, and the devices may be in use
    # Canon draws without a window. Shell commands of a notebook inherit the backend of its kernel.
    os.environ["MPLBACKEND"] = "agg"
    from train_lib.distributed import parallel, processes

    if config.deterministic and mode not in ("summary", "export"):
        parallel.use_deterministic_kernels()  # before JAX looks for devices
    with contextlib.ExitStack() as stack:
        if is_group:
            _join(mode, config, values)
            stack.enter_context(processes.all_finish_or_fail())
            if needs_data:
                sources.check(config.dataset)  # here, so that the other processes get the error
        stack.enter_context(parallel.explain_device_errors())
        yield


def _join(mode: str, config: ConfigDict, values: FlagValues) -> None:
    """Joins the other processes. Raises UserError if they do not all start."""
    from train_lib.distributed import processes

    if values.distributed:
        group = processes.detect_group()
    else:
        group = processes.Group(values.coordinator, values.num_processes, values.process_id)
    group = dataclasses.replace(
        group, start_timeout=values.start_timeout, peer_timeout=values.peer_timeout
    )
    processes.join(group, task=compare.digest(mode, values.images, config))
