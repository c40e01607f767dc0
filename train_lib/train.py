"""Training: from a config and a folder to the final state.

`train_and_evaluate` is the way in for the command line, notebooks and tests alike.
"""

import contextlib
import pathlib
import sys

from ml_collections import ConfigDict

from errors import UserError
from input_pipeline import sources
from train_lib import console, experiment, foreign, optimizers, plans, rates, warm_start
from train_lib import state as state_lib
from train_lib import workdir as folder
from train_lib.checkpoints import Checkpoints
from train_lib.distributed import lock, parallel, processes
from train_lib.distributed.signals import STOPPED, StopRequest
from train_lib.loop import NotFinite, Run
from train_lib.steps import make_train_step, several


class Stopped(Exception):
    """Training was asked to stop, and has saved its state."""

    exit_code = STOPPED
    raised_by_all_processes = (
        True  # of several processes; that which saves has done so before they part
    )


def train_and_evaluate(
    config: ConfigDict,
    workdir: str | pathlib.Path,
    allow_config_change: bool = False,
    stop: StopRequest | None = None,
) -> state_lib.TrainState:
    """Trains, or goes on with, the run in `workdir`; returns the final state.

    Writes config.json, dataset.json, statistics.npz (if the config needs any), metrics.jsonl,
    events/, checkpoints/ and plots/ there.
    stop: one that listens already; by default, one that does so while this trains.
    Raises UserError for whatever the user can put right, Stopped after SIGTERM or Ctrl-C.

    Of several processes (see `processes`) all call this; the first alone needs the workdir.
    """
    workdir = pathlib.Path(workdir)
    if config.deterministic:
        parallel.use_deterministic_kernels()
    try:
        with contextlib.nullcontext(stop) if stop else StopRequest() as stop:
            return _in_folder(config, workdir, allow_config_change, stop)
    except BrokenPipeError:  # whoever read our output has left
        raise
    except OSError as error:  # wherever a disk is full or broken
        raise UserError(
            f"cannot go on in {workdir} ({error}): free some space or check the folder, then run"
            " the same command again"
        ) from error


def _in_folder(config, workdir: pathlib.Path, allow_config_change: bool, stop: StopRequest):
    """`train_and_evaluate`, once the folder can be the run's and no other's."""
    config = foreign.settled(config, workdir)
    if config.init_from and processes.is_first() and not folder.has_checkpoints(workdir):
        warm_start.check(config.init_from)
    exp = experiment.build(config, workdir)
    experiment.check_memory(exp)
    parallel.batch_per_device(
        config.batch_size, parallel.global_device_count(exp.devices), "config.batch_size"
    )
    train_split = exp.train_split
    test_split = sources.load(config.dataset, config.dataset.test_split)
    plan = plans.make_plan(config, len(train_split))
    processes.check_same("data set", [len(train_split), len(test_split), *exp.info.class_names])
    with contextlib.ExitStack() as held:
        if processes.is_first():
            folder.open_for_training(workdir, config, allow_config_change)
            held.enter_context(lock.held(workdir))
            # Again: another run may have made the folder its own meanwhile.
            folder.open_for_training(workdir, config, allow_config_change)
        return _train(exp, plan, workdir, train_split, test_split, stop)


def make_step(exp, plan):
    """(train_step, optimizer, rate) of an experiment; see `make_train_step` and `rates.Rate`."""
    config = exp.config
    rate = rates.for_config(config, plan.steps_per_epoch, plan.total_steps)
    optimizer = optimizers.make_optimizer(config.optimizer, rate, plan.steps_per_epoch)
    train_step = make_train_step(
        exp.module,
        exp.loss,
        optimizer,
        exp.transform,
        config.seed,
        config.log_every_steps,
        exp.drop_scale,
        config.loss.auxiliary_weight,
        config.optimizer.averaging,
        config.not_finite.action == "skip",
    )
    return train_step, optimizer, rate


def _train(exp, plan, workdir: pathlib.Path, train_split, test_split, stop: StopRequest):
    """From the newest checkpoint, or the start, to the end of the plan."""
    config = exp.config
    step_function, optimizer, rate = make_step(exp, plan)
    train_step = parallel.train_step(several(step_function), exp.devices)
    checkpoints, state, origin = _beginning(exp, optimizer, workdir)
    step, times = int(state.step), rates.times_rolled_back(state.opt_state)
    if step > plan.total_steps:
        raise UserError(
            f"{workdir} is at step {step}, but this config ends at step {plan.total_steps}: raise"
            " config.epochs, or choose another --workdir"
        )
    statistics = exp.statistics  # of all processes together
    if processes.is_first():
        folder.describe(workdir, config, exp.info, statistics, len(train_split))
        parameters = experiment.count_parameters(state)
        _announce(exp, plan, workdir, parameters, origin, train_split, test_split, step)
    processes.share_stop_request(stop)
    skipped = 0
    while True:
        run = Run(exp, plan, workdir, checkpoints, rate, train_split, test_split)
        run.skipped_before = skipped
        if checkpoints:
            processes.delay_exit_while(checkpoints.is_saving)
        try:
            if origin:  # from here on the run needs the other one no more
                checkpoints.save(0, state)
            state = parallel.replicate(state, exp.devices)
            state = run.train(state, step, train_step, stop)
            # A pending save is waited for; its failure fails the run.
            if checkpoints:
                with run.progress.timed("saving"):
                    checkpoints.wait()
            run.close()  # the bar, too: what is said next has a line of its own
            processes.print_once(run.progress.summary(), file=sys.stderr)
            break
        except BaseException as error:
            times += 1
            may_go_back = (
                config.not_finite.action == "roll_back" and times <= config.not_finite.limit
            )
            if not isinstance(error, NotFinite) or not may_go_back:
                with contextlib.suppress(Exception):  # the first error is the one to tell
                    run.close()
                raise
            said, skipped = str(error).partition(":")[0], run.skipped
            run.close()
        checkpoints, state, origin = _beginning(exp, optimizer, workdir)
        step = int(state.step)
        state = state.replace(opt_state=rates.rolled_back(state.opt_state, times))
        factor = config.not_finite.rate_factor**times
        processes.print_once(
            f"{said}: going back to step {step}, with {factor:g} of the rate ({times} of at most"
            f" {config.not_finite.limit} times)",
            file=sys.stderr,
        )
    if not run.is_complete():
        processes.wait_for_signal_name(stop)
        raise Stopped(
            f"stopped by {stop.signal_name or 'a signal'} at step {int(state.step)}, saved in"
            f" {workdir}: the same command goes on from there"
        )
    run.finish(state)
    return state


def _beginning(exp, optimizer, workdir: pathlib.Path):
    """(checkpoints, state, origin) with which a run begins, or goes on.

    Where it begins: 1. the newest good checkpoint of this folder, 2. the weights of another run
    (config.init_from, whose `warm_start.Origin` is the origin), 3. scratch.
    """
    config = exp.config
    state = state_lib.for_config(exp, optimizer)
    checkpoints = origin = None
    if processes.is_first():
        checkpoints = Checkpoints(workdir, config.checkpoint.keep)
        restored = checkpoints.restore(state)
        if restored is not None:
            _, state = restored
        elif config.init_from:
            name, read = config.init_from, None
            if foreign.is_foreign(name):
                read = (0, foreign.fitting(config, exp.module, exp.input_shape))
            state, origin = warm_start.take_over(state, name, config.init_layers, read)
    return checkpoints, processes.tree_from_first(state), origin


def _announce(exp, plan, workdir, parameters, origin, train_split, test_split, step) -> None:
    """Prints what is about to run."""
    config, count = exp.config, parallel.global_device_count(exp.devices)
    together = f", {processes.count()} processes" if processes.count() > 1 else ""
    copy = f" ({exp.info.copy.description})" if exp.info.copy else ""
    console.opening_block(
        {
            "model": f"{config.model.name}, {parameters:,} parameters, {config.model.dtype}",
            "data": f"{config.dataset.name}, {len(train_split):,} to train,"
            f" {len(test_split):,} to test{copy}",
            "devices": f"{count} x {exp.devices[0].device_kind} ({exp.devices[0].platform})"
            + together,
            "batch": f"{config.batch_size}, {config.batch_size // count} a device",
            "rate": optimizers.describe(
                config.optimizer, config.schedule, rates.rate_scale(config)
            ),
            **(origin.rows() if origin else {}),
            "steps": f"{plan.total_steps:,} ({config.epochs:g} epochs of"
            f" {plan.steps_per_epoch:,.1f})" + (f", going on at {step:,}" if step else ""),
            "outputs": str(workdir),
        }
    )
