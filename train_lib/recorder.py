"""Makes the records, evaluations and checkpoints of a run, and hands the records to its writers."""

import contextlib
import json
import math
import pathlib
import sys
from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from tqdm import tqdm

from errors import UserError, one_line, printable, reported
from models import sound
from train_lib import progress as progress_lib
from train_lib import state as state_lib
from train_lib.checkpoints import METRIC, Checkpoints
from train_lib.distributed import parallel, processes
from train_lib.distributed.signals import StopRequest
from train_lib.evaluation.metrics import evaluate
from train_lib.metric_writers.interface import MetricWriter, Opener, RunStart
from train_lib.metric_writers.jsonl import FILE, JsonlWriter, read
from train_lib.metric_writers.tensorboard import TensorBoardWriter
from train_lib.metric_writers.trackio_writer import TrackioWriter
from train_lib.steps import record_of

NO_RECORD = {"step": -1, "epoch": 0.0}  # stands for the last record where there is none


class Writer:
    """Writes records to metrics.jsonl, to TensorBoard events, and to other writers.

    A writer that is opened at `step` first deletes the records of later steps, so that a resumed
    run neither repeats nor misses a step. is_due: an evaluation is planned at `step`. A record of
    it without one is then deleted, too. last: the newest record that is left.

    openers: of the other writers. An error in one of them ends only that writer, with one line on
    standard error: the run continues, and metrics.jsonl has all records. All methods raise
    UserError if metrics.jsonl or the events cannot be written. The constructor also raises it if
    another writer cannot be opened.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        step: int,
        config=None,
        openers: Sequence[Opener] = (),
        is_due: bool = False,
    ):
        kept = [record for record in read(workdir) if record["step"] <= step]
        if kept and kept[-1]["step"] == step and is_due and METRIC not in kept[-1]:
            kept.pop()  # its evaluation was not planned then
            step -= 1
        self.last = dict(kept[-1]) if kept else NO_RECORD
        start = RunStart(workdir, step, config or {}, kept)
        self._own = [JsonlWriter(start), TensorBoardWriter(start)]
        self._others = [_opened(opener, start) for opener in openers]

    def write(self, record: dict) -> None:
        """record: step, epoch, and any of the values that docs/training.md lists."""
        for writer in self._own:
            writer.write(record)
        # A copy: no logger can change a record of the run.
        self._for_others(lambda writer: writer.write(dict(record)), f"at step {record['step']}")

    def sync(self) -> None:
        """Makes sure that all records are on the disk."""
        for writer in self._own:
            writer.sync()
        self._for_others(lambda writer: writer.sync(), "before a checkpoint")

    def close(self) -> None:
        with contextlib.ExitStack() as closing:  # closes every writer, even if another one fails
            for writer in self._own:
                closing.callback(writer.close)
            self._for_others(lambda writer: writer.close(), "at the end")

    def _for_others(self, call: Callable[[MetricWriter], None], when: str) -> None:
        """Calls all other writers. One that raises an exception is not called again."""
        for writer in list(self._others):
            try:
                call(writer)
            except Exception as error:
                self._others.remove(writer)
                tqdm.write(
                    printable(
                        f"{type(writer).__name__} failed {when} ({one_line(error)}) and gets no"
                        f" further records; {FILE} has all of them"
                    ),
                    file=sys.stderr,
                )


def _opened(opener: Opener, start: RunStart) -> MetricWriter:
    name = getattr(opener, "__name__", type(opener).__name__)
    with reported(f"cannot open the writer {name}", "correct it, or train without it"):
        return opener(start)


class NotFinite(UserError):
    """A loss, a gradient, a parameter or a statistic became infinite or NaN."""

    raised_by_all_processes = True  # they all check the same numbers

    def __init__(self, message: str, rate):
        super().__init__(
            f"{message}: lower config.schedule.learning_rate (now {float(rate):g}), or look for an"
            " error in the data or the config; the last checkpoint is kept"
        )


@jax.jit
def _soundness(leaves):
    return {path: sound.is_sound(path, leaf) for path, leaf in leaves.items()}


class Recorder:
    """Makes the records, evaluations and checkpoints of a run, between its steps.

    Every process has a Recorder. All make the same decisions, because decisions depend only on
    values that all processes share.

    exp: the `Experiment`. checkpoints: None in processes that do not write files. step: the step at
    which training starts or resumes. openers: of the caller's writers, see `Writer`.
    result: (step, `metrics.Result`) of the last evaluation.
    """

    def __init__(
        self,
        exp,
        checkpoints: Checkpoints | None,
        stop: StopRequest,
        step: int,
        openers: Sequence[Opener] = (),
    ):
        is_first = processes.is_first()
        self.exp, self.checkpoints, self.stop = exp, checkpoints, stop
        if exp.config.tracker == "trackio":
            openers = [*openers, TrackioWriter]
        self._writer = (
            Writer(exp.workdir, step, exp.config.to_dict(), openers, step in exp.plan.evaluate_at)
            if is_first
            else None
        )
        last = processes.bytes_from_first(lambda: json.dumps(self._writer.last).encode())
        self._last = json.loads(last)  # the newest record
        self.progress = progress_lib.Progress(
            exp.plan.total_steps, step, exp.config.batch_size, quiet=not is_first
        )
        self.result = (None, None)
        self._pending = None  # (first step, records) of the dispatch that is not logged yet
        self._compiled = set()  # sizes of dispatches, in steps, that have been compiled
        self._all_know_of_stop = False

    def is_stopping(self) -> bool:
        """Whether training is to stop here. Several processes all stop at the same step."""
        return self._all_know_of_stop if processes.count() > 1 else self.stop()

    def dispatched(self, first: int, records: dict) -> None:
        """Queues the records of a dispatch that starts at step `first`, and logs the one before it.

        The devices are still computing the new dispatch, so its records are not read yet.
        """
        steps = len(records["loss"])
        if steps not in self._compiled:
            jax.block_until_ready(records)
            self.stop.nothing_to_save = False
            self._compiled.add(steps)
            self.progress.discard_compilation()
        pending, self._pending = self._pending, (first, records)
        if pending:
            self._log(*pending)

    def between_steps(self, state, step: int):
        """Records, evaluates and saves `step`; each only if it is due and has not been done.

        Returns (state, is_over). The state's learning rate may have been lowered. is_over: training
        ends at this step; the state is then saved. If a signal interrupts the evaluation, no record
        is written, and the resumed run evaluates again.
        """
        plan = self.exp.plan
        if not (self.is_stopping() or step in plan.evaluate_at or step in plan.save_at):
            return state, False
        if self._pending:
            self._log(*self._pending, excluded_step=step)
            self._pending = None
        self.progress.pause()
        last = {name: np.asarray(value) for name, value in record_of(state).items()}
        self._check_finite(step, last)
        self._check_variables(step, last, state)  # they are about to be saved
        if step > 0 and self._last["step"] < step:
            self._record(state, step, last)
        state = self._with_observed_error(state, step)
        is_stopping = self.is_stopping()
        if step > 0 and (is_stopping or step in plan.save_at):
            self._save(state, step)
        return state, is_stopping or step == plan.total_steps

    def is_complete(self) -> bool:
        """Whether the last step has been computed and evaluated."""
        return self._last["step"] == self.exp.plan.total_steps and METRIC in self._last

    def evaluate(self, state, stop=lambda: False):
        """The `metrics.Result` on the test split; None if `stop()` became true meanwhile."""
        return evaluate(self.exp, state, self.exp.test_split, stop)

    def wait(self) -> None:
        """Waits for a pending save. Raises UserError if it failed."""
        if self.checkpoints:
            with self.progress.timed("saving"):
                self.checkpoints.wait()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        # After an error, errors of closing are not reported. NotFinite is an exception: the run may
        # roll back to a checkpoint and continue, so a failed save must be reported.
        with contextlib.ExitStack() as closing:  # closes every part, even if another one fails
            if error is not None and not isinstance(error, NotFinite):
                closing.enter_context(contextlib.suppress(Exception))
            for part in (self.progress, self._writer, self.checkpoints):
                if part:
                    closing.callback(part.close)

    def _log(self, first: int, records: dict, excluded_step: int | None = None) -> None:
        """Writes the records of a dispatch, except that of `excluded_step`."""
        records = {name: np.asarray(values) for name, values in records.items()}
        self._all_know_of_stop |= bool(records.pop("stop", 0))
        steps = len(records["loss"])
        self.progress.advance(steps)
        if self.checkpoints:
            self.checkpoints.check()  # a failed save is reported now, not at the next save
        for i in range(steps):
            step, record = first + i + 1, {k: v[i] for k, v in records.items()}
            self._check_finite(step, record)
            if self._is_logged(step) and step != excluded_step:
                self._write(self._train_record(step, record))

    def _is_logged(self, step: int) -> bool:
        every = self.exp.config.log_every_steps
        return step % every == 0 or step == self.exp.plan.total_steps

    def _check_finite(self, step: int, record: dict) -> None:
        """Raises NotFinite for a loss or gradient that is not finite, or too many skips."""
        section, loss, bad = self.exp.config.not_finite, record["loss"], record.get("bad", -1)
        if section.action == "skip":
            if record["skipped"] > section.limit:
                raise NotFinite(
                    f"{int(record['skipped'])} updates were not finite, the last at step {step}",
                    record["rate"],
                )
        elif bad >= 0 or not math.isfinite(loss):
            parts = [] if math.isfinite(loss) else [f"the loss is {loss}"]
            names = state_lib.parameter_names(self.exp.module, self.exp.input_shape)
            if 0 <= bad < len(names):
                parts.append(f"the gradient of {names[bad]} is not finite")
            raise NotFinite(f"{' and '.join(parts)} at step {step}", record["rate"])

    def _check_variables(self, step: int, record: dict, state) -> None:
        leaves = flatten_dict({"params": state.params, **state.model_state})
        for path, is_sound in jax.device_get(_soundness(leaves)).items():
            if not is_sound:
                name = "/".join(path[1:])
                raise NotFinite(f"{name} {sound.fault(path)} after step {step}", record["rate"])

    def _train_record(self, step: int, record: dict) -> dict:
        """The line of metrics.jsonl. record: `steps.record_of` the state after `step`."""
        examples = float(record["examples"])
        line = {"step": step, "epoch": self.exp.plan.epoch(step)}
        if examples:  # 0 if all updates were skipped
            line["train/loss"] = float(record["loss"]) / examples
            line["train/top1_error"] = float(record["errors"]) / examples
            line["train/examples"] = round(examples)
        if not self.exp.is_fitted:
            line["train/learning_rate"] = float(record["rate"])  # of the last update
        if self.exp.config.not_finite.action == "skip":
            line["train/skipped"] = int(record["skipped"])
        return line

    def _write(self, line: dict) -> None:
        line |= self.progress.speed()
        if self._writer:
            self._writer.write(line)
        self._last = line
        self.progress.show(line)

    def _record(self, state, step: int, record: dict) -> None:
        """Writes the line of `step`, including its evaluation if one is due."""
        evaluation_is_due = step in self.exp.plan.evaluate_at
        if not (evaluation_is_due or self._is_logged(step)):
            return
        line = self._train_record(step, record)
        if evaluation_is_due:
            with self.progress.timed("evaluation"):
                result = self.evaluate(state, self.stop)
            if result is None:
                self._all_know_of_stop = True
                return
            if not math.isfinite(result.loss):
                raise NotFinite(f"the test loss is {result.loss} after step {step}", record["rate"])
            line |= {f"test/{name}": value for name, value in result.metrics().items()}
            self.result = (step, result)
        self._write(line)

    def _error_of(self, step: int) -> float | None:
        """The test error after `step`, from its record; None if there was no evaluation.

        It is not taken from `result`, because a resumed run may have only the record: when a step
        was saved without an evaluation, evaluated later, and the run was killed before it was saved
        again.
        """
        return self._last.get(METRIC) if self._last["step"] == step else None

    def _with_observed_error(self, state, step: int):
        """The state after the plateau rule has used the test error of `step`, if there is one."""
        error = self._error_of(step)
        if error is None or not self.exp.rate.plateau:
            return state
        opt_state = self.exp.rate.observe(state.opt_state, error, step)
        return state.replace(opt_state=parallel.replicate(opt_state, self.exp.devices))

    def _save(self, state, step: int) -> None:
        """Starts to save the state, unless it has been saved already."""
        error = self._error_of(step)
        if not self.checkpoints or self.checkpoints.holds(step, scored=error is not None):
            return
        self.stop.nothing_to_save = False
        with self.progress.timed("saving"):
            self._writer.sync()  # records must be on the disk before the checkpoint
            self.checkpoints.save(step, state, None if error is None else {METRIC: error})
