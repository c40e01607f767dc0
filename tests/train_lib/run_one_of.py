"""One of several processes that train a tiny net, which may send itself a signal on the way.

    python run_one_of.py PORT COUNT INDEX WORKDIR OPTIONS_JSON

options: `net` (lenet5 or mlp), `config` (dotted overrides), `devices` (of each process),
`patience` and `silence` (seconds), `mode` (train, or evaluate: the run, and it twice as an
ensemble), `odd` (a process that says that it does something else), `note` (a file for the time of
the harm), and perhaps `harm`: [SIGNAL, MOMENT, STEP]. SIGNAL may be ERROR, an exception; MOMENT is
"starting" (before it joins), "restoring" (as the state comes from the first process), "dispatch"
(before the steps from STEP on), "between" (when the first one saves STEP) or "parting" (at the
last barrier).
"""

import json
import os
import pathlib
import signal
import sys
import time

import conftest


def main(port, count, index, workdir, options):
    port, count, index, options = int(port), int(count), int(index), json.loads(options)
    workdir = pathlib.Path(workdir)
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={options['devices']}"
    from errors import UserError
    from train_lib import loop, modes, plots, processes, train

    name, moment, step = options.get("harm") or ("SIGTERM", "never", 0)

    def now():
        if "note" in options:
            pathlib.Path(options["note"]).write_text(str(time.time()))
        if name == "ERROR":
            raise UserError("an image is gone")
        os.kill(os.getpid(), getattr(signal, name))

    def before(owner, attribute, is_time=lambda *_: True):
        original, done = getattr(owner, attribute), []

        def wrapped(*arguments, **named):
            if not done and is_time(*arguments):
                done.append(1)  # a second signal ends it at once
                now()
            return original(*arguments, **named)

        setattr(owner, attribute, wrapped)

    if moment == "starting":
        now()
    elif moment == "restoring":
        before(processes, "tree_from_first")
    elif moment == "dispatch":
        before(loop.batches, "train_batches", lambda split, seed, first, *_: first >= step)
    elif moment == "between":
        before(loop.Run, "_between_steps", lambda run, state, at: at == step)
    elif moment == "parting":
        before(processes, "_leave")
    plots.write_all = lambda *_: None  # they take seconds

    overrides = {"num_devices": count * options["devices"]} | options.get("config", {})
    config = conftest.tiny_config(**overrides)
    if options.get("net") == "mlp":  # compiled in no time
        from configs import mlp

        fields = conftest.TINY | overrides
        config = mlp.get_config("30")
        config.update_from_flattened_dict({"dataset.name": "digits", **fields})
    try:
        processes.join(
            f"127.0.0.1:{port}",
            count,
            index,
            "a test" if options.get("odd") != index else "another",
            patience=options.get("patience", 60),
            silence=options.get("silence", 30),
        )
        with processes.together():
            if options.get("mode") == "evaluate":
                processes.say(modes.evaluate_run(config, workdir))
                config.evaluate.ensemble = f"{workdir},{workdir}"
                processes.say(modes.evaluate_run(config, workdir))
            else:
                train.train_and_evaluate(config, workdir)
    except (UserError, train.Stopped) as error:
        print(error, file=sys.stderr)
        processes.end(error.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
