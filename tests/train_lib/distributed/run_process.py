"""Runs one process of a group that trains a tiny network. A process may be harmed meanwhile.

    python run_process.py PORT COUNT INDEX WORKDIR OPTIONS_JSON

options:
    net      lenet5 or mlp
    config   overrides with dotted names
    devices  number of devices of each process
    start_timeout, peer_timeout   of the group, in seconds
    mode     train, or evaluate: the run alone, then twice as an ensemble
    resident  whether the training set lives in the devices' memory, as on accelerators
    other_task   index of a process that names another task than the others
    time_file    file for the time of the harm
    record_to    folder for what `recorded` writes
    harm     [SIGNAL, MOMENT, STEP]; SIGNAL may be ERROR, an exception
    victim   index of the process that is harmed, or "coordinator"

MOMENT is one of
    starting     before it joins
    connecting   within `join`, when JAX connects the processes, after the coordinator's answer
    restoring    when the state comes from the first process
    compiling    when the step is about to be compiled
    dispatch     before the steps from STEP on
    between      when the first process saves STEP
    saving       when the first process has begun to save STEP, whoever the victim is
    evaluating   in the evaluation of STEP
    parting      at the last barrier
    leaving      after the last barrier, before JAX's own
"""

import contextlib
import json
import os
import pathlib
import signal
import sys
import time

import conftest
import recorded


def main(port, count, index, workdir, options):
    port, count, index, options = int(port), int(count), int(index), json.loads(options)
    workdir = pathlib.Path(workdir)
    os.environ["XLA_FLAGS"] = conftest.xla_flags(options["devices"])
    from errors import UserError
    from train_lib import train
    from train_lib.distributed import parallel, processes, shell
    from train_lib.pictures import run_plots

    if options.get("resident"):
        parallel.have_own_memory = lambda devices: True
    run_plots.write_all = lambda *_: None  # they take seconds
    if "harm" in options:
        _prepare_harm(index, workdir, options)
    overrides = {"num_devices": count * options["devices"]} | options.get("config", {})
    config = conftest.tiny_config(**overrides)
    if options.get("net") == "mlp":  # it compiles fast
        from configs import mlp

        fields = conftest.TINY | overrides
        config = mlp.get_config("30")
        config.update_from_flattened_dict({"dataset.name": "digits", **fields})
    try:
        group = processes.Group(
            f"127.0.0.1:{port}",
            count,
            index,
            start_timeout=options.get("start_timeout", 60),
            peer_timeout=options.get("peer_timeout", 30),
        )
        processes.join(group, "a test" if options.get("other_task") != index else "another")
        with contextlib.ExitStack() as around:
            if "record_to" in options:
                around.enter_context(recorded.recording(pathlib.Path(options["record_to"])))
            around.enter_context(processes.all_finish_or_fail())
            if options.get("mode") == "evaluate":
                from train_lib.commands import evaluate

                processes.print_once(evaluate.evaluate_run(config, workdir))
                config.evaluate.ensemble = f"{workdir},{workdir}"
                processes.print_once(evaluate.evaluate_run(config, workdir))
            else:
                train.train_and_evaluate(config, workdir)
    except (UserError, train.Stopped) as error:
        print(error, file=sys.stderr)
        shell.exit_now(error.exit_code)


def _prepare_harm(index, workdir, options):
    """Prepares the harm if this process has to do it."""
    from jax._src import compiler
    from jax.experimental import multihost_utils

    from errors import UserError
    from input_pipeline import batches
    from train_lib import checkpoints, recorder
    from train_lib.distributed import parallel, processes

    (name, moment, step), victim = options["harm"], options["victim"]
    # A process harms itself. But only process 0 knows when it saves, and starts the coordinator.
    pid = workdir.with_name(f"{workdir.name}.pid")
    if index == victim and moment == "saving":
        pid.write_text(str(os.getpid()))
    if index != (0 if moment == "saving" or victim == "coordinator" else victim):
        return

    def now():
        if "time_file" in options:
            pathlib.Path(options["time_file"]).write_text(str(time.time()))
        if name == "ERROR":
            raise UserError("an image is gone")
        harmed = os.getpid() if victim == index else None
        if victim == "coordinator":
            harmed = processes._peers._process.pid
        os.kill(harmed or int(pid.read_text()), getattr(signal, name))

    done = []

    def once():
        if not done:
            done.append(1)  # a second signal ends it at once
            now()

    def before(owner, attribute, is_time=lambda *_: True):
        original = getattr(owner, attribute)

        def wrapped(*arguments, **named):
            if is_time(*arguments):
                once()
            return original(*arguments, **named)

        setattr(owner, attribute, wrapped)

    if moment == "starting":
        now()
    elif moment == "connecting":
        before(multihost_utils, "process_allgather")
    elif moment == "restoring":
        before(processes, "tree_from_first")
    elif moment == "compiling":
        make, called = parallel.train_step, []

        def train_step(*arguments):
            step = make(*arguments)
            return lambda *batch: called.append(1) or step(*batch)

        parallel.train_step = train_step
        before(compiler, "compile_or_get_cached", lambda *_: called)
    elif moment == "dispatch":
        before(batches, "train_indices", lambda split, seed, first, *_: first >= step)
    elif moment == "between":
        before(recorder.Recorder, "between_steps", lambda run, state, at: at == step)
    elif moment == "saving":
        save = checkpoints.Checkpoints.save

        def save_and(self, at, *rest):
            save(self, at, *rest)
            if at == step:
                once()

        checkpoints.Checkpoints.save = save_and
    elif moment == "evaluating":
        before(recorder, "evaluate", lambda exp, state, *_: int(state.step) == step)
    elif moment == "parting":
        before(processes, "_leave_group")
    elif moment == "leaving":
        import jax

        before(jax.distributed, "shutdown")


if __name__ == "__main__":
    main(*sys.argv[1:])
