"""Checkpoints with Orbax, saved in the background. The newest few and the best are kept.

A checkpoint of step n holds the state as NumPy arrays, which any number and kind of devices can
restore. It also holds a description: the layout version, the step, the test error, the shape, dtype
and SHA-256 of every array, and the SHA-256 of the description itself. Orbax detects damage only in
some of its files. Therefore everything that is restored is compared with the description.
"""

import contextlib
import hashlib
import json
import pathlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax.traverse_util import flatten_dict, unflatten_dict
from orbax.checkpoint import checkpoint_managers as policies

from errors import TryAgain, UserError, one_line
from models import sound
from train_lib.distributed.file_errors import reason_outside_file, system_reason

# 2: the optimizer's state includes the learning rate and the state of its rules. 3: the description
# includes its own checksum and the metrics.
LAYOUT = 3
DIRECTORY = "checkpoints"
DAMAGED = "damaged"
# The old checkpoint of a step, while that step is saved again. It is on the same disk, so that the
# checkpoint can be renamed.
REPLACED = pathlib.PurePath(DIRECTORY, "replaced")
METRIC = "test/top1_error"


@contextlib.contextmanager
def _without_warnings():
    """Hides Orbax's warnings about a read-only manager and about a save without a test error."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(min(verbosity, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(self, workdir: pathlib.Path, keep: int = 3, read_only: bool = False):
        self.workdir = workdir
        self.directory = workdir.resolve() / DIRECTORY
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics[METRIC],
            reverse=True,  # the lowest error is the best
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        # Only this process has checkpoints, so Orbax must not wait for other processes.
        process = jax.process_index()
        self._options = ocp.CheckpointManagerOptions(
            create=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=process, active_processes={process}
            ),
            read_only=read_only,
            save_interval_steps=0 if read_only else 1,  # Orbax warns if a reader has an interval
            best_fn=lambda metrics: metrics[METRIC],  # without it Orbax stores no metrics
            best_mode="min",
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
        )
        self._open()

    def _open(self) -> None:
        try:
            if not self._options.read_only:
                self.directory.mkdir(parents=True, exist_ok=True)
                self._restore_replaced()
            with _without_warnings():
                self._manager = ocp.CheckpointManager(self.directory, options=self._options)
        except Exception as error:
            # Orbax reads the JSON files of all steps here, and fails if it cannot parse one.
            may_move = not self._options.read_only and not reason_outside_file(error)
            unreadable = self._unreadable_steps() if may_move else []
            for step in unreadable:
                self._report(step, error)
                self._move_aside(step)
            if unreadable:
                return self._open()
            reason = reason_outside_file(error) or one_line(error)
            raise UserError(
                f"cannot open {self.directory} ({reason}): check the folder, or choose another"
                " --workdir"
            ) from error

    def _unreadable_steps(self) -> list[int]:
        """The steps that have a JSON file which cannot be parsed."""
        steps = []
        for folder in self.directory.iterdir() if self.directory.is_dir() else ():
            if folder.name.isdecimal() and folder.is_dir():
                files = [folder / "_CHECKPOINT_METADATA", *folder.glob("metrics/metrics")]
                try:
                    for file in files:
                        json.loads(file.read_text())
                except (OSError, ValueError) as error:
                    if not reason_outside_file(error):
                        steps.append(int(folder.name))
        return steps

    def _restore_replaced(self) -> None:
        """Restores the old checkpoint of a step if saving the step again was interrupted."""
        for old in self._replaced():
            if not (self.directory / old.name).exists():
                old.rename(self.directory / old.name)
        self._forget_replaced()

    def _replaced(self) -> list[pathlib.Path]:
        return sorted((self.workdir / REPLACED).glob("*"))

    def _forget_replaced(self) -> None:
        """Deletes the old checkpoint, after the new one is complete."""
        if (self.workdir / REPLACED).exists():
            shutil.rmtree(self.workdir / REPLACED, ignore_errors=True)

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def holds(self, step: int, scored: bool) -> bool:
        """Whether `step` is saved. scored: True to ask for a checkpoint with its test error."""
        if step not in self.steps() or not scored:
            return step in self.steps()
        return any(error is not None for _, error in self._contents(self._read_error, [step]))

    def best_step(self) -> int | None:
        """The saved step with the lowest test error; None if none was evaluated."""
        errors = dict(self._contents(self._read_error))
        scored = [step for step in self.steps() if errors.get(step) is not None]
        return min(scored, key=lambda step: (errors[step], step), default=None)

    def save(self, step: int, state, metrics: dict | None = None) -> None:
        """Copies the state and starts to save it. Raises UserError if an earlier save failed."""
        # Copied, because the next step reuses the device's memory while Orbax still writes.
        state = jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)
        description = {
            "layout": LAYOUT,
            "step": step,
            "metrics": metrics,
            "arrays": fingerprint(state),
        }
        description["digest"] = description_digest(description)
        with self._save_errors_explained():
            self._manager.wait_until_finished()
            self._forget_replaced()
            if step in self._manager.all_steps():
                # The step was saved without metrics when a signal interrupted its evaluation. The
                # old checkpoint may be the only one, so it is kept until the new one is complete.
                (self.workdir / REPLACED).mkdir(exist_ok=True)
                (self.directory / str(step)).rename(self.workdir / REPLACED / str(step))
                self._manager.reload()
            args = ocp.args.Composite(
                state=ocp.args.PyTreeSave(state), description=ocp.args.JsonSave(description)
            )
            with _without_warnings():
                self._manager.save(step, args=args, metrics=metrics, force=True)

    def wait(self) -> None:
        """Waits until the last save is complete. Raises UserError if it failed."""
        with self._save_errors_explained():
            self._manager.wait_until_finished()
            if not self._options.read_only:
                self._forget_replaced()

    def check(self) -> None:
        """Raises UserError if the save in the background has failed. Does not wait."""
        if not self.is_saving():
            self.wait()

    def is_saving(self) -> bool:
        """Whether a save runs in the background."""
        return self._manager.is_saving_in_progress()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    @contextlib.contextmanager
    def _save_errors_explained(self):
        try:
            yield
        except Exception as error:
            why = system_reason(error) or one_line(error)
            raise UserError(
                f"could not save a checkpoint in {self.directory} ({why}): free some space or check"
                " the folder, then run the same command again"
            ) from error

    def restore(self, like, step: int | None = None):
        """(step, state) of the newest good checkpoint, or of `step`; None if there is none.

        like: a state, or ShapeDtypeStructs, with the structure to restore.

        A damaged checkpoint is reported on standard error and moved to WORKDIR/damaged, and the
        checkpoint before it is used. Raises UserError, and moves nothing, if all checkpoints are
        damaged, if they belong to another model, or if an undamaged one cannot be read.
        """
        return self._newest(step, lambda candidate: self._read(candidate, like))

    def restore_variables(self, step: int | None = None):
        """(step, variables as `TrainState.variables`) of the newest good checkpoint, or of `step`.

        The model need not be known. None if there is no checkpoint; errors as in `restore`.
        """
        if step is not None and step not in self.steps():
            return None
        return self._newest(step, self._read_variables)

    def _newest(self, step: int | None, read):
        """(step, read(step)) for the newest step, or `step`, that is not damaged; else None."""
        pending = [old.name for old in self._replaced() if self._options.read_only]
        for name in pending if step is None else ():
            if not (self.directory / name).exists():
                raise TryAgain(
                    f"{self.directory / name} is being saved again: try again in a moment; if no"
                    " process trains this run, resume it first, which restores the old checkpoint"
                )
        damaged = []
        for candidate, content in self._contents(read, None if step is None else [step]):
            if content is None:
                damaged.append(candidate)
                continue
            if damaged and not self._options.read_only:
                self._manager.close()
                for damaged_step in damaged:
                    self._move_aside(damaged_step)
                self._open()
            return candidate, content
        if step is not None:
            raise UserError(
                f"checkpoint {step} in {self.workdir} cannot be read: use another one,"
                " for example with --config.evaluate.checkpoint=latest"
            )
        if damaged or any((self.workdir / DAMAGED).glob("*")):
            raise UserError(
                f"no checkpoint in {self.workdir} can be read: restore them from a backup, or"
                " start a new run in another --workdir"
            )
        return None

    def _contents(self, read: Callable, steps: list[int] | None = None) -> Iterator[tuple]:
        """Yields (step, read(step)), the newest first. Reports damaged ones, and yields None.

        steps: by default all. Raises UserError if an undamaged checkpoint cannot be read.
        """
        for step in reversed(self.steps() if steps is None else steps):
            try:
                content = read(step)
            except UserError:
                raise
            except Exception as error:
                self._raise_if_undamaged(step, error)
                if steps is None and self._was_deleted(step):
                    yield from self._contents(read)
                    return
                self._report(step, error)
                content = None
            yield step, content

    def _was_deleted(self, step: int) -> bool:
        """Whether a process that trains the run has deleted the step. Reads the steps again."""
        if not self._options.read_only or (self.directory / str(step)).exists():
            return False
        self._manager.reload()
        return step not in self.steps()

    def _raise_if_undamaged(self, step: int, error: Exception) -> None:
        """Raises UserError if the error has a cause outside the checkpoint's files."""
        why = reason_outside_file(error)
        if why:
            path = self.directory / str(step)
            raise UserError(
                f"cannot read checkpoint {path} ({why}): correct this and run the same command"
                f" again; to resume from an older checkpoint, move {path} elsewhere"
            ) from error

    def _read_description(self, step: int) -> dict:
        arguments = ocp.args.Composite(description=ocp.args.JsonRestore())
        content = self._manager.restore(step, args=arguments).description
        is_intact = content.get("digest") == description_digest(content)
        if "digest" in content and not is_intact:
            raise ValueError("its description does not match its checksum")
        if content["layout"] != LAYOUT:
            raise UserError(
                f"checkpoint {step} in {self.directory} has layout {content['layout']}; this"
                f" version of Canon reads layout {LAYOUT}: use the version that made it, or another"
                " --workdir"
            )
        if not is_intact or content["step"] != step:
            raise ValueError("its description belongs to another step")
        error = (content["metrics"] or {}).get(METRIC, 0.0)
        if not isinstance(content["arrays"], dict) or not 0 <= error <= 1:
            raise ValueError("its description is damaged")
        return content

    def _read_error(self, step: int) -> float | None:
        return (self._read_description(step)["metrics"] or {}).get(METRIC)

    def _read(self, step: int, like):
        saved = self._read_description(step)["arrays"]
        expected = shapes(like)
        names = sorted(expected.keys() | saved.keys())
        # The optimizer's state last: it also differs if the model does.
        for name in sorted(names, key=lambda name: name.startswith(".opt_state")):
            saved_shape, expected_shape = saved.get(name, [])[:2], expected.get(name, [])
            if {*saved_shape[1:], *expected_shape[1:]} == {"float32", "float64"}:
                value = int("float64" in saved_shape)
                raise UserError(
                    f"checkpoint {step} in {self.directory} was made with JAX_ENABLE_X64={value}:"
                    f" set this environment variable to {value}"
                )
            if saved_shape != expected_shape:
                what = "optimizer" if name.startswith(".opt_state") else "model"
                raise self._of_another(
                    step,
                    what,
                    f"{name} is {saved_shape or 'missing'} in the checkpoint and"
                    f" {expected_shape or 'missing'} in the {what}",
                )
        try:
            state = self._restore(
                step, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
            )
        except ValueError as error:
            if "structures do not match" not in str(error):
                raise
            raise self._of_another(step, "optimizer", "it has other parts") from error
        check_fingerprint(state, saved)
        leaves = jax.tree.leaves_with_path(state)
        sound.check(_variables({jax.tree_util.keystr(path): leaf for path, leaf in leaves}))
        return state

    def _of_another(self, step: int, what: str, difference: str) -> UserError:
        advice = "use the config that the checkpoint was made with"
        if what == "optimizer":
            advice += f", or start a new run from its weights: --config.init_from={self.workdir}"
        return UserError(
            f"checkpoint {step} in {self.directory} is of another {what}: {difference}: {advice}"
        )

    def _read_variables(self, step: int) -> dict:
        # The optimizer's state is not read, because it is as large as the variables. The shapes
        # come from the description, because the arrays' own files may be damaged.
        arrays = _variables(self._read_description(step)["arrays"])
        target = unflatten_dict({names: np.zeros(*entry[:2]) for names, entry in arrays.items()})
        expected = {"".join(f"['{n}']" for n in names): entry for names, entry in arrays.items()}
        state = self._restore(step, target, partial=True)
        check_fingerprint(state, expected)
        sound.check(flatten_dict(state))
        return {"params": state.get("average", state["params"]), **state.get("model_state", {})}

    def _restore(self, step: int, target, partial: bool = False):
        """Restores arrays into the target's structure. partial: it is only a part of the state."""
        arguments = ocp.args.PyTreeRestore(
            target,
            restore_args=ocp.checkpoint_utils.construct_restore_args(target),
            partial_restore=partial,
        )
        return self._manager.restore(step, args=ocp.args.Composite(state=arguments)).state

    def _report(self, step: int, error: Exception) -> None:
        path = self.directory / str(step)
        print(f"checkpoint {path} is damaged ({one_line(error)})", file=sys.stderr)

    def _move_aside(self, step: int) -> None:
        aside = self.workdir / DAMAGED / str(step)
        aside.parent.mkdir(exist_ok=True)
        while aside.exists():
            aside = aside.with_name(aside.name + "-again")
        shutil.move(self.directory / str(step), aside)


def _variables(by_path: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    """The values that belong to the network's variables, by the names in their paths.

    by_path: values of the leaves of a state, by paths such as ".params['conv1']['kernel']".
    """
    named = {tuple(re.findall(r"[^.\[\]']+", path)): value for path, value in by_path.items()}
    return {
        names: value
        for names, value in named.items()
        if names[0] in ("params", "model_state", "average")
    }


def shapes(state) -> dict[str, list]:
    """{path: [shape, dtype]} of a tree of arrays or ShapeDtypeStructs."""
    return {
        jax.tree_util.keystr(path): [list(leaf.shape), str(leaf.dtype)]
        for path, leaf in jax.tree.leaves_with_path(state)
    }


def fingerprint(state) -> dict[str, list]:
    """{path: [shape, dtype, SHA-256]} of a tree of NumPy arrays."""
    contents = (np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(state))
    digests = (hashlib.sha256(content).hexdigest() for content in contents)
    return {
        path: [*shape, digest]
        for (path, shape), digest in zip(shapes(state).items(), digests, strict=True)
    }


def description_digest(description: dict) -> str:
    """SHA-256 of a description without its `digest`."""
    rest = {name: value for name, value in description.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check_fingerprint(state, expected: dict[str, list]) -> None:
    """Raises ValueError unless the arrays of `state` are equal to the saved ones."""
    actual = fingerprint(state)
    for name in sorted(actual.keys() | expected.keys()):
        if actual.get(name) != expected.get(name):
            raise ValueError(f"the contents of {name} do not match their checksum")
