"""Canon's command line: flags, then one call. See the README."""

import os
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: configs/NAME.py[:ARG].")
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; again: go on with it.")
MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "evaluate", "predict", "summary", "export"], "What to do."
)
IMAGES = flags.DEFINE_list("images", [], "--mode=predict: image files or folders, with commas.")
OUTPUT = flags.DEFINE_string("output", "", "--mode=export: the file, NAME.safetensors.")
FORMAT = flags.DEFINE_enum("format", "table", ["table", "json"], "--mode=summary: output.")
ALLOW_CONFIG_CHANGE = flags.DEFINE_bool(
    "allow_config_change", False, "Go on in a workdir that was made with another config."
)


def parse(argv: list[str]) -> list[str]:
    """absl's parsing, with every mistake as one line."""
    from train_lib import flag_errors

    with flag_errors.as_one_line(argv):
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise UserError(f"{rest[1]} is not a flag: flags begin with --")
        if CONFIG.value is None:
            raise UserError("which experiment? Give --config=configs/lenet5.py, for example")
        list(CONFIG.value.items())  # a config that failed to load says so here
        if MODE.value != "summary" and not WORKDIR.value:
            raise UserError("which folder? Give --workdir=DIR")
        return rest


def main(_) -> None:
    """The one call that the flags ask for."""
    from input_pipeline import sources
    from train_lib import config as config_lib

    config = CONFIG.value
    config_lib.validate(config)
    if MODE.value in ("train", "evaluate"):
        sources.check(config.dataset)  # before the seconds that JAX takes to load
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.FATAL)  # libraries' warnings; Canon prints its own
    workdir = pathlib.Path(WORKDIR.value) if WORKDIR.value else None

    if MODE.value == "train":
        from train_lib.train import train_and_evaluate

        train_and_evaluate(config, workdir, ALLOW_CONFIG_CHANGE.value)
    elif MODE.value == "evaluate":
        from train_lib.modes import evaluate_run

        print(evaluate_run(config, workdir))
    elif MODE.value == "predict":
        from train_lib.modes import predict_images

        print(predict_images(config, workdir, IMAGES.value))
    elif MODE.value == "export":
        from train_lib.modes import export_run

        print(export_run(config, workdir, OUTPUT.value))
    else:
        from train_lib.description import summarise

        print(summarise(config, FORMAT.value))


def guarded_main(argv) -> None:
    """`main`, with what the user can put right as one line on standard error."""
    try:
        main(argv)
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if not isinstance(error, UserError) and not hasattr(error, "exit_code"):
            raise
        print(f"{pathlib.Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.stdout.flush()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # before the training loop, which saves first
        print(f"{pathlib.Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    app.run(guarded_main, flags_parser=parse)
