"""Canon's command line: flags, then one call. See the README."""

import os
import pathlib

from absl import app, flags
from ml_collections import config_flags

from errors import UserError
from train_lib.distributed import shell

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: configs/NAME.py[:ARG].")
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; again: go on with it.")
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate", "predict", "inspect", "summary", "export"],
    "What to do.",
)
IMAGES = flags.DEFINE_list(
    "images", [], "--mode=predict, inspect: image files or folders, with commas."
)
LAYER = flags.DEFINE_string("layer", "", "--mode=inspect: the layer whose feature maps are shown.")
COMPARE = flags.DEFINE_list(
    "compare", [], "--mode=inspect: other runs' folders, or steps of this run, with commas."
)
OUTPUT = flags.DEFINE_string("output", "", "--mode=export: the file, NAME.safetensors or .jax.")
FORMATS = {"summary": ("table", "json"), "export": ("canon", "torchvision", "jax")}
FORMAT = flags.DEFINE_string(
    "format", "", "--mode=summary: table or json. --mode=export: canon, torchvision or jax."
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes, as SLURM or a TPU pod starts them."
)
COORDINATOR = flags.DEFINE_string("coordinator", "", "The same without them: process 0's HOST:PORT")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "How many processes there are.")
PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Which of them this one is, from 0.")
PEER_TIMEOUT = flags.DEFINE_float(
    "peer_timeout", 30.0, "Seconds after which a process that does not answer ends the run of all."
)
START_TIMEOUT = flags.DEFINE_float("start_timeout", 50.0, "Seconds to wait for all processes.")
ALLOW_CONFIG_CHANGE = flags.DEFINE_bool(
    "allow_config_change", False, "Go on in a workdir that was made with another config."
)


def parse(argv: list[str]) -> list[str]:
    """absl's parsing, with every mistake as one line."""
    from train_lib.commands import flag_errors

    with flag_errors.as_one_line(argv):
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise UserError(f"{rest[1]} is not a flag: flags begin with --")
        if CONFIG.value is None:
            raise UserError("which experiment? Give --config=configs/lenet5.py, for example")
        list(CONFIG.value.items())  # a config that failed to load says so here
        if MODE.value != "summary" and not WORKDIR.value:
            raise UserError("which folder? Give --workdir=DIR")
        formats = FORMATS.get(MODE.value, ())
        if FORMAT.value and FORMAT.value not in formats:
            choice = f"choose one of {', '.join(formats)}" if formats else "leave it out"
            raise UserError(f"--format={FORMAT.value} with --mode={MODE.value}: {choice}")
        for flag, value, belong in (
            ("images", IMAGES.value, ("predict", "inspect")),
            ("output", OUTPUT.value, ("export",)),
            ("allow_config_change", ALLOW_CONFIG_CHANGE.value, ("train",)),
        ):
            if value and MODE.value not in belong:
                raise UserError(f"--{flag} is for --mode={' or '.join(belong)}: leave it out")
        if MODE.value != "inspect" and (LAYER.value or COMPARE.value):
            raise UserError("--layer and --compare are for --mode=inspect: leave them out")
        given = (COORDINATOR.value != "", NUM_PROCESSES.value > 0, PROCESS_ID.value >= 0)
        if any(given) and (not all(given) or DISTRIBUTED.value):
            raise UserError(
                "give --coordinator, --num_processes and --process_id together, or --distributed"
            )
        return rest


def main(_) -> None:
    """The one call that the flags ask for."""
    from train_lib.distributed.signals import StopRequest

    if MODE.value == "train":  # from here on a signal finds somebody who listens
        with StopRequest(owns_process=True) as stop:
            _checked(stop)
    else:
        _checked(None)


def _given() -> dict:
    """The config's fields that the command line gives, by name."""
    return config_flags.get_override_values(flags.FLAGS["config"])


def _checked(stop) -> None:
    """The call, once the config is known to be one."""
    from configs import schema
    from input_pipeline import sources

    config = CONFIG.value
    schema.validate(config, _given())
    several = DISTRIBUTED.value or COORDINATOR.value
    if MODE.value in ("train", "evaluate") and not several:
        sources.check(config.dataset)  # before the seconds that JAX takes to load
    if not flags.FLAGS["verbosity"].present:
        shell.silence_libraries()
    if MODE.value in ("summary", "export"):
        os.environ["JAX_PLATFORMS"] = "cpu"  # they compute next to nothing: devices may be in use
    elif config.deterministic:
        from train_lib.distributed import parallel

        parallel.use_deterministic_kernels()  # before processes that come together look for devices
    workdir = pathlib.Path(WORKDIR.value) if WORKDIR.value else None

    if several:
        _run_together(config, workdir, stop)
    elif MODE.value == "summary":
        from train_lib.commands.summary import summarise

        print(summarise(config, FORMAT.value or "table", _given()))
    else:
        _run(config, workdir, stop)


def _run(config, workdir: pathlib.Path, stop) -> None:
    """What needs the folder of a run; one of several processes prints its result."""
    from train_lib import foreign
    from train_lib.distributed import parallel

    given = _given()
    config = foreign.settled(config, workdir, given, asks=MODE.value != "train")
    with parallel.explain_device_errors():
        _run_mode(config, workdir, stop, given)


def _run_mode(config, workdir: pathlib.Path, stop, given) -> None:
    """The call of the mode, with the final config."""
    from train_lib.distributed import processes

    if MODE.value == "train":
        from train_lib.train import train_and_evaluate

        train_and_evaluate(config, workdir, ALLOW_CONFIG_CHANGE.value, stop)
    elif MODE.value == "evaluate":
        from train_lib.commands import evaluate

        processes.print_once(evaluate.evaluate_run(config, workdir, given))
    elif MODE.value == "predict":
        from train_lib.commands import predict

        processes.print_once(predict.predict_images(config, workdir, IMAGES.value, given))
    elif MODE.value == "inspect":
        from train_lib.commands.inspect import inspect_run  # Matplotlib

        inspect_run(config, workdir, IMAGES.value, LAYER.value, COMPARE.value)
    else:
        from train_lib.commands import export

        form = FORMAT.value or "canon"
        processes.print_once(export.export_run(config, workdir, OUTPUT.value, form))


def _run_together(config, workdir: pathlib.Path | None, stop) -> None:
    """As one of several processes."""
    if MODE.value not in ("train", "evaluate", "predict"):
        raise UserError(f"--mode={MODE.value} is one process's work: leave out --coordinator")
    from configs import compare
    from input_pipeline import sources
    from train_lib.distributed import processes

    place = (COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, None)
    if DISTRIBUTED.value:
        place = processes.detect()
    coordinator, number, process, devices = place
    what = compare.digest(MODE.value, IMAGES.value, config)
    processes.join(
        coordinator, number, process, what, devices, START_TIMEOUT.value, PEER_TIMEOUT.value
    )
    with processes.all_finish_or_fail():
        if MODE.value != "predict":
            sources.check(config.dataset)  # here, where the others learn what one lacks
        _run(config, workdir, stop)


def guarded_main(argv) -> None:
    """`main`, with one line on standard error for an error that the user can correct."""
    with shell.errors_as_one_line():
        main(argv)


if __name__ == "__main__":
    app.run(guarded_main, flags_parser=parse)
