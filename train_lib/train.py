"""Training: from a config and a folder to the final state.

`train_and_evaluate` is the way in for the command line, notebooks and tests alike.
"""

import contextlib
import pathlib

from ml_collections import ConfigDict

from errors import UserError
from input_pipeline import sources
from train_lib import config as config_lib
from train_lib import console, experiment, initial, lock, optimizers, parallel, processes, rates
from train_lib import state as state_lib
from train_lib import workdir as folder
from train_lib.checkpoints import Checkpoints
from train_lib.loop import Run
from train_lib.signals import StopRequest
from train_lib.steps import make_train_step, several


class Stopped(Exception):
    """Training was asked to stop, and has saved its state."""

    exit_code = 75  # EX_TEMPFAIL: a scheduler may start the same command again
    of_all = True  # of several processes; that which saves has done so before they part


def train_and_evaluate(
    config: ConfigDict, workdir: str | pathlib.Path, allow_config_change: bool = False
) -> state_lib.TrainState:
    """Trains, or goes on with, the run in `workdir`; returns the final state.

    Writes config.json, dataset.json, statistics.npz (if the config needs any), metrics.jsonl,
    events/, checkpoints/ and plots/ there.
    Raises UserError for whatever the user can put right, Stopped after SIGTERM or Ctrl-C.

    Of several processes (see `processes`) all call this; the first alone needs the workdir.
    """
    workdir = pathlib.Path(workdir)
    if config.init_from and processes.is_first() and not folder.has_checkpoints(workdir):
        initial.check(config.init_from)
    exp = experiment.build(config, workdir)
    experiment.check_memory(exp)
    parallel.per_device(config.batch_size, parallel.total_count(exp.devices), "config.batch_size")
    train_split = exp.train_split
    test_split = sources.load(config.dataset, config.dataset.test_split)
    plan = config_lib.make_plan(config, len(train_split))
    with contextlib.ExitStack() as held:
        if processes.is_first():
            folder.open_for_training(workdir, config, allow_config_change)
            held.enter_context(lock.held(workdir))
            # Again: another run may have made the folder its own meanwhile.
            folder.open_for_training(workdir, config, allow_config_change)
        return _train(exp, plan, workdir, train_split, test_split)


def make_step(exp, plan):
    """(train_step, optimizer, rate) of an experiment; see `make_train_step` and `rates.Rate`."""
    config = exp.config
    rate = rates.make_rate(
        config.schedule, plan.steps_per_epoch, plan.total_steps, config_lib.rate_scale(config)
    )
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
    )
    return train_step, optimizer, rate


def _train(exp, plan, workdir: pathlib.Path, train_split, test_split) -> state_lib.TrainState:
    """From the newest checkpoint, or the start, to the end of the plan."""
    config = exp.config
    step_function, optimizer, rate = make_step(exp, plan)

    # Where the run begins: 1. the newest good checkpoint of this folder, 2. the weights of another
    # run (config.init_from), 3. scratch.
    state = state_lib.create(
        exp.module, optimizer, config.seed, exp.input_shape, config.optimizer.averaging > 0
    )
    parameters = experiment.count_parameters(state)
    checkpoints = origin = None
    if processes.is_first():
        checkpoints = Checkpoints(workdir, config.checkpoint.keep)
        restored = checkpoints.restore(state)
        if restored is not None:
            _, state = restored
        elif config.init_from:
            state, origin = initial.take_over(state, config.init_from, config.init_layers)
    state = processes.tree_from_first(state)
    step = int(state.step)
    if step > plan.total_steps:
        raise UserError(
            f"{workdir} is at step {step}, but this config ends at step {plan.total_steps}: raise"
            " config.epochs, or choose another --workdir"
        )
    statistics = exp.statistics  # of all processes together
    if processes.is_first():
        folder.describe(workdir, config, exp.info, statistics)
        _announce(exp, plan, workdir, parameters, origin, train_split, test_split, step)
    state = parallel.replicate(state, exp.devices)
    run = Run(exp, plan, workdir, checkpoints, rate, train_split, test_split)
    try:
        with StopRequest() as stop:
            processes.share_stop(stop)
            if origin:  # from here on the run needs the other one no more
                checkpoints.save(0, state)
            train_step = parallel.train_step(several(step_function), exp.devices)
            state = run.train(state, step, train_step, stop)
            # A pending save is waited for; its failure fails the run.
            if checkpoints:
                checkpoints.wait()
    finally:
        run.close()
    if int(state.step) < plan.total_steps:
        raise Stopped(
            f"stopped by {stop.name} at step {int(state.step)}, saved in {workdir}: the same"
            " command goes on from there"
        )
    run.finish(state)
    return state


def _announce(exp, plan, workdir, parameters, origin, train_split, test_split, step) -> None:
    """Prints what is about to run."""
    config, count = exp.config, parallel.total_count(exp.devices)
    together = f", {processes.count()} processes" if processes.count() > 1 else ""
    copy = f" ({exp.info.copy.words})" if exp.info.copy else ""
    console.opening_block(
        {
            "model": f"{config.model.name}, {parameters:,} parameters, {config.model.dtype}",
            "data": f"{config.dataset.name}, {len(train_split):,} to train,"
            f" {len(test_split):,} to test{copy}",
            "devices": f"{count} x {exp.devices[0].device_kind} ({exp.devices[0].platform})"
            + together,
            "batch": f"{config.batch_size}, {config.batch_size // count} a device",
            "rate": optimizers.describe(
                config.optimizer, config.schedule, config_lib.rate_scale(config)
            ),
            **(origin.rows() if origin else {}),
            "steps": f"{plan.total_steps:,} ({config.epochs:g} epochs of"
            f" {plan.steps_per_epoch:,.1f})" + (f", going on at {step:,}" if step else ""),
            "outputs": str(workdir),
        }
    )
