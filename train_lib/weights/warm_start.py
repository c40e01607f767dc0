"""Initial weights of a network: from another run, or from a file of another framework.

Simonyan 2015, sec. 3.1.1, initialises VGG's deep networks with layers of network A.
"""

import dataclasses
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from command_line import expand
from configs import compare
from configs.patterns import matching
from errors import UserError
from models import pretrained
from models.pretrained.entries import class_bias
from train_lib.checkpoints import Checkpoints
from train_lib.state import TrainState
from train_lib.weights import exported, foreign
from train_lib.workdir import check_run, read_config, read_info


def check_source(name: str, field: str) -> None:
    """Raises UserError unless `name` is a run with a checkpoint, or a weight file.

    field: the config field that holds the name, for the message.
    """
    path = expand(name)
    suffix = path.suffix.lower()
    if foreign.is_pretrained_file(name):
        return  # `foreign.settle` has read it
    if suffix and not path.is_dir() and suffix not in pretrained.SUFFIXES:
        raise UserError(
            f"{field}={name}: give a run's folder, or a file of {', '.join(pretrained.SUFFIXES)}"
        )
    if suffix != exported.SUFFIX:
        check_run(path, field)
    elif not path.is_file():
        raise UserError(f"{field}={name}: there is no such file")


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a state's values come from.

    source: config.init_from.
    step: the step of the source's weights; 0 for a file of another framework.
    loaded: names of the state's values that come from the source, like "conv1/kernel", or "conv1"
        for a whole layer.
    drawn: names of the state's other values, which are random.
    unused: names of the source's values that were not loaded.
    changed: see `changed_settings`.
    """

    source: str
    step: int
    loaded: list[str]
    drawn: list[str]
    unused: list[str]
    changed: list[str] = dataclasses.field(default_factory=list)

    def rows(self) -> dict[str, str]:
        """The rows for the opening block."""
        step = f", step {self.step}" if self.step else ""
        return {
            "weights": f"{self.source}{step}: {_short(self.loaded, 'layers')}",
            "drawn": _short(self.drawn, "layers"),
            "unused": _short(self.unused, "layers"),
            "changed": "; ".join(self.changed),
        }


def _short(names: Sequence[str], kind: str = "classes") -> str:
    """A few names; of many names their number, and the first ones."""
    if len(names) <= 6:
        return ", ".join(names) or "none"
    return f"{len(names)} {kind} ({', '.join(names[:3])}, ...)"


def warm_start(exp, state: TrainState) -> tuple[TrainState, Origin]:
    """Loads weights from config.init_from into the experiment's new state, see `load_into`."""
    name, weights = exp.config.init_from, None
    with foreign.file_in_memory():
        _check_class_order(exp, {"params": state.params, **state.model_state})
        if foreign.is_pretrained_file(name):
            weights = (0, foreign.load_variables(exp, fit_classes=True))
    state, origin = load_into(state, name, exp.config.init_layers, weights, exp.frozen)
    return state, dataclasses.replace(origin, changed=changed_settings(exp))


def changed_settings(exp) -> list[str]:
    """ "name: stored -> now" for classes and settings that differ and that tensors do not show.

    stored: the setting of the run or exported file config.init_from.
    """
    path = expand(exp.config.init_from)
    if foreign.is_pretrained_file(exp.config.init_from):
        return []  # `foreign.settle` has set them
    is_file = path.suffix.lower() == exported.SUFFIX
    config = exported.load(path, shapes_only=True).config if is_file else read_config(path)
    stored, now = compare.flatten(config), compare.flatten(exp.config)
    changes = [
        f"{name}: {stored[name]} -> {now[name]}"
        for name in foreign.NOT_SHOWN
        if name in stored and name in now and stored[name] != now[name]
    ]
    classes = [tuple(names) for names in (_source_classes(exp), exp.info.class_names)]
    if classes[0] != classes[1]:
        changes.append("classes: " + " -> ".join(map(_short, classes)))
    return changes


def _check_class_order(exp, variables) -> None:
    """Raises UserError if the last layer would be loaded with its classes in another order.

    Other classes are possible: the run then learns them, starting from that layer.
    """
    bias = class_bias(exp.module, exp.input_shape)
    names = list(_by_name(variables))
    if not bias or "/".join(bias[1:]) not in matching(names, exp.config.init_layers, "init_layers"):
        return
    theirs, ours = _source_classes(exp), exp.info.class_names
    if theirs != ours and sorted(theirs) == sorted(ours):
        raise UserError(
            f"config.init_from={exp.config.init_from} has the classes {', '.join(theirs[:4])}, ..."
            f" and {exp.info.name} has them in another order ({', '.join(ours[:4])}, ...): rename"
            f" them, or leave the layer out, with {foreign.without_last_layer(exp)}"
        )


def _source_classes(exp) -> tuple[str, ...]:
    """The classes of config.init_from in its order; those of the data set if it has no names."""
    path = expand(exp.config.init_from)
    if foreign.is_pretrained_file(exp.config.init_from):
        return foreign.class_names_of(exp)
    if path.suffix.lower() == exported.SUFFIX:
        return exported.load(path, shapes_only=True).info.class_names
    return read_info(path).class_names


def load_into(
    state: TrainState,
    source: str,
    patterns: Sequence[str],
    weights: tuple[int, Any] | None = None,
    frozen: Collection[str] = (),
) -> tuple[TrainState, Origin]:
    """Returns `state` with a source's parameters and BatchNorm statistics.

    If the source has a running average of its parameters, the average is loaded.

    source: a run's folder, whose newest checkpoint is read, or a file of --mode=export.
    patterns: see `patterns.matching`; without patterns, every value is loaded. A value that the
        source does not have stays unchanged.
    weights: (step, variables) if they have been read already.
    frozen: names of the values that training does not change.

    Raises UserError for a value of another shape, a pattern that matches nothing in `state`, a run
    without a checkpoint, a source without any of the chosen values, and one without a frozen value
    that the patterns choose.
    """
    step, variables = weights or read_weights(source)
    available = _by_name(variables)
    current = _by_name({"params": state.params, **state.model_state})
    chosen = matching(list(current), patterns, "init_layers")
    loaded = [name for name in chosen if name in available]
    if not loaded:
        raise UserError(
            f"config.init_from={source}: it has none of {', '.join(chosen[:3])}, ...: give a"
            " network of this kind, or choose layers that both have with config.init_layers"
        )
    missing = {name for name in chosen if patterns and name in frozen and name not in available}
    if missing:
        raise UserError(
            f"config.init_from={source}: it has no {_by_layer(list(current), missing)[0]}, and"
            " config.optimizer.frozen keeps it at its initial value: give a source that has it, or"
            " leave it out of init_layers"
        )
    for name in loaded:
        shape, expected = available[name][1].shape, current[name][1].shape
        if shape != expected:
            layer = name.rsplit("/", 1)[0]
            raise UserError(
                f"config.init_from={source}: {name} has the shape {list(shape)} in the source and"
                f" {list(expected)} in this network: leave the layer out, by"
                f" --config.init_layers=\"('!{layer}/*',)\" for example"
            )
    leaves = {path: leaf for path, leaf in current.values()} | {
        current[name][0]: jnp.asarray(available[name][1], current[name][1].dtype) for name in loaded
    }
    variables = unflatten_dict(leaves)
    params = variables.pop("params")
    average = None if state.average is None else jax.tree.map(jnp.copy, params)
    state = state.replace(
        params=params, model_state={**state.model_state, **variables}, average=average
    )
    return state, Origin(
        source=source,
        step=step,
        loaded=_by_layer(list(current), set(loaded)),
        drawn=_by_layer(list(current), current.keys() - set(loaded)),
        unused=_by_layer(list(available), available.keys() - set(loaded)),
    )


def read_weights(source: str | pathlib.Path) -> tuple[int, Any]:
    """Reads (step, variables) from a run's folder, or from a file of --mode=export."""
    path = expand(source)
    if path.suffix.lower() == exported.SUFFIX:
        stored = exported.load(path)
        return stored.step, stored.variables
    restored = Checkpoints(path, read_only=True).restore_variables()
    if restored is None:
        raise UserError(f"config.init_from={source}: this run has no checkpoint: train it first")
    return restored


def _by_name(variables) -> dict[str, tuple[tuple[str, ...], Any]]:
    """{"conv1/kernel": (("params", "conv1", "kernel"), leaf)}."""
    return {"/".join(path[1:]): (path, leaf) for path, leaf in flatten_dict(variables).items()}


def _by_layer(names: list[str], chosen: Collection[str]) -> list[str]:
    """The chosen names in order. If a whole layer is chosen, its name replaces those values."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rsplit("/", 1)[0], []).append(name)
    result = []
    for layer, members in layers.items():
        chosen_members = [name for name in members if name in chosen]
        result += [layer] if chosen_members == members else chosen_members
    return result
