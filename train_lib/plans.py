"""When a run tests, saves and ends, in steps: the plan that follows from its config."""

import bisect
import dataclasses
import functools
import math

from ml_collections import ConfigDict

from configs.rules import LARGEST_INT
from errors import UserError

_MOST_EVENTS = 1_000_000  # tests, or saves, of a run


@dataclasses.dataclass(frozen=True)
class Plan:
    """When things happen, in steps: derived from the final config and the data set's size."""

    steps_per_epoch: float
    total_steps: int
    evaluate_at: frozenset[int]
    save_at: frozenset[int]
    steps_per_dispatch: int

    def epoch(self, step: int) -> float:
        return step / self.steps_per_epoch

    def next_boundary(self, step: int) -> int:
        """The next step behind `step` at which the host has something to do."""
        return self._boundaries[bisect.bisect_right(self._boundaries, step)]

    @functools.cached_property
    def _boundaries(self) -> list[int]:
        return sorted(self.evaluate_at | self.save_at)

    def dispatch(self, step: int) -> int:
        """How many steps the next device call makes: steps_per_dispatch, or one.

        Depends on the step alone: a run that goes on from any dispatch's end makes the same
        calls, hence the same rounding, as one that never stopped.
        """
        whole = self.next_boundary(step) - step >= self.steps_per_dispatch
        return self.steps_per_dispatch if whole else 1


def make_plan(config: ConfigDict, num_examples: int) -> Plan:
    """The plan of a run over a training set of `num_examples`.

    Raises UserError for more steps, tests or saves than can be.
    """
    steps_per_epoch = num_examples / config.batch_size
    if config.epochs * steps_per_epoch > LARGEST_INT:
        raise UserError(
            f"config.epochs={config.epochs}: these are {config.epochs * steps_per_epoch:.3g} steps,"
            " which must be less than 2^31"
        )
    # Rounded against 60.00000001 steps.
    total = max(1, math.ceil(round(config.epochs * steps_per_epoch, 6)))

    def check(field: str, count: float) -> None:
        if count > _MOST_EVENTS:
            raise UserError(
                f"config.{field}: that is {count:.3g} times in this run, and must be"
                f" {_MOST_EVENTS:,} or less: raise it"
            )

    def every(section: str) -> set[int]:
        epochs = config[section].every_epochs
        check(f"{section}.every_epochs={epochs}", config.epochs / epochs)
        count = math.ceil(config.epochs / epochs)
        # Never before the first step.
        ends = (end for i in range(1, count + 1) if (end := i * epochs) <= config.epochs)
        steps = (math.ceil(round(end * steps_per_epoch, 6)) for end in ends)
        return {max(1, step) for step in steps if step < total} | {total}

    save_at, steps = every("checkpoint"), config.checkpoint.every_steps
    if steps:
        check(f"checkpoint.every_steps={steps}", total / steps)
        save_at |= set(range(steps, total, steps))
    return Plan(
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
        evaluate_at=frozenset(every("evaluate")),
        save_at=frozenset(save_at),
        steps_per_dispatch=config.steps_per_dispatch,
    )
