"""The loop over steps, and what the host does between them: records, tests, checkpoints."""

import collections
import contextlib
import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from errors import UserError
from input_pipeline import batches, sources, stream
from train_lib import console, recorder
from train_lib.checkpoints import METRIC
from train_lib.distributed import parallel, processes
from train_lib.distributed.signals import StopRequest
from train_lib.evaluation.metrics import evaluate
from train_lib.steps import record_of


class NotFinite(UserError):
    """A loss or a parameter became infinite or no number."""

    def __init__(self, what: str, rate):
        super().__init__(
            f"{what}: lower config.schedule.learning_rate (now {float(rate):g}), or the data or"
            " the recipe are at fault; the last checkpoint is kept"
        )

    raised_by_all_processes = True  # several processes look at the same numbers


@jax.jit
def _all_finite(tree):
    return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree)


def parameter_not_finite(params) -> str | None:
    """The name, as "conv1/kernel", of the first parameter that is not finite; None if all are."""
    for name, is_finite in flatten_dict(jax.device_get(_all_finite(params)), sep="/").items():
        if not is_finite:
            return name
    return None


class Run:
    """The loop over steps, and what the host does between them.

    Of several processes each runs it, in step with the others: whatever is decided here follows
    from what all of them know. checkpoints: None where another process writes.
    """

    def __init__(self, exp, plan, workdir, checkpoints, rate, train_split, test_split):
        self.exp, self.config, self.plan = exp, exp.config, plan
        self.workdir, self.checkpoints, self.rate = workdir, checkpoints, rate
        self.train_split, self.test_split = train_split, test_split
        self.eval_step = exp.eval_step()
        self.writer = self.progress = None
        self.last_result = (None, None)  # the newest test: step and Result
        self.batches = None
        self.names: list[str] = []  # of the parameters, in the order of the tree's leaves
        self.skipped_before = 0  # unreadable images left out before the last roll-back
        self.asked = StopRequest()  # whether this process was asked to stop
        self.agreed = False  # whether all processes know that one was

    def train(self, state, step: int, train_step, stop):
        """From `step` to the end of the plan, or to the first dispatch after `stop()`.

        Of several processes, to one that all of them reach; then a dispatch or two later.

        train_step: `several` steps, already parallel.
        """
        plan, self.asked = self.plan, stop
        leaves = jax.tree.leaves_with_path(state.params)
        self.names = ["/".join(key.key for key in path) for path, _ in leaves]
        self.writer = (
            recorder.Writer(self.workdir, step) if processes.is_first() else recorder.Mirror()
        )
        last = processes.bytes_from_first(lambda: json.dumps(self.writer.last).encode())
        self.writer.last = json.loads(last)
        self.progress = console.Progress(
            plan.total_steps, step, self.config.batch_size, quiet=not processes.is_first()
        )
        self.batches = self._batches(step)
        ahead = None  # the next batch, on its way to the devices while they compute
        pending = collections.deque()  # dispatched, not yet looked at: (first step, records)
        compiled = set()

        while True:
            # Looked at once: a signal after this line waits for the next round.
            stopping = self._stopping()
            if stopping or step in plan.evaluate_at or step in plan.save_at:
                while pending:
                    self._log(*pending.popleft(), held=step)
                self.progress.paused()
                state, stopping = self._between_steps(state, step)
            if stopping or step == plan.total_steps:
                return state
            steps = plan.dispatch(step)
            batch = ahead or self._next_batch()
            self.progress.running()
            state, records = train_step(state, batch)
            more = step + steps < plan.total_steps
            ahead = self._next_batch(records) if more else None
            if steps not in compiled:
                jax.block_until_ready(records)
                self.asked.nothing_to_save = False
                compiled.add(steps)
                self.progress.forget()
            pending.append((step, records))
            step += steps
            if len(pending) > 1:  # one dispatch in flight while the host looks at the last
                self._log(*pending.popleft(), held=step)

    def _batches(self, first: int) -> stream.TrainBatches:
        """Batches from step `first` on."""
        config, plan, devices = self.config, self.plan, len(self.exp.devices)
        order = batches.Order(
            config.seed, config.batch_size, devices, processes.index(), processes.count()
        )
        steps = range(first, plan.total_steps)
        return stream.TrainBatches(self.train_split, self.exp.reading, order, steps, plan.dispatch)

    @property
    def skipped(self) -> int:
        """Unreadable images that were left out."""
        return self.skipped_before + (self.batches.skipped if self.batches else 0)

    def _stopping(self) -> bool:
        """Whether to stop here. Of several processes all stop at the same step."""
        return self.agreed if processes.count() > 1 else self.asked()

    def _next_batch(self, running=None):
        """On its way to the devices, while they compute `running`."""
        with self.progress.waiting(running):
            batch = next(self.batches)
        if processes.count() > 1:  # the others learn from it what this one was asked
            batch["stop"] = np.full(batch["label"].shape[:2], self.asked(), np.int32)
        return parallel.scatter(batch, self.exp.devices)

    def _log(self, first: int, records: dict, held: int) -> None:
        """Writes the records of one dispatch, except that of step `held`, which may gain a test."""
        records = {name: np.asarray(values) for name, values in records.items()}
        steps = len(records["loss"])
        self.progress.done(steps)
        if self.checkpoints:
            self.checkpoints.check()  # at once, and not only when the next save is due
        self.agreed = self.agreed or bool(np.any(records.get("stop", 0)))
        for i in range(steps):
            step, record = first + i + 1, {k: v[i] for k, v in records.items()}
            self._check_finite(step, record)
            if self._is_logged(step) and step != held:
                self._write(self._train_record(step, record), self.progress.rate())

    def _is_logged(self, step: int) -> bool:
        return step % self.config.log_every_steps == 0 or step == self.plan.total_steps

    def _check_finite(self, step: int, record: dict, state=None) -> None:
        """Raises NotFinite for a loss or gradient, or, given a state, a parameter that is not.

        Those that were skipped count only once there are too many.
        """
        rate = record["rate"]
        section = self.config.not_finite
        if section.action == "skip":
            if record["skipped"] > section.limit:
                what = f"{int(record['skipped'])} updates were not finite, the last at step {step}"
                raise NotFinite(what, rate)
        elif record.get("bad", -1) >= 0 or not math.isfinite(record["loss"]):
            found = [] if math.isfinite(record["loss"]) else [f"the loss is {record['loss']}"]
            if 0 <= record.get("bad", -1) < len(self.names):
                found.append(f"the gradient of {self.names[record['bad']]} is not finite")
            raise NotFinite(f"{' and '.join(found)} at step {step}", rate)
        name = state and parameter_not_finite(state.params)
        if name:
            raise NotFinite(f"{name} is not finite after step {step}", rate)

    def _train_record(self, step: int, record: dict) -> dict:
        """record: `steps.record_of` the state after `step`, on the host."""
        examples = float(record["examples"])
        means = {}
        if examples:  # not all were skipped
            means = {
                "train/loss": float(record["loss"]) / examples,
                "train/top1_error": float(record["errors"]) / examples,
            }
        skipped = {}
        if self.config.not_finite.action == "skip":
            skipped = {"train/skipped": int(record["skipped"])}
        return {
            "step": step,
            "epoch": self.plan.epoch(step),
            **means,
            "train/learning_rate": float(record["rate"]),  # that of the last update
            **skipped,
        }

    def _write(self, record: dict, rate: float | None) -> None:
        if rate is not None:
            record["train/images_per_second"] = rate
            record["train/data_wait"] = self.progress.waited
        self.writer.write(record)
        self.progress.tell(record)

    def _between_steps(self, state, step: int):
        """Record, evaluation and checkpoint of `step`, each only if due and not yet there.

        Returns the state, in which the rate may have fallen, and whether training is to stop
        here, in which case it is saved. An evaluation that a signal cuts short leaves no record:
        the resumed run makes it.
        """
        last = {name: np.asarray(value) for name, value in record_of(state).items()}
        # Its parameters, too: they are about to be saved, and the next loss would come too late.
        self._check_finite(step, last, state)
        evaluation_due = step in self.plan.evaluate_at
        result, is_recorded = None, self.writer.last_step >= step
        if step > 0 and not is_recorded and (evaluation_due or self._is_logged(step)):
            if self._is_logged(step):
                record = self._train_record(step, last)
            else:
                record = {"step": step, "epoch": self.plan.epoch(step)}
            if evaluation_due:
                with self.progress.timed("tests"):
                    result = self._evaluate(state, self.asked)
                self.agreed = self.agreed or result is None
            if result is not None or not evaluation_due:
                self._write(record | (result.metrics() if result else {}), self.progress.rate())
        if result is not None:
            self.last_result = (step, result)
        state = self._observed(state, step)
        stopping = self._stopping()
        due = self.checkpoints and (step in self.plan.save_at or stopping)
        error = self._error_of(step)
        if step > 0 and due and not self.checkpoints.holds(step, scored=error is not None):
            self.asked.nothing_to_save = False
            with self.progress.timed("saving"):
                self.writer.sync()  # the records up to a checkpoint are on the disk before it is
                self.checkpoints.save(step, state, None if error is None else {METRIC: error})
        return state, stopping

    def _error_of(self, step: int) -> float | None:
        """The test's error at `step`, from its record; None if there was no test.

        Not from the test itself: a run killed between the record and the save of a step that was
        saved before, without its test, finds the one and not the other.
        """
        return self.writer.last.get(METRIC) if self.writer.last_step == step else None

    def _observed(self, state, step: int):
        """The state once the plateau rule has seen the test of `step`, if there is one."""
        error = self._error_of(step)
        if error is None or not self.rate.plateau:
            return state
        opt_state = self.rate.observe(state.opt_state, error, step)
        return state.replace(opt_state=parallel.replicate(opt_state, self.exp.devices))

    def _evaluate(self, state, stop=lambda: False):
        return evaluate(self.eval_step, state, self.exp.eval_batches, self.test_split, stop)

    def is_complete(self) -> bool:
        """Whether the last step was made and tested."""
        return self.writer.last_step == self.plan.total_steps and METRIC in self.writer.last

    def close(self) -> None:
        """Each part is closed, whatever comes of the others; the last error is raised."""
        with contextlib.ExitStack() as closing:
            if self.progress:
                closing.callback(self.progress.close)
            if self.writer:
                closing.callback(self.writer.close)
            if self.checkpoints:
                closing.callback(self.checkpoints.close)
            if self.batches is not None:
                closing.callback(self.batches.close)  # and the workers that decode for it

    def finish(self, state) -> None:
        """Plots and the closing lines."""
        step, result = self.last_result
        if step != self.plan.total_steps:  # the run was complete before it began
            result = self._evaluate(state)
        counts = processes.gather(skipped=np.int64(self.skipped))
        if not processes.is_first():
            return
        from train_lib.pictures import run_plots  # Matplotlib: not before the first step

        skipped = sum(int(one["skipped"]) for one in counts)
        run_plots.write_all(
            self.workdir,
            recorder.read(self.workdir),
            self.exp.module,
            state.variables()["params"],
            result,
            self.exp.info.class_names,
            lambda i: self.exp.picture(self.test_split, i),
        )
        split = sources.split_name(self.config.dataset, self.config.dataset.test_split)
        if skipped:
            print(f"{skipped} times an image could not be read, and another stood in for it")
        print(
            f"test error {result.top1_error:.2%} ({round(result.top1_error * result.examples)} of"
            f" {result.examples} images of {self.config.dataset.name}"
            f" {split}), loss {result.loss:.4f}, after"
            f" {self.plan.total_steps} steps",
            f"written to {self.workdir}: config.json, metrics.jsonl, events/ (TensorBoard),"
            " checkpoints/, plots/",
            sep="\n",
            file=sys.stdout,
            flush=True,
        )
