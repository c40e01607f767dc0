"""A run that starts with the weights of another (Simonyan 2015, sec. 3.1.1: VGG's deep nets)."""

import dataclasses
import fnmatch
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from errors import UserError
from train_lib import foreign
from train_lib import workdir as folder
from train_lib.checkpoints import Checkpoints
from train_lib.evaluation import exported
from train_lib.state import TrainState


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a state's values come from: names as "conv1/kernel" or, for all of it, "conv1".

    workdir, step: the other run's; of a file of another framework, 0. taken: its values that this
    state has. drawn: those of this net that are not from there. unused: those there that are not
    here.
    """

    workdir: str
    step: int
    taken: list[str]
    drawn: list[str]
    unused: list[str]

    def rows(self) -> dict[str, str]:
        """For the opening block."""
        step = f", step {self.step}" if self.step else ""
        return {
            "weights": f"{self.workdir}{step}: {', '.join(self.taken)}",
            "drawn": ", ".join(self.drawn) or "none",
            "unused": ", ".join(self.unused) or "none",
        }


def check(workdir: str) -> None:
    """Raises UserError unless there is a run with a checkpoint, or a weight file."""
    path = pathlib.Path(workdir).expanduser()
    if foreign.is_foreign(workdir):
        return  # read already, for its settings
    foreign.check(workdir, "config.init_from")
    if path.suffix.lower() != exported.SUFFIX:
        folder.check_run(path, "config.init_from")
    elif not path.is_file():
        raise UserError(f"config.init_from={workdir}: there is no such file")


def take_over(
    state: TrainState, workdir: str, patterns: Sequence[str], read: tuple[int, Any] | None = None
) -> tuple[TrainState, Origin]:
    """`state` at step 0 with parameters and BatchNorm statistics of the newest checkpoint there.

    workdir: a run's folder, or a file of `weights`; or any name of what `read` holds already:
    (step, variables).
    Those that `workdir`'s run evaluates with: averaged ones if it averages. patterns: of names
    like "conv1/kernel" (fnmatch), of which one must fit; of those that begin with "!", none may.
    Everything where there are none of the first kind. Whatever is not there stays as drawn.

    Raises UserError for a value of another shape, a pattern that fits nothing here, a run without
    a checkpoint, and one that has nothing of what is asked for.
    """
    path = pathlib.Path(workdir).expanduser()
    if read is not None:
        step, variables = read
    elif path.suffix.lower() == exported.SUFFIX:
        stored = exported.load(path)
        step, variables = stored.step, stored.variables
    else:
        restored = Checkpoints(path, read_only=True).restore_variables()
        if restored is None:
            raise UserError(f"config.init_from={workdir}: there is no checkpoint: train it first")
        step, variables = restored
    theirs = _by_name(variables)
    ours = _by_name({"params": state.params, **state.model_state})
    wanted = _chosen(list(ours), patterns)
    taken = [name for name in wanted if name in theirs]
    if not taken:
        raise UserError(f"config.init_from={workdir}: it has none of {', '.join(wanted[:3])}, ...")
    for name in taken:
        if theirs[name][1].shape != ours[name][1].shape:
            layer = name.rsplit("/", 1)[0]
            raise UserError(
                f"config.init_from={workdir}: {name} is {list(theirs[name][1].shape)} there and"
                f" {list(ours[name][1].shape)} here: leave the layer out, by"
                f" --config.init_layers=\"('!{layer}/*',)\" for example"
            )
    paths = {path: leaf for path, leaf in ours.values()} | {
        ours[name][0]: jnp.asarray(theirs[name][1], ours[name][1].dtype) for name in taken
    }
    variables = unflatten_dict(paths)
    params = variables.pop("params")
    average = None if state.average is None else jax.tree.map(jnp.copy, params)
    state = state.replace(
        params=params, model_state={**state.model_state, **variables}, average=average
    )
    here, there = set(taken), list(theirs)
    return state, Origin(
        workdir=workdir,
        step=step,
        taken=_layers(list(ours), here),
        drawn=_layers(list(ours), ours.keys() - here),
        unused=_layers(there, theirs.keys() - here),
    )


def _by_name(variables) -> dict[str, tuple[tuple[str, ...], Any]]:
    """{"conv1/kernel": (path with its collection, leaf)}."""
    return {"/".join(path[1:]): (path, leaf) for path, leaf in flatten_dict(variables).items()}


def _chosen(names: list[str], patterns: Sequence[str]) -> list[str]:
    """The names that the patterns choose."""

    def fits(name, patterns):
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    for pattern in patterns:
        if not any(fits(name, [pattern.removeprefix("!")]) for name in names):
            raise UserError(
                f"config.init_layers: {pattern} fits no parameter of this net: they are called"
                f" {', '.join(names[:3])}, ..."
            )
    asked = [p for p in patterns if not p.startswith("!")] or ["*"]
    not_asked = [p[1:] for p in patterns if p.startswith("!")]
    return [name for name in names if fits(name, asked) and not fits(name, not_asked)]


def _layers(names: list[str], chosen) -> list[str]:
    """The chosen names in order, those of a whole layer as the layer's."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rsplit("/", 1)[0], []).append(name)
    found = []
    for layer, members in layers.items():
        some = [name for name in members if name in chosen]
        found += [layer] if some == members else some
    return found
