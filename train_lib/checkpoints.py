"""Checkpoints by Orbax: asynchronous, atomic, the newest few and the best.

A checkpoint of step n holds the state as NumPy arrays, which any number and kind of devices can
restore, and a description: the layout version, the step, the test error, the shape, dtype and
SHA-256 of every array, and a SHA-256 of the description itself. Orbax notices damage to some of
its files only; on restore everything is compared with the description.
"""

import contextlib
import hashlib
import json
import pathlib
import re
import shutil
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as policies

from errors import TryAgain, UserError, one_line
from train_lib.distributed.file_errors import reason_outside_file, system_reason

# 2: the optimizer's state holds the rate and the memory of its rules. 3: the description has a
# checksum of its own, and the metrics.
LAYOUT = 3
DIRECTORY = "checkpoints"
DAMAGED = "damaged"
# The old checkpoint of a step that is being saved again, on the same disk.
REPLACED = pathlib.PurePath(DIRECTORY, "replaced")
METRIC = "test/top1_error"


def _to_host(state):
    # A copy: the next step reuses the device's memory while Orbax still writes.
    return jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)


@contextlib.contextmanager
def _without_warnings():
    """Without Orbax's warnings, which a notebook would show.

    They are about a manager that only reads, and a save without a test error: both are intended.
    """
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
        # One of several processes has checkpoints, and does not wait for the others.
        process = jax.process_index()
        self._options = ocp.CheckpointManagerOptions(
            create=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=process, active_processes={process}
            ),
            read_only=read_only,
            save_interval_steps=0 if read_only else 1,  # other than 0, Orbax warns of it
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
            # Orbax reads every step's JSON files here, and stops at one that it cannot parse.
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
        """The steps with a JSON file that cannot be parsed."""
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
        """Puts back the checkpoint that an interrupted save was to replace."""
        for old in self._replaced():
            if not (self.directory / old.name).exists():
                old.rename(self.directory / old.name)
        self._forget_replaced()

    def _replaced(self) -> list[pathlib.Path]:
        return sorted((self.workdir / REPLACED).glob("*"))

    def _forget_replaced(self) -> None:
        """Deletes the old checkpoint: the new one is complete."""
        if (self.workdir / REPLACED).exists():
            shutil.rmtree(self.workdir / REPLACED, ignore_errors=True)

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def holds(self, step: int, scored: bool) -> bool:
        """Whether `step` is saved; scored: together with its test error."""
        if step not in self.steps():
            return False
        try:
            return not scored or METRIC in (self._read_description(step)["metrics"] or {})
        except UserError:
            raise
        except Exception as error:
            self._raise_if_undamaged(step, error)
            return False  # it is damaged, and will be saved again

    def best_step(self) -> int | None:
        """The saved step with the lowest test error; None if none was evaluated."""
        scored = {}
        for step in self.steps():
            try:
                metrics = self._read_description(step)["metrics"] or {}
            except UserError:
                raise
            except Exception as error:
                self._raise_if_undamaged(step, error)
                if self._was_deleted(step):
                    return self.best_step()
                self._report(step, error)
                continue
            if METRIC in metrics:
                scored[step] = metrics[METRIC]
        return min(scored, key=lambda step: (scored[step], step)) if scored else None

    def save(self, step: int, state, metrics: dict | None = None) -> None:
        """Starts a save and returns when the state is copied. Raises if an earlier save failed."""
        state = _to_host(state)
        description = {
            "layout": LAYOUT,
            "step": step,
            "metrics": metrics,
            "arrays": fingerprint(state),
        }
        description["digest"] = description_digest(description)
        try:
            self._manager.wait_until_finished()
            self._forget_replaced()
            if step in self._manager.all_steps():
                # It was saved when a signal came before its evaluation, and now has metrics. The
                # old checkpoint may be the only one, so it stays until the new one is complete.
                (self.workdir / REPLACED).mkdir(exist_ok=True)
                (self.directory / str(step)).rename(self.workdir / REPLACED / str(step))
                self._manager.reload()
            with _without_warnings():
                self._manager.save(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.PyTreeSave(state),
                        description=ocp.args.JsonSave(description),
                    ),
                    metrics=metrics,
                    force=True,
                )
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Returns when the last save is complete. Raises UserError if it failed."""
        try:
            self._manager.wait_until_finished()
            if not self._options.read_only:
                self._forget_replaced()
        except Exception as error:
            raise self._failed(error) from error

    def check(self) -> None:
        """Raises UserError if the save in the background has failed. Does not wait for it."""
        if not self.is_saving():
            self.wait()

    def is_saving(self) -> bool:
        """Whether a save runs in the background."""
        return self._manager.is_saving_in_progress()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def _failed(self, error: Exception) -> UserError:
        why = system_reason(error) or one_line(error)
        return UserError(
            f"could not save a checkpoint in {self.directory} ({why}): free some space or check the"
            " folder, then run the same command again"
        )

    def restore(self, like, step: int | None = None):
        """(step, state) of the newest good checkpoint, or of `step`; None if there is none.

        like: a state, or ShapeDtypeStructs, with the structure to restore. A damaged checkpoint is
        reported on standard error and moved to WORKDIR/damaged, and the one before it is used.
        Raises UserError, and moves nothing, if all are damaged, if they hold another model, and if
        an undamaged one cannot be read.
        """
        return self._newest(step, lambda candidate: self._read(candidate, like))

    def restore_variables(self, step: int | None = None):
        """(step, variables as `TrainState.variables`) of the newest good checkpoint, or of `step`.

        Of any model. None if there is none; errors as in `restore`.
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
                    " run is training there, resume it first, which restores the old one"
                )
        steps = self.steps() if step is None else [step]
        damaged = []
        for candidate in reversed(steps):
            try:
                content = read(candidate)
            except UserError:
                raise
            except Exception as error:
                self._raise_if_undamaged(candidate, error)
                if step is None and self._was_deleted(candidate):
                    return self._newest(None, read)
                self._report(candidate, error)
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
                f"checkpoint {step} in {self.workdir} cannot be read: use another one, by"
                " --config.evaluate.checkpoint=latest"
            )
        if damaged or any((self.workdir / DAMAGED).glob("*")):
            raise UserError(
                f"no checkpoint in {self.workdir} can be read: restore a copy of them, or start"
                " anew in another --workdir"
            )
        return None

    def _was_deleted(self, step: int) -> bool:
        """Whether a run that is training has deleted the step. If so, finds its newer steps."""
        if not self._options.read_only or (self.directory / str(step)).exists():
            return False
        self._manager.reload()
        return step not in self.steps()

    def _raise_if_undamaged(self, step: int, error: Exception) -> None:
        """Raises UserError if the reason for an error is not in the checkpoint's files."""
        why = reason_outside_file(error)
        if why:
            path = self.directory / str(step)
            raise UserError(
                f"cannot read checkpoint {path} ({why}): see to it and run the same command again;"
                f" to resume from an older one, move {path} elsewhere"
            ) from error

    def _read_description(self, step: int) -> dict:
        content = self._manager.restore(
            step, args=ocp.args.Composite(description=ocp.args.JsonRestore())
        ).description
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
            raise ValueError("its description is not the one of this step")
        error = (content["metrics"] or {}).get(METRIC, 0.0)
        if not isinstance(content["arrays"], dict) or not 0 <= error <= 1:
            raise ValueError("its description is damaged")
        return content

    def _read(self, step: int, like):
        saved = self._read_description(step)["arrays"]
        wanted = shapes(like)
        for name in sorted(wanted.keys() | saved.keys()):
            is_there = saved.get(name, [])[:2]
            if wanted.get(name, []) != is_there:
                raise UserError(
                    f"checkpoint {step} in {self.directory} is of another model: {name} is"
                    f" {is_there or 'not there'}, not {wanted.get(name, 'there at all')}:"
                    " use the config that it was made with"
                )
        state = self._restore(
            step, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
        )
        check_fingerprint(fingerprint(state), saved)
        return state

    def _read_variables(self, step: int) -> dict:
        # The optimizer's state, which is as large as the variables, is not read. The sizes are
        # those of the description, whatever the arrays' own files say.
        target, expected = {}, {}
        for path, entry in self._read_description(step)["arrays"].items():
            names = re.findall(r"[^.\[\]']+", path)  # of ".params['conv1']['kernel']"
            if names[0] in ("params", "model_state", "average"):
                branch = target
                for name in names[:-1]:
                    branch = branch.setdefault(name, {})
                branch[names[-1]] = np.zeros(*entry[:2])
                expected["".join(f"['{name}']" for name in names)] = entry
        state = self._restore(step, target, partial=True)
        check_fingerprint(fingerprint(state), expected)
        return {"params": state.get("average", state["params"]), **state.get("model_state", {})}

    def _restore(self, step: int, target, partial: bool = False):
        """Arrays of the target's shapes. partial: True if the target is a part of the state."""
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


def check_fingerprint(actual: dict[str, list], expected: dict[str, list]) -> None:
    """Raises ValueError unless the arrays are those that were saved."""
    if actual.keys() != expected.keys():
        name = min(actual.keys() ^ expected.keys())
        raise ValueError(f"{name} is {'missing' if name in expected else 'new'}")
    for name, entry in actual.items():
        if entry != expected[name]:
            raise ValueError(f"the contents of {name} do not match their checksum")
