"""When a run evaluates, saves and ends."""

import bisect
import dataclasses
import functools
import math

from ml_collections import ConfigDict

from configs.rules import LARGEST_INT
from errors import UserError

_MOST_EVENTS = 1_000_000  # largest number of evaluations, or of saves, in a run


@dataclasses.dataclass(frozen=True)
class Plan:
    """When a run evaluates, saves and ends, in steps. epochs: the length of the run.

    estimate_at: before which steps second derivatives are estimated: the first of each pass.
    """

    steps_per_epoch: float
    epochs: float
    total_steps: int
    evaluate_at: frozenset[int]
    save_at: frozenset[int]
    steps_per_dispatch: int
    estimate_at: frozenset[int] = frozenset()

    def epoch(self, step: int) -> float:
        return step / self.steps_per_epoch

    def next_boundary(self, step: int) -> int:
        """The next step after `step` at which the host evaluates, saves or estimates."""
        return self._boundaries[bisect.bisect_right(self._boundaries, step)]

    @functools.cached_property
    def _boundaries(self) -> list[int]:
        return sorted(self.evaluate_at | self.save_at | self.estimate_at)

    def dispatch(self, step: int) -> int:
        """The number of steps in the next device call: steps_per_dispatch, or one.

        It depends only on the step. Therefore a resumed run makes the same calls, with the same
        rounding, as an uninterrupted run.
        """
        whole = self.next_boundary(step) - step >= self.steps_per_dispatch
        return self.steps_per_dispatch if whole else 1


# Of a model that is fitted to the whole training set at once.
ONE_STEP = Plan(1.0, 1.0, 1, frozenset([1]), frozenset([1]), 1)


def make_plan(config: ConfigDict, num_examples: int) -> Plan:
    """The plan of a run over a training set of `num_examples`.

    Raises UserError for too many steps, evaluations or saves.
    """
    steps_per_epoch = num_examples / config.batch_size
    epochs = config.steps / steps_per_epoch if config.steps else config.epochs
    if epochs * steps_per_epoch > LARGEST_INT:
        raise UserError(
            f"config.epochs={epochs}: these are {epochs * steps_per_epoch:.3g} steps, and the limit"
            " is 2^31: lower it"
        )
    # Rounded first, so that 60.00000001 steps count as 60.
    total = config.steps or max(1, math.ceil(round(epochs * steps_per_epoch, 6)))
    warmup = config.schedule.warmup_epochs
    if config.steps and warmup >= epochs:
        raise UserError(
            f"config.schedule.warmup_epochs={warmup}: must be less than config.steps={total}, which"
            f" are {epochs:.3g} epochs"
        )

    def check(field: str, count: float) -> None:
        if count > _MOST_EVENTS:
            raise UserError(
                f"config.{field}: this happens {count:.3g} times in the run, and the limit is"
                f" {_MOST_EVENTS:,}: raise it"
            )

    def event_steps(section: str) -> set[int]:
        every = config[section].every_epochs
        check(f"{section}.every_epochs={every}", epochs / every)
        count = math.ceil(epochs / every)
        # The plan has no events at step 0. Such an event moves to step 1.
        ends = (end for i in range(1, count + 1) if (end := i * every) <= epochs)
        steps = (math.ceil(round(end * steps_per_epoch, 6)) for end in ends)
        return {max(1, step) for step in steps if step < total} | {total}

    save_at, steps = event_steps("checkpoint"), config.checkpoint.every_steps
    if steps:
        check(f"checkpoint.every_steps={steps}", total / steps)
        save_at |= set(range(steps, total, steps))
    estimate_at = set()
    if config.optimizer.curvature_examples:
        check(f"epochs={epochs}", epochs)
        estimate_at = {math.ceil(round(i * steps_per_epoch, 6)) for i in range(math.ceil(epochs))}
        estimate_at -= {total}
    return Plan(
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        total_steps=total,
        evaluate_at=frozenset(event_steps("evaluate")),
        save_at=frozenset(save_at),
        steps_per_dispatch=config.steps_per_dispatch,
        estimate_at=frozenset(estimate_at),
    )
