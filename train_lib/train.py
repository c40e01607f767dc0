"""Training: from a config and a folder to the final state.

`train_and_evaluate` is the entry for the command line, notebooks and tests alike.
"""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from command_line import console
from errors import TryAgain, UserError
from input_pipeline import augment, sources
from train_lib import optimizers, schedules
from train_lib import progress as progress_lib
from train_lib import state as state_lib
from train_lib.checkpoints import Checkpoints
from train_lib.distributed import lock, memory, parallel, processes
from train_lib.distributed.signals import StopRequest
from train_lib.experiment import Experiment, resolve
from train_lib.metric_writers import trackio_writer
from train_lib.metric_writers.interface import Opener
from train_lib.recorder import NotFinite, Recorder
from train_lib.recorder import read as read_records
from train_lib.steps import gathering, make_train_step, several, sharing_stop
from train_lib.weights import warm_start
from train_lib.workdir import (
    check_complete,
    check_same_config,
    check_same_data,
    has_checkpoints,
    make_writable,
    write_description,
)


class Stopped(Exception):
    """Training was asked to stop, and has saved its state."""

    exit_code = TryAgain.exit_code
    raised_by_all_processes = True


@dataclasses.dataclass
class Session:
    """Values that a roll-back to a checkpoint does not reset.

    rolled_back: number of roll-backs of the run, including those before it was resumed.
    reason: why the last roll-back of this session happened; empty if there was none.
    skipped: number of unreadable images that were replaced.
    writers: see `train_and_evaluate`.
    """

    stop: StopRequest
    rolled_back: int = 0
    reason: str = ""
    skipped: int = 0
    writers: Sequence[Opener] = ()


def train_and_evaluate(
    config: ConfigDict | None,
    workdir: str | pathlib.Path,
    allow_config_change: bool = False,
    stop: StopRequest | None = None,
    given: Collection[str] = (),
    writers: Sequence[Opener] = (),
) -> state_lib.TrainState:
    """Trains or resumes the run in `workdir`, and returns its final state.

    Writes config.json, dataset.json, statistics.npz (if the config needs it), metrics.jsonl,
    events/, checkpoints/ and plots/ to the workdir.

    config: None resumes the run in the workdir with its stored config.
    stop: a request that already listens for signals. By default a new one listens during training.
    given: names of the config's fields that the user set, see `experiment.resolve`.
    writers: of the caller's own loggers: functions or classes that get a `RunStart` and return a
        `MetricWriter` (see `metric_writers.interface`). They also get every record.
    Raises UserError for an error that the user can correct, Stopped after SIGTERM or Ctrl-C.

    With several processes (see `processes`), each of them calls this function. Only the first one
    needs access to the workdir.
    """
    with open_session(workdir, stop) as session:
        exp = resolve(config, workdir, given=given, allow_config_change=allow_config_change)
        check(exp)
        session.writers = writers
        with locked(exp, allow_config_change):
            return train_with_roll_back(exp, compile_step(exp), session)


def train_with_roll_back(exp: Experiment, train_step: Callable, session: Session):
    """Calls `train`. After NotFinite, calls it again if config.not_finite allows a roll-back."""
    section = exp.config.not_finite
    while True:
        try:
            return train(exp, train_step, session)
        except NotFinite as error:
            session.rolled_back += 1
            if section.action != "roll_back" or session.rolled_back > section.limit:
                raise
            session.reason = str(error).partition(":")[0]


def train(exp: Experiment, train_step: Callable, session: Session) -> state_lib.TrainState:
    """Trains from the newest checkpoint, or from step 0, to the last step of the plan.

    If the run was asked to stop, the state is saved and Stopped is raised.
    """
    checkpoints, state, origin = restore_or_start(exp)
    state = begin(exp, state, origin, session)
    with Recorder(exp, checkpoints, session.stop, int(state.step), session.writers) as recorder:
        if origin and checkpoints:
            checkpoints.save(0, state)  # a resumed run does not need the source of its weights
        if exp.is_fitted:
            state = fit(exp, state, recorder)
        else:
            state = parallel.replicate(state, exp.devices)
            state = loop(exp, train_step, state, recorder, session)
        recorder.wait()
    processes.print_once(recorder.progress.summary(), file=console())
    if not recorder.is_complete():
        processes.wait_for_signal_name(session.stop)
        raise Stopped(
            f"stopped by {session.stop.signal_name or 'a signal'} at step {int(state.step)}, saved"
            f" in {exp.workdir}: the same command resumes it"
        )
    finish(exp, recorder, state, session.skipped)
    return state


def loop(exp: Experiment, train_step: Callable, state, recorder: Recorder, session: Session):
    """Trains until the last step, or until a request to stop. Returns the state, which is saved."""
    step, prefetched = int(state.step), None
    batches = exp.train_batches(step)

    def read_inputs(running=None):
        """Starts to copy the next inputs to the devices, which are computing `running`."""
        with recorder.progress.waiting(running):
            inputs = next(batches, None)
        if inputs and processes.count() > 1:
            inputs = (inputs, np.full(len(exp.devices), session.stop(), np.int32))
        return inputs and parallel.scatter(inputs, exp.devices)

    try:
        while True:
            state, is_over = recorder.between_steps(state, step)
            if is_over:
                return state
            if step in exp.plan.estimate_at:
                state = exp.with_curvature(state)
            inputs = prefetched or read_inputs()
            recorder.progress.resume()
            state, records = train_step(state, inputs)
            prefetched = read_inputs(records)
            recorder.dispatched(step, records)
            step += exp.plan.dispatch(step)
    finally:
        session.skipped += batches.skipped
        batches.close()  # also ends the workers that decode images


def fit(exp: Experiment, state, recorder: Recorder):
    """The run of a model that is fitted to the whole training set at once, as its only step.

    An interrupted fit starts again. Returns the state, which is saved.
    """
    state, is_over = recorder.between_steps(state, int(state.step))
    if is_over:
        return state
    transform, quiet = jax.jit(exp.transform), not processes.is_first()

    def batches():
        """(network input, labels) of the training set; -1 is the label of padding."""
        pass_ = progress_lib.Meter(len(exp.train_split), "fit: training images", quiet=quiet)
        with contextlib.closing(pass_) as meter:
            for batch in exp.eval_batches(exp.train_split):
                labels = np.where(batch["mask"] > 0, batch["label"], -1).reshape(-1)
                yield transform(batch["image"].reshape(-1, *exp.view_shape)), labels
                meter.advance(int((labels >= 0).sum()))

    with recorder.progress.timed("steps"):
        variables, logits, labels = exp.module.fit(batches, exp.config.seed)
    recorder.stop.nothing_to_save = False
    window = {
        "loss": exp.loss(logits, labels).sum(),
        "errors": (logits.argmax(axis=1) != labels).sum(),
        "examples": len(labels),
    }
    params = variables.pop("params")
    state = state.replace(
        step=jnp.int32(1),
        params=params,
        model_state=variables,
        window={name: jnp.float32(value) for name, value in window.items()},
    )
    recorder.progress.advance(1)
    return recorder.between_steps(parallel.replicate(state, exp.devices), 1)[0]


def compile_step(exp: Experiment) -> Callable:
    """Returns run(state, inputs) -> (state, records): the steps of one dispatch on all devices.

    inputs: the batches of these steps. With several processes: (batches, stop), see `sharing_stop`.
    """
    step, data = make_train_step(exp.recipe), exp.resident_data
    steps = several(gathering(step) if data else step)
    if processes.count() > 1:
        steps = sharing_stop(steps)
    return parallel.train_step(steps, exp.devices, data)


@contextlib.contextmanager
def open_session(workdir: str | pathlib.Path, stop: StopRequest | None):
    """Listens for signals, and turns a file system error into a UserError."""
    try:
        with contextlib.nullcontext(stop) if stop else StopRequest() as stop:
            yield Session(stop)
    except BrokenPipeError:  # nobody reads standard output any more, as with `head`
        raise
    except OSError as error:
        raise UserError(
            f"cannot continue in {workdir} ({error}): free some space or check the folder, then run"
            " the same command again"
        ) from error


@contextlib.contextmanager
def locked(exp: Experiment, allow_config_change: bool):
    """Creates the workdir and locks it against other runs. Only the first process does this."""
    if not processes.is_first():
        yield
        return
    make_writable(exp.workdir)
    with lock.held(exp.workdir):
        check_complete(exp.workdir)
        # Another run may have started here since `resolve`.
        check_same_config(exp.workdir, exp.config, allow_config_change)
        check_same_data(exp.workdir, exp.info, 0 if allow_config_change else exp.train_examples)
        yield


def restore_or_start(exp: Experiment):
    """Returns (checkpoints, state, origin) at the start of training.

    The state comes from the first of these that exists:
    1. the newest good checkpoint of the workdir,
    2. the weights that config.init_from names (then origin is a `warm_start.Origin`),
    3. random initial weights.

    Processes other than the first one have neither checkpoints nor origin.
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


def begin(exp: Experiment, state, origin: warm_start.Origin | None, session: Session):
    """Writes the description of the run and prints the opening block. Returns the state.

    After a roll-back, prints its reason instead, and lowers the state's learning rate.
    """
    step, section = int(state.step), exp.config.not_finite
    if session.reason:
        times = session.rolled_back
        processes.print_once(
            f"{session.reason}: going back to step {step}, with {section.rate_factor**times:g} of"
            f" the rate ({times} of at most {section.limit} times)",
            file=console(),
        )
        return state.replace(opt_state=schedules.with_roll_backs(state.opt_state, times))
    if step > exp.plan.total_steps:
        raise UserError(
            f"{exp.workdir} is at step {step}, but this config ends at step"
            f" {exp.plan.total_steps}: raise config.epochs (or config.steps), or choose another"
            " --workdir"
        )
    session.rolled_back = schedules.roll_backs(state.opt_state)
    statistics = exp.statistics  # not inside the `if`: all processes compute it together
    exp.check_transform()
    if processes.is_first():
        write_description(exp.workdir, exp.config, exp.info, statistics, len(exp.train_split))
        print_opening(exp, state, origin)
    processes.share_stop_request(session.stop)
    return state


def finish(exp: Experiment, recorder: Recorder, state, skipped: int) -> None:
    """Draws the plots and prints the closing lines. skipped: unreadable images of this process."""
    step, result = recorder.result
    if step != exp.plan.total_steps:  # the run had already been complete
        result = recorder.evaluate(state)
    counts = processes.gather(skipped=np.int64(skipped))
    if not processes.is_first():
        return
    from train_lib.pictures import run_plots  # Matplotlib: not before the first step

    run_plots.write_all(exp, read_records(exp.workdir), state.variables()["params"], result)
    dataset = exp.config.dataset
    split = sources.split_name(dataset, dataset.test_split)
    skipped = sum(int(count["skipped"]) for count in counts)
    if skipped:
        print(f"an unreadable image was replaced by another one {skipped} times")
    end = "" if exp.is_fitted else f", after {exp.plan.total_steps} steps"
    print(
        f"test error {result.top1_error:.2%} ({round(result.top1_error * result.examples)} of"
        f" {result.examples} images of {dataset.name} {split}), loss {result.loss:.4f}{end}",
        f"written to {exp.workdir}: config.json, metrics.jsonl, events/ (TensorBoard),"
        " checkpoints/, plots/",
        sep="\n",
        flush=True,
    )


def print_opening(exp: Experiment, state, origin: warm_start.Origin | None) -> None:
    """Prints the facts about the run, one on each line; only what is in use."""
    config, plan, count = exp.config, exp.plan, parallel.global_device_count(exp.devices)
    device, per_network = parallel.each(exp.devices)[0], config.devices_per_network
    parameters, step = state_lib.count_parameters(state), int(state.step)
    group = f", {processes.count()} processes" if processes.count() > 1 else ""
    pairs = f", {per_network} share a network" if per_network > 1 else ""
    copy = f" ({exp.info.copy.description})" if exp.info.copy else ""
    images = (" x ".join(map(str, exp.input_shape)), exp.reading.view.describe())
    rows = {
        "model": f"{config.model.name}, {parameters:,} parameters, {config.model.dtype}",
        "data": f"{config.dataset.name}, {len(exp.train_split):,} to train,"
        f" {len(exp.test_split):,} to test{copy}",
        "images": ", ".join(filter(None, images)),
        "augment": augment.describe(config.augment),
        "devices": f"{count} x {device.device_kind} ({device.platform}){group}{pairs}",
        "batch": f"{config.batch_size}, {config.batch_size * per_network // count} per device",
        "rate": schedules.describe(config.schedule, exp.rate_scale),
        "update": optimizers.describe(config.optimizer),
        **(origin.rows() if origin else {}),
        "frozen": _frozen_row(exp, state),
        "steps": f"{plan.total_steps:,} ({plan.epochs:.4g} epochs of {plan.steps_per_epoch:,.1f})"
        + (f", resumed at step {step:,}" if step else ""),
        "seed": str(config.seed),
        "outputs": str(exp.workdir),
    }
    if exp.is_fitted:
        rows |= {"augment": "", "batch": "", "rate": "", "update": "", "steps": "a single fit"}
    progress_lib.opening_block({name: row for name, row in rows.items() if row})


def _frozen_row(exp: Experiment, state) -> str:
    """The row of the opening block about config.optimizer.frozen; "" if nothing is frozen."""
    if not exp.frozen:
        return ""
    frozen = state_lib.count_parameters(state, exp.frozen)
    return f"{frozen:,} of {state_lib.count_parameters(state):,} parameters"


def check(exp: Experiment) -> None:
    """Raises UserError if this machine cannot train the run. Called before anything is written."""
    config = exp.config
    if config.init_from and processes.is_first() and not has_checkpoints(exp.workdir):
        warm_start.check_source(config.init_from, "config.init_from")
    if config.tracker == "trackio" and processes.is_first():
        trackio_writer.check()
    if exp.is_fitted and processes.count() > 1:
        raise UserError(f"{config.model.name} is fitted by one process: start only one")
    check_memory(exp)
    parallel.check_batch_size(config.batch_size, exp.devices)
    sizes = [len(exp.train_split), len(exp.test_split)]
    processes.check_same("data set", [*sizes, *exp.info.class_names])


def check_memory(exp: Experiment) -> None:
    """Raises UserError if the devices cannot hold the parameters and their updates, or a batch.

    Each device holds the parameters, their gradient, the velocity, and the average and the second
    derivatives if the config asks for them; or its part of them, if devices share a network. The
    images of a batch are divided among the devices that do not.
    This is checked before training, because a machine that runs out of memory may kill the process
    without a message.
    """
    shapes = state_lib.variable_shapes(exp.module, exp.input_shape)
    if exp.is_fitted:
        check_memory_of_fit(exp, shapes["params"])
        return
    leaves, section = jax.tree.leaves(shapes), exp.config.optimizer
    copies_of_parameters = 3 + bool(section.averaging) + bool(section.curvature_examples)
    needed = copies_of_parameters * sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    needed //= exp.config.devices_per_network
    devices = parallel.each(exp.devices)
    available = memory.total_bytes(devices[0])
    copies = len(devices) if devices[0].platform == "cpu" else 1
    batch = exp.config.batch_size * math.prod(exp.input_shape) * 4 // processes.count()
    if available is not None and batch > available * len(exp.devices) // copies:
        raise UserError(
            f"config.batch_size={exp.config.batch_size}: a batch needs {batch / 1e9:,.0f} GB, and"
            f" a device has {available / 1e9:,.0f} GB: lower it"
        )
    if available is not None and needed * copies > available:
        raise UserError(
            f"{exp.config.model.name} needs {needed * copies / 1e9:,.0f} GB for its parameters and"
            f" their updates, but only {available / 1e9:,.0f} GB exist: make the network smaller"
        )


def check_memory_of_fit(exp: Experiment, params) -> None:
    """As `check_memory`, for a model that is fitted. params: the shapes of its parameters."""
    needed = exp.module.fit_bytes(params, exp.train_examples)
    available = memory.total_bytes(jax.local_devices(backend="cpu")[0])
    if available is not None and needed > available:
        raise UserError(
            f"{exp.config.model.name} needs {needed / 1e9:,.0f} GB for the vectors of"
            f" {exp.train_examples:,} training images, but only {available / 1e9:,.0f} GB exist:"
            " lower config.model.words, or give fewer images"
        )
