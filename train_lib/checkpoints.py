"""Checkpoints by Orbax: asynchronous, atomic, the newest few and the best.

A checkpoint of step n holds the state as NumPy arrays (so any number and kind of devices can
take it up again) and a description: layout version, step, test error and, for every array, its
shape, dtype and SHA-256, with a SHA-256 of all that (`descriptions`). On restore everything is
compared.
"""

import contextlib
import errno
import hashlib
import json
import os
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

# 2: the optimizer's state holds the rate and what its rules have seen. 3: the description has a
# checksum of its own, and the metrics.
LAYOUT = 3
DIRECTORY = "checkpoints"
DAMAGED = "damaged"
# Beside the checkpoints, on their disk: that whose step is being saved again.
REPLACED = pathlib.PurePath(DIRECTORY, "replaced")
METRIC = "test/top1_error"


# What the system says of a file that was damaged. Anything else (no descriptor, no memory, a disk
# or a server that does not answer) it may say of a good one.
_OF_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP)


def _system_error(error: BaseException) -> int | None:
    """What the system said, as its number; it stands far back in TensorStore's long lines."""
    in_text = re.search(r"os_error_code='(\d+)'", str(error))
    number = int(in_text.group(1)) if in_text else getattr(error, "errno", None)
    return number if isinstance(number, int) else None


def _passing(error: BaseException | None) -> str | None:
    """What kept a file from being read, if it says nothing about what the file holds; else None."""
    while error is not None:
        if isinstance(error, MemoryError):
            return "there is not enough memory"
        if "can't start new thread" in str(error):
            return "there are too many processes and threads"
        number = _system_error(error)
        if number is not None and number not in _OF_DAMAGE:
            return os.strerror(number)
        error = error.__cause__ or error.__context__
    return None


def _to_host(state):
    # Copies: the device's memory is given to the next step while Orbax still writes.
    return jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)


@contextlib.contextmanager
def _without_warnings():
    """Without Orbax's, as on the command line, where `main` silences them; a notebook shows them.

    They are of what is meant so: a manager that only reads, a save without a test's error.
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
        # Of several processes one has checkpoints, and waits for no other.
        own = {"primary_host": jax.process_index(), "active_processes": {jax.process_index()}}
        self._options = ocp.CheckpointManagerOptions(
            create=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(**own),
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
                self._take_back()
            with _without_warnings():
                self._manager = ocp.CheckpointManager(self.directory, options=self._options)
        except Exception as error:
            # Orbax reads every step's JSON files here, and stops at one that it cannot parse.
            may_move = not self._options.read_only and not _passing(error)
            unreadable = self._unreadable_steps() if may_move else []
            for step in unreadable:
                self._report(step, error)
                self._move_aside(step)
            if unreadable:
                return self._open()
            raise UserError(
                f"cannot open {self.directory} ({_passing(error) or one_line(error)}): check the"
                " folder, or choose another --workdir"
            ) from error

    def _unreadable_steps(self) -> list[int]:
        """The steps with a JSON file that cannot be parsed."""
        found = []
        for folder in self.directory.iterdir() if self.directory.is_dir() else ():
            if folder.name.isdecimal() and folder.is_dir():
                files = [folder / "_CHECKPOINT_METADATA", *folder.glob("metrics/metrics")]
                try:
                    for file in files:
                        json.loads(file.read_text())
                except (OSError, ValueError) as error:
                    if not _passing(error):
                        found.append(int(folder.name))
        return found

    def _take_back(self) -> None:
        """What a save that did not come to its end was to replace."""
        for old in self._replaced():
            if not (self.directory / old.name).exists():
                old.rename(self.directory / old.name)
        self._forget_replaced()

    def _replaced(self) -> list[pathlib.Path]:
        return sorted((self.workdir / REPLACED).glob("*"))

    def _forget_replaced(self) -> None:
        """Its new save is complete."""
        if (self.workdir / REPLACED).exists():
            shutil.rmtree(self.workdir / REPLACED, ignore_errors=True)

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def holds(self, step: int, scored: bool) -> bool:
        """Whether `step` is saved; scored: with its test error."""
        if step not in self.steps():
            return False
        try:
            return not scored or METRIC in (self._read_description(step)["metrics"] or {})
        except UserError:
            raise
        except Exception as error:
            self._raise_passing(step, error)
            return False  # damaged, and about to be saved again

    def best_step(self) -> int | None:
        """The saved step with the lowest test error; None if none was evaluated."""
        scored = {}
        for step in self.steps():
            try:
                metrics = self._read_description(step)["metrics"] or {}
            except UserError:
                raise
            except Exception as error:
                self._raise_passing(step, error)
                if self._has_gone(step):
                    return self.best_step()
                self._report(step, error)
                continue
            if METRIC in metrics:
                scored[step] = metrics[METRIC]
        return min(scored, key=lambda step: (scored[step], step)) if scored else None

    def save(self, step: int, state, metrics: dict | None = None) -> None:
        """Starts a save; returns once the state is copied. An earlier save's failure shows here."""
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
                # Saved when a signal came before its evaluation; now with its metrics. The old one
                # goes once the new one is complete: it may be the only one there is.
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
        """Raises UserError if a save in the background has ended, and failed. Does not wait."""
        if not self.is_saving():
            self.wait()

    def is_saving(self) -> bool:
        """Whether a save is under way in the background."""
        return self._manager.is_saving_in_progress()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def _failed(self, error: Exception) -> UserError:
        number = _system_error(error)
        why = one_line(error) if number is None else os.strerror(number)
        return UserError(
            f"could not save a checkpoint in {self.directory} ({why}): free some space or check the"
            " folder, then run the same command again"
        )

    def restore(self, like, step: int | None = None):
        """(step, state) of the newest good checkpoint, or of `step`; None if there is none.

        like: a state (or its abstract form) with the structure to restore into. A damaged
        checkpoint is reported on standard error, and the one before it used; then it is moved to
        WORKDIR/damaged. Raises UserError, and moves nothing, if all are damaged or were, if they
        hold another model, and for what keeps a good one from being read.
        """
        return self._newest(step, lambda candidate: self._read(candidate, like))

    def restore_variables(self, step: int | None = None):
        """(step, what `TrainState.variables` gives) of the newest good checkpoint, of any model.

        step: of this one. None if there is none; errors as in `restore`.
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
                    " run is training there, go on with it first, which takes the old one back"
                )
        steps = self.steps() if step is None else [step]
        damaged = []
        for candidate in reversed(steps):
            try:
                found = read(candidate)
            except UserError:
                raise
            except Exception as error:
                self._raise_passing(candidate, error)
                if step is None and self._has_gone(candidate):
                    return self._newest(None, read)
                self._report(candidate, error)
                damaged.append(candidate)
                continue
            if damaged and not self._options.read_only:
                self._manager.close()
                for one in damaged:
                    self._move_aside(one)
                self._open()
            return candidate, found
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

    def _has_gone(self, step: int) -> bool:
        """Whether a run has removed what this only reads. If so, its newer ones are known now."""
        if not self._options.read_only or (self.directory / str(step)).exists():
            return False
        self._manager.reload()
        return step not in self.steps()

    def _raise_passing(self, step: int, error: Exception) -> None:
        """Raises UserError for an error that says nothing about what the checkpoint holds."""
        why = _passing(error)
        if why:
            path = self.directory / str(step)
            raise UserError(
                f"cannot read checkpoint {path} ({why}): see to it and run the same command again;"
                f" to go on from an older one, move {path} elsewhere"
            ) from error

    def _read_description(self, step: int) -> dict:
        read = self._manager.restore(
            step, args=ocp.args.Composite(description=ocp.args.JsonRestore())
        ).description
        intact = read.get("digest") == description_digest(read)
        if "digest" in read and not intact:
            raise ValueError("its description does not match its checksum")
        if read["layout"] != LAYOUT:
            raise UserError(
                f"checkpoint {step} in {self.directory} has layout {read['layout']}; this version"
                f" of Canon reads layout {LAYOUT}: go on with the version that made it, or in"
                " another --workdir"
            )
        if not intact or read["step"] != step:
            raise ValueError("its description is not the one of this step")
        error = (read["metrics"] or {}).get(METRIC, 0.0)
        if not isinstance(read["arrays"], dict) or not 0 <= error <= 1:
            raise ValueError("its description is none")
        return read

    def _read(self, step: int, like):
        read = self._read_description(step)
        target = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
        wanted = {name: entry[:2] for name, entry in fingerprint(target).items()}
        found = {name: entry[:2] for name, entry in read["arrays"].items()}
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                raise UserError(
                    f"checkpoint {step} in {self.directory} is of another model: {name} is"
                    f" {found.get(name, 'not there')}, not {wanted.get(name, 'there at all')}:"
                    " use the config that it was made with"
                )
        state = self._restore(step, target)
        check_fingerprint(fingerprint(state), read["arrays"])
        return state

    def _read_variables(self, step: int) -> dict:
        # The optimizer's state, as large again, is not read; and what is, is as large as the
        # description says, whatever the arrays' own files do.
        target, expected = {}, {}
        for path, entry in self._read_description(step)["arrays"].items():
            names = re.findall(r"[^.\[\]']+", path)  # of ".params['conv1']['kernel']"
            if names[0] in ("params", "model_state", "average"):
                at = target
                for name in names[:-1]:
                    at = at.setdefault(name, {})
                at[names[-1]] = np.zeros(*entry[:2])
                expected["".join(f"['{name}']" for name in names)] = entry
        found = self._restore(step, target, partial=True)
        check_fingerprint(fingerprint(found), expected)
        return {"params": found.get("average", found["params"]), **found.get("model_state", {})}

    def _restore(self, step: int, target, partial: bool = False):
        """Arrays of the target's shapes. partial: the target is a part of what is there."""
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


def fingerprint(state) -> dict[str, list]:
    """{path: [shape, dtype, SHA-256]} of a tree of NumPy arrays."""
    leaves = jax.tree.leaves_with_path(state)
    return {
        jax.tree_util.keystr(path): [
            list(leaf.shape),
            str(leaf.dtype),
            hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest(),
        ]
        for path, leaf in leaves
    }


def description_digest(description: dict) -> str:
    """SHA-256 of a description but for its `digest`."""
    rest = {name: value for name, value in description.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check_fingerprint(found: dict[str, list], expected: dict[str, list]) -> None:
    """Raises ValueError unless these arrays are the ones that were saved."""
    if found.keys() != expected.keys():
        name = min(found.keys() ^ expected.keys())
        raise ValueError(f"{name} is {'missing' if name in expected else 'new'}")
    for name, entry in found.items():
        if entry != expected[name]:
            raise ValueError(f"the contents of {name} do not match their checksum")
