"""Training: from a config and a folder to the final state.

`train_and_evaluate` is the entry for the command line, notebooks and tests alike.
"""

import contextlib
import dataclasses
import math
import pathlib
import sys
from collections.abc import Callable, Collection

import jax
import numpy as np
from ml_collections import ConfigDict

from errors import TryAgain, UserError
from input_pipeline import sources
from train_lib import optimizers, schedules, warm_start
from train_lib import progress as progress_lib
from train_lib import state as state_lib
from train_lib.checkpoints import Checkpoints
from train_lib.distributed import lock, memory, parallel, processes
from train_lib.distributed.signals import StopRequest
from train_lib.experiment import Experiment, resolve
from train_lib.recorder import NotFinite, Recorder
from train_lib.recorder import read as read_records
from train_lib.steps import make_train_step, several, sharing_stop
from train_lib.workdir import check_same_config, has_checkpoints, make_writable, write_description


class Stopped(Exception):
    """Training was asked to stop, and has saved its state."""

    exit_code = TryAgain.exit_code
    raised_by_all_processes = True  # the first process has saved before they part


@dataclasses.dataclass
class Session:
    """What outlasts a roll-back.

    rolled_back: how often the run went back to a checkpoint, also before it was resumed.
    reason: why it went back the last time, if it did so in this session.
    skipped: how many unreadable images were left out.
    """

    stop: StopRequest
    rolled_back: int = 0
    reason: str = ""
    skipped: int = 0


def train_and_evaluate(
    config: ConfigDict | None,
    workdir: str | pathlib.Path,
    allow_config_change: bool = False,
    stop: StopRequest | None = None,
    given: Collection[str] = (),
) -> state_lib.TrainState:
    """Trains or resumes the run in `workdir`, and returns its final state.

    Writes config.json, dataset.json, statistics.npz (if the config needs any), metrics.jsonl,
    events/, checkpoints/ and plots/ there.

    config: None resumes the run of the workdir with the config that it stored.
    stop: a request that listens for signals already; by default one that listens while this trains.
    given: names of the config's fields that the user gave, see `experiment.resolve`.
    Raises UserError for whatever the user can put right, Stopped after SIGTERM or Ctrl-C.

    All of several processes (see `processes`) call this; only the first one needs the workdir.
    """
    with session(workdir, stop) as run:
        exp = resolve(config, workdir, given=given, allow_config_change=allow_config_change)
        check(exp)
        with locked(exp, allow_config_change):
            return with_roll_back(train, exp, compile_step(exp), run)


def with_roll_back(train: Callable, exp: Experiment, train_step: Callable, run: Session):
    """`train`, again from the last checkpoint after each NotFinite, as config.not_finite says."""
    section = exp.config.not_finite
    while True:
        try:
            return train(exp, train_step, run)
        except NotFinite as error:
            run.rolled_back += 1
            if section.action != "roll_back" or run.rolled_back > section.limit:
                raise
            run.reason = str(error).partition(":")[0]


def train(exp: Experiment, train_step: Callable, run: Session) -> state_lib.TrainState:
    """From the newest checkpoint, or the start, to the end of the plan.

    Raises Stopped, with the state saved, if the run was asked to stop.
    """
    checkpoints, state, origin = restore_or_start(exp)
    state = begin(exp, state, origin, run)
    with Recorder(exp, checkpoints, run.stop, int(state.step)) as recorder:
        if origin and checkpoints:  # from here on the run does not need the source any more
            checkpoints.save(0, state)
        state = loop(exp, train_step, parallel.replicate(state, exp.devices), recorder, run)
        recorder.wait()
    processes.print_once(recorder.progress.summary(), file=sys.stderr)
    if not recorder.is_complete():
        processes.wait_for_signal_name(run.stop)
        raise Stopped(
            f"stopped by {run.stop.signal_name or 'a signal'} at step {int(state.step)}, saved in"
            f" {exp.workdir}: the same command resumes it"
        )
    finish(exp, recorder, state, run.skipped)
    return state


def loop(exp: Experiment, train_step: Callable, state, recorder: Recorder, run: Session):
    """Steps until the plan ends, or until the run is to stop. Returns the state, saved if it is."""
    step, ahead = int(state.step), None
    batches = exp.train_batches(step)

    def read(running=None):
        """The next inputs, on their way to the devices, which compute `running` meanwhile."""
        with recorder.progress.waiting(running):
            inputs = next(batches, None)
        if inputs and processes.count() > 1:
            inputs = (inputs, np.full(len(exp.devices), run.stop(), np.int32))
        return inputs and parallel.scatter(inputs, exp.devices)

    try:
        while True:
            state, is_over = recorder.between_steps(state, step)
            if is_over:
                return state
            inputs = ahead or read()
            recorder.progress.running()
            state, records = train_step(state, inputs)
            ahead = read(records)
            recorder.dispatched(step, records)
            step += exp.plan.dispatch(step)
    finally:
        run.skipped += batches.skipped
        batches.close()  # and the workers that decode


def compile_step(exp: Experiment) -> Callable:
    """run(state, inputs) -> (state, records): a dispatch of steps on all devices.

    inputs: a batch, and for several processes whether this process was asked to stop.
    """
    steps = several(make_train_step(exp.recipe))
    return parallel.train_step(sharing_stop(steps) if processes.count() > 1 else steps, exp.devices)


@contextlib.contextmanager
def session(workdir: str | pathlib.Path, stop: StopRequest | None):
    """Listens for signals, and turns errors of the disk into a UserError."""
    try:
        with contextlib.nullcontext(stop) if stop else StopRequest() as stop:
            yield Session(stop)
    except BrokenPipeError:  # the reader of the output has left
        raise
    except OSError as error:
        raise UserError(
            f"cannot continue in {workdir} ({error}): free some space or check the folder, then run"
            " the same command again"
        ) from error


@contextlib.contextmanager
def locked(exp: Experiment, allow_config_change: bool):
    """Makes the folder and keeps other runs out of it; the first of several processes does so."""
    if not processes.is_first():
        yield
        return
    make_writable(exp.workdir)
    with lock.held(exp.workdir):
        if not allow_config_change:  # another run may have started here since `resolve`
            check_same_config(exp.workdir, exp.config)
        yield


def restore_or_start(exp: Experiment):
    """(checkpoints, state, origin) of the run's first or next step.

    The state comes from: 1. the newest good checkpoint of the workdir, 2. the weights that
    config.init_from names (then origin is a `warm_start.Origin`), 3. scratch.
    """
    state = exp.new_state()
    checkpoints = origin = None
    if processes.is_first():
        checkpoints = Checkpoints(exp.workdir, exp.config.checkpoint.keep)
        processes.delay_exit_while(checkpoints.is_saving)
        restored = checkpoints.restore(state)
        if restored is not None:
            _, state = restored
        elif exp.config.init_from:
            state, origin = warm_start.warm_start(exp, state)
    return checkpoints, processes.tree_from_first(state), origin


def begin(exp: Experiment, state, origin: warm_start.Origin | None, run: Session):
    """Stores and prints the facts about a run, or prints that it goes back. Returns the state."""
    step, section = int(state.step), exp.config.not_finite
    if run.reason:
        processes.print_once(
            f"{run.reason}: going back to step {step}, with"
            f" {section.rate_factor**run.rolled_back:g} of the rate ({run.rolled_back} of at most"
            f" {section.limit} times)",
            file=sys.stderr,
        )
        return state.replace(opt_state=schedules.with_roll_backs(state.opt_state, run.rolled_back))
    if step > exp.plan.total_steps:
        raise UserError(
            f"{exp.workdir} is at step {step}, but this config ends at step"
            f" {exp.plan.total_steps}: raise config.epochs, or choose another --workdir"
        )
    run.rolled_back = schedules.roll_backs(state.opt_state)
    statistics = exp.statistics  # all processes together
    if processes.is_first():
        write_description(exp.workdir, exp.config, exp.info, statistics, len(exp.train_split))
        print_opening(exp, state, origin)
    processes.share_stop_request(run.stop)
    return state


def finish(exp: Experiment, recorder: Recorder, state, skipped: int) -> None:
    """Draws the plots and prints the closing lines. skipped: unreadable images of this process."""
    step, result = recorder.result
    if step != exp.plan.total_steps:  # the run was complete before it began
        result = recorder.evaluate(state)
    counts = processes.gather(skipped=np.int64(skipped))
    if not processes.is_first():
        return
    from train_lib.pictures import run_plots  # Matplotlib: not before the first step

    run_plots.write_all(exp, read_records(exp.workdir), state.variables()["params"], result)
    name, dataset = exp.config.dataset.name, exp.config.dataset
    split = sources.split_name(dataset, dataset.test_split)
    skipped = sum(int(count["skipped"]) for count in counts)
    if skipped:
        print(f"{skipped} times an image could not be read, and another stood in for it")
    print(
        f"test error {result.top1_error:.2%} ({round(result.top1_error * result.examples)} of"
        f" {result.examples} images of {name} {split}), loss {result.loss:.4f}, after"
        f" {exp.plan.total_steps} steps",
        f"written to {exp.workdir}: config.json, metrics.jsonl, events/ (TensorBoard),"
        " checkpoints/, plots/",
        sep="\n",
        flush=True,
    )


def print_opening(exp: Experiment, state, origin: warm_start.Origin | None) -> None:
    """Prints the opening block."""
    config, plan, count = exp.config, exp.plan, parallel.global_device_count(exp.devices)
    parameters, step = state_lib.count_parameters(state), int(state.step)
    together = f", {processes.count()} processes" if processes.count() > 1 else ""
    copy = f" ({exp.info.copy.description})" if exp.info.copy else ""
    progress_lib.opening_block(
        {
            "model": f"{config.model.name}, {parameters:,} parameters, {config.model.dtype}",
            "data": f"{config.dataset.name}, {len(exp.train_split):,} to train,"
            f" {len(exp.test_split):,} to test{copy}",
            "devices": f"{count} x {exp.devices[0].device_kind} ({exp.devices[0].platform})"
            + together,
            "batch": f"{config.batch_size}, {config.batch_size // count} a device",
            "rate": optimizers.describe(config.optimizer, config.schedule, exp.rate_scale),
            **(origin.rows() if origin else {}),
            "steps": f"{plan.total_steps:,} ({config.epochs:g} epochs of"
            f" {plan.steps_per_epoch:,.1f})" + (f", resumed at step {step:,}" if step else ""),
            "outputs": str(exp.workdir),
        }
    )


def check(exp: Experiment) -> None:
    """Raises UserError, before anything is written, for a run that this machine cannot train."""
    config = exp.config
    if config.init_from and processes.is_first() and not has_checkpoints(exp.workdir):
        warm_start.check_source(config.init_from)
    check_memory(exp)
    parallel.check_batch_size(config.batch_size, exp.devices)
    sizes = [len(exp.train_split), len(exp.test_split)]
    processes.check_same("data set", [*sizes, *exp.info.class_names])


def check_memory(exp: Experiment) -> None:
    """Raises UserError if the devices cannot hold even parameters and updates, or a batch.

    Parameters, gradient, velocity and average are on each device; a batch's images are spread over
    all devices. Checked beforehand, because a machine that runs out of memory kills the process
    without a message.
    """
    leaves = jax.tree.leaves(state_lib.variable_shapes(exp.module, exp.input_shape))
    copies_of_parameters = 4 if exp.config.optimizer.averaging else 3
    needed = copies_of_parameters * sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    available = memory.total_bytes(exp.devices[0])
    copies = len(exp.devices) if exp.devices[0].platform == "cpu" else 1
    batch = exp.config.batch_size * math.prod(exp.input_shape) * 4 // processes.count()
    if available is not None and batch > available * len(exp.devices) // copies:
        raise UserError(
            f"config.batch_size={exp.config.batch_size}: such a batch has {batch / 1e9:,.0f} GB,"
            f" and a device has {available / 1e9:,.0f} GB: lower it"
        )
    if available is not None and needed * copies > available:
        raise UserError(
            f"{exp.config.model.name} needs {needed * copies / 1e9:,.0f} GB for its parameters"
            f" and their updates, and there are {available / 1e9:,.0f} GB: make it smaller"
        )
