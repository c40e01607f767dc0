"""The interface of a writer of metrics, and the facts about a run that it gets."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True)
class RunStart:
    """A run at the moment at which training starts or resumes.

    workdir: the run's folder. config: the whole config, as config.json stores it. step: the step at
    which training starts; 0 for a new run. records: those of the steps up to `step`, in order. A
    logger may hold records of later steps, from before the run was interrupted; they are void.
    """

    workdir: pathlib.Path
    step: int = 0
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    records: Sequence[Mapping[str, Any]] = ()

    @property
    def name(self) -> str:
        """The name of the run: that of its folder."""
        return self.workdir.resolve().name


class MetricWriter(Protocol):
    """Receives the records of a run. Only the process that writes files has writers.

    A subclass must define `write`. All methods are called between two training steps, so training
    waits for them.
    """

    def write(self, record: dict[str, Any]) -> None:
        """record: step, epoch, and any of the values that docs/training.md lists."""

    def sync(self) -> None:
        """Makes sure that all records are on the disk. Called before each checkpoint."""

    def close(self) -> None:
        """Called at the end of training, also after an error."""


# Opens a writer when training starts, resumes, or rolls back: a function, or the writer's class.
Opener = Callable[[RunStart], MetricWriter]
