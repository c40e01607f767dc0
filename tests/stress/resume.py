"""Resumes a run of every family at every one of its steps.

    python -m tests.stress.resume [--only=lenet5,vgg,...] [--cuts=N] [--reach=N]

Trains each family for three passes over a small set in random order, with its augmentation and
regularisers, and saves after every step. Then, for every cut (or N of them), a folder with the
checkpoint of that step alone, and the records up to it and half a line, goes on: small nets to
the end, large ones `reach` steps. Every leaf of the state there and every record must be what they
were, to the bit. (The fully connected layers of AlexNet and VGG are narrowed to 32 units, so that
sixty checkpoints fit on a disk. Compiled steps are kept from cut to cut: what a new process changes
is the subject of `kills`.)
"""

import argparse
import functools
import importlib
import pathlib
import shutil
import sys
import tempfile
import time

import jax
import numpy as np
from PIL import Image

from models import layers
from tests.stress import runs
from train_lib import checkpoints, recorder, train
from train_lib.distributed.signals import StopRequest
from train_lib.metric_writers import jsonl

SMALL = {"dataset.name": "digits", "batch_size": 72, "epochs": 3.0}  # 61 steps


def folder_of(size: int) -> dict:
    """61 steps on a folder of 60 pictures, squares of `size` pixels."""
    fields = {"dataset.name": "folder", "batch_size": 3, "epochs": 3.05, "view.size": size}
    return fields | {"view.train_scale": (size + 4,) * 2, "view.test_scale": size + 4}


# family: (config file, argument, overrides, steps that a resumed run makes; 0: to the end)
FAMILIES = {
    "lenet5": ("lenet5", "digits", SMALL, 0),
    "mlp": (
        *("mlp", "30"),
        SMALL
        | {
            "model.regulariser": "dropout",
            "schedule.drop_anneal_epochs": 2.0,
            "augment.translate": 1.0,
            "optimizer.averaging": 0.8,
            "optimizer.momentum_form": "caffe",
            "optimizer.momentum_end": 0.95,
            "optimizer.momentum_epochs": 1.0,
            "schedule.name": "plateau",
            "schedule.plateau.patience": 1,
            "schedule.plateau.min_improvement": 0.5,
            "schedule.warmup_rate": 0.01,
            "schedule.warmup_error": 0.99,
        },
        0,
    ),
    "mlp_standout": ("mlp", "30", SMALL | {"model.regulariser": "standout"}, 5),
    "mlp_skipping": ("mlp", "30", SMALL | {"not_finite.action": "skip"}, 5),
    "maxout": ("maxout", "mnist_dense", SMALL, 5),
    "cuda_convnet": ("cuda_convnet", "18pct", SMALL, 5),
    "resnet_cifar10": (
        *("resnet_cifar10", "20"),
        SMALL
        | {
            "model.activation": "prelu",
            "model.regulariser": "dropconnect",
            "model.dropconnect_samples": 20,
            "schedule.drop_anneal_epochs": 2.0,
            "preprocess.crop": 8,
        },
        5,
    ),
    "alexnet": ("alexnet", "two_tower", folder_of(224), 3),
    "vgg": ("vgg", "A", folder_of(32) | {"model.image_size": 32}, 3),
    "googlenet": ("googlenet", "lrn", folder_of(96), 3),
    "googlenet_batch_norm": ("googlenet", "batch_norm", folder_of(96), 3),
    "resnet": ("resnet", "18", folder_of(64), 3),
}


def pictures(folder: pathlib.Path) -> None:
    """60 small pictures of three classes, each another, and some for the test."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 3)):
        for label in "abc":
            (folder / part / label).mkdir(parents=True)
            for i in range(count):
                coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8))
                coarse.resize((80, 60)).save(folder / part / label / f"{i}.png")


def config_of(family: str, data: pathlib.Path):
    file, argument, overrides, _ = FAMILIES[family]
    config = importlib.import_module(f"configs.{file}").get_config(argument)
    fields = {
        "num_devices": 1,
        "log_every_steps": 2,
        "evaluate.every_epochs": 0.5,
        "evaluate.batch_size": 64,
        "checkpoint.every_steps": 1,
        "checkpoint.keep": 1000,
        **overrides,
    }
    if fields["dataset.name"] == "folder":
        fields["dataset.data_dir"] = str(data)
    config.update_from_flattened_dict(fields)
    return config


class Reached(StopRequest):
    """Asks to stop once the loop has come to a step."""

    def __init__(self, target: int):
        super().__init__()
        self.target = target


class Family:
    """One family's undisturbed run, and the steps compiled for it."""

    def __init__(self, name: str, folder: pathlib.Path):
        self.config = config_of(name, folder / "data")
        self.reach = FAMILIES[name][3]
        self.folder = folder
        self.whole = folder / name
        self._reuse()
        train.finish = lambda *_: None
        self.state = train.train_and_evaluate(self.config, self.whole)
        self.last = int(self.state.step)
        self.at = self.whole / "checkpoints"

    def _reuse(self) -> None:
        """Each step function is compiled once."""
        plain_train, plain_eval = train.parallel.train_step, train.parallel.eval_step
        plain_train = getattr(plain_train, "plain", plain_train)
        plain_eval = getattr(plain_eval, "plain", plain_eval)
        kept = {}

        def train_step(*arguments):
            if "train" not in kept:
                kept["train"] = plain_train(*arguments)
            return kept["train"]

        def eval_step(*arguments):
            if "eval" not in kept:
                kept["eval"] = plain_eval(*arguments)
            return kept["eval"]

        train_step.plain, eval_step.plain = plain_train, plain_eval
        train.parallel.train_step, train.parallel.eval_step = train_step, eval_step

    def arrays(self, workdir: pathlib.Path, step: int) -> dict:
        """{path: array} of a checkpoint."""
        read = checkpoints.Checkpoints(workdir, read_only=True).restore(self.state, step)[1]
        return {jax.tree_util.keystr(p): np.asarray(v) for p, v in jax.tree.leaves_with_path(read)}

    def resume(self, cut: int, reach: int) -> list[str]:
        """What differs when a run goes on from the checkpoint of step `cut`."""
        workdir = self.folder / "resumed"
        shutil.rmtree(workdir, ignore_errors=True)
        (workdir / "checkpoints").mkdir(parents=True)
        for file in self.whole.iterdir():
            if file.is_file() and file.name not in ("lock", jsonl.FILE):
                shutil.copy(file, workdir)
        shutil.copytree(self.at / str(cut), workdir / "checkpoints" / str(cut))
        lines = (self.whole / jsonl.FILE).read_text().splitlines(keepends=True)
        kept = [line for line in lines if runs.step_of(line) <= cut]
        (workdir / jsonl.FILE).write_text("".join(kept) + lines[-1][:20])
        target = min(cut + reach, self.last) if reach else self.last
        stop = Reached(target)
        between = recorder.Recorder.between_steps

        def watched(run, state, step):
            found = between(run, state, step)
            if step >= target < self.last:  # behind its test, which a signal would cut short
                stop.signal_name = "a test"
            return found

        recorder.Recorder.between_steps = watched
        try:
            with runs.beginnings() as began:
                train.train_and_evaluate(self.config, workdir, stop=stop)
        except train.Stopped:
            pass
        finally:
            recorder.Recorder.between_steps = between
        if began != [cut]:
            return [f"it began at {began}"]
        expected, found = (
            runs.End(
                self.arrays(place, target),
                [record for record in runs.records(place) if record["step"] <= target],
            )
            for place in (self.whole, workdir)
        )
        return found.differences(expected)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(FAMILIES))
    parser.add_argument("--cuts", type=int, default=0, help="0: all")
    parser.add_argument("--reach", type=int, default=-1, help="steps; 0: to the end")
    arguments = parser.parse_args()
    hidden = layers.Builder.hidden

    @functools.wraps(hidden)
    def narrow(self, x, units, *rest, **named):
        return hidden(self, x, 32 if units == 4096 else units, *rest, **named)

    layers.Builder.hidden = narrow
    failures, total = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        pictures(folder / "data")
        for name in arguments.only.split(","):
            started = time.monotonic()
            family = Family(name, folder)
            cuts = range(1, family.last)
            if arguments.cuts:
                cuts = np.unique(np.linspace(1, family.last - 1, arguments.cuts, dtype=int))
            reach = family.reach if arguments.reach < 0 else arguments.reach
            wrong = 0
            for cut in map(int, cuts):
                if found := family.resume(cut, reach):
                    wrong += 1
                    failures.append(f"{name} at {cut}: {len(found)} differ: {found[:3]}")
                    print(failures[-1], flush=True)
            total += len(cuts)
            print(
                f"{name:>22}  {family.last} steps, {len(cuts)} cuts, resumed"
                f" {f'for {reach} steps' if reach else 'to the end'}: {wrong} differ"
                f" ({time.monotonic() - started:.0f} s)",
                flush=True,
            )
            shutil.rmtree(family.whole)
            jax.clear_caches()
    print(f"{total} cuts, {len(failures)} failures", *failures[:20], sep="\n")
    return len(failures)


if __name__ == "__main__":
    sys.exit(bool(main()))
