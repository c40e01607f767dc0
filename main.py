"""Canon's command line: defines the flags and runs one command. See the README."""

import command_line

if __name__ == "__main__":
    command_line.begin()  # before the imports below, which take long

import contextlib

from absl import app, flags
from ml_collections import config_flags

from command_line import expand, split_names
from train_lib.commands.flag_checks import parse
from train_lib.distributed import shell
from train_lib.distributed.signals import StopRequest

MODES = ("train", "evaluate", "predict", "inspect", "summary", "export")
CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The experiment: configs/NAME.py[:ARG]. Default: the config of the run in --workdir.",
)
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder. Training resumes its run.")
MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
IMAGES = flags.DEFINE_string(
    "images", "", "--mode=predict, inspect: image files or folders, separated by commas."
)
LAYER = flags.DEFINE_string("layer", "", "--mode=inspect: the layer whose feature maps are shown.")
COMPARE = flags.DEFINE_string(
    "compare", "", "--mode=inspect: other runs' folders, or steps of this run, with commas."
)
OUTPUT = flags.DEFINE_string("output", "", "--mode=export: the file, NAME.safetensors or .jax.")
FORMAT = flags.DEFINE_string(
    "format", "", "--mode=summary: table or json. --mode=export: canon, torchvision or jax."
)
flags.DEFINE_bool("distributed", False, "One of several processes, started by SLURM or a TPU pod.")
flags.DEFINE_string("coordinator", "", "One of several processes: the HOST:PORT of process 0.")
flags.DEFINE_integer("num_processes", 0, "With --coordinator: the number of processes.")
flags.DEFINE_integer("process_id", -1, "With --coordinator: the number of this process, from 0.")
flags.DEFINE_float(
    "peer_timeout", 30.0, "All processes end if one of them does not answer for this many seconds."
)
flags.DEFINE_float("start_timeout", 50.0, "Seconds to wait until all processes have started.")
ALLOW_CONFIG_CHANGE = flags.DEFINE_bool(
    "allow_config_change", False, "Resume the run in --workdir although its config has changed."
)


def main(_) -> None:
    """Sets up the process and runs the command. An error that the user can correct is one line."""
    is_training = MODE.value == "train"
    # Signals are handled from here on, also during the slow imports below.
    stop_request = StopRequest(owns_process=True) if is_training else contextlib.nullcontext()
    with shell.errors_as_one_line(), stop_request as stop:
        from train_lib.commands import launch

        given = config_flags.get_override_values(flags.FLAGS["config"])
        with launch.environment(MODE.value, CONFIG.value, flags.FLAGS):
            from train_lib.distributed import processes

            text = run(CONFIG.value, given, stop)
            if text:
                processes.print_once(text)


def run(config, given: dict, stop: StopRequest | None) -> str | None:
    """Runs the command of --mode. Returns the text to print, if any."""
    workdir = expand(WORKDIR.value or "")
    if MODE.value == "train":
        from train_lib.train import train_and_evaluate

        train_and_evaluate(config, workdir, ALLOW_CONFIG_CHANGE.value, stop, given)
    elif MODE.value == "evaluate":
        from train_lib.commands.evaluate import evaluate_run

        return evaluate_run(config, workdir, given)
    elif MODE.value == "predict":
        from train_lib.commands.predict import predict_images

        return predict_images(config, workdir, split_names(IMAGES.value), given)
    elif MODE.value == "inspect":
        from train_lib.commands.inspect import Selection, inspect_run  # Matplotlib

        images, runs = split_names(IMAGES.value), split_names(COMPARE.value)
        selection = Selection(images, LAYER.value, runs)
        inspect_run(config, workdir, selection, given)
    elif MODE.value == "summary":
        from train_lib.commands.summary import summarise

        return summarise(config, FORMAT.value or "table", given, WORKDIR.value and workdir)
    else:
        from train_lib.commands.export import export_run

        return export_run(config, workdir, OUTPUT.value, FORMAT.value or "canon", given)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
