"""What a config must satisfy, and how two configs differ.

Imports nothing heavy: `main.py` refuses a wrong config before JAX is loaded.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Collection
from typing import Any

from ml_collections import ConfigDict

from configs import kinds
from configs.common import base
from errors import UserError, one_line

# Kept apart from their modules' own tables (which need JAX); a test holds them together.
LOSSES = ("map", "mse", "softmax")
SCHEDULES = ("constant", "cosine", "steps", "exponential", "linear", "plateau")
PROTOCOLS = ("auto", "full", "center", "ten_crop", "multi_crop", "dense", "dense_and_multi_crop")
CROPS = ("grid", "squares")  # of crops.KINDS, those of multi_crop
MAP_AVERAGES = ("scores", "probabilities")
MEANS = ("none", "channel", "pixel", "given")
LIGHTINGS = ("none", "eigenvalues", "deviations")


_MOST_PIXELS = 2**16  # of a side; a square of such sides is 64 times what Pillow reads


def _above(low: float) -> tuple[Callable, str]:
    return lambda v: kinds.is_number(v) and v > low, f"must be more than {low}"


def _at_least(low: float) -> tuple[Callable, str]:
    return lambda v: kinds.is_number(v) and v >= low, f"must be {low} or more"


def _up_to(high: int) -> tuple[Callable, str]:
    return lambda v: 0 <= v <= high, f"must be in 0 .. {high:,}"


def _share(low: bool, high: bool) -> tuple[Callable, str]:
    """0 .. 1; low, high: whether the ends are allowed."""
    ends = f"{'0' if low else 'more than 0'} .. {'1' if high else 'less than 1'}"
    return lambda v: 0 < v < 1 or (low and v == 0) or (high and v == 1), f"must be in {ends}"


def _one_of(*allowed: str) -> tuple[Callable, str]:
    return lambda v: v in allowed, f"choose one of {', '.join(allowed)}"


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda v: 0 <= v < 2**31, "must be in 0 .. 2^31 - 1"),
    "epochs": _above(0),
    "batch_size": _at_least(1),
    "num_devices": _at_least(0),
    "steps_per_dispatch": _at_least(1),
    "log_every_steps": _at_least(1),
    "dataset.name": (lambda v: v != "", "names no data set"),
    "dataset.on_bad_image": _one_of("error", "skip"),
    "dataset.test_fraction": (lambda v: 0 <= v < 1, "must be in 0 .. 1"),
    "dataset.workers": _up_to(1024),
    "view.size": _up_to(_MOST_PIXELS),
    "view.test_scale": _up_to(_MOST_PIXELS),
    "preprocess.pad": _up_to(_MOST_PIXELS),
    "preprocess.crop": _up_to(_MOST_PIXELS),
    "preprocess.mean": _one_of(*MEANS),
    "augment.translate": _at_least(0),
    "augment.scale": (lambda v: 0 <= v < 1, "must be in 0 .. 1"),
    "augment.squeeze": (lambda v: 0 <= v < 1, "must be in 0 .. 1"),
    "augment.shear": _at_least(0),
    "augment.lighting": _one_of(*LIGHTINGS),
    "augment.lighting_deviation": _above(0),
    "augment.photometric": (lambda v: 0 <= v <= 1, "must be in 0 .. 1"),
    "loss.name": _one_of(*LOSSES),
    "loss.j": _above(0),
    "loss.auxiliary_weight": _at_least(0),
    "optimizer.momentum": _share(True, False),
    "optimizer.momentum_end": _share(True, False),
    "optimizer.momentum_epochs": _at_least(0),
    "optimizer.momentum_form": _one_of("pytorch", "caffe"),
    "optimizer.weight_decay": _at_least(0),
    "optimizer.decayed": _one_of("kernels", "all"),
    "optimizer.bias_rate": _at_least(0),
    "optimizer.max_norm": _at_least(0),
    "optimizer.averaging": _share(True, False),
    "schedule.name": _one_of(*SCHEDULES),
    "schedule.learning_rate": _above(0),
    "schedule.for_batch": _at_least(0),
    "schedule.warmup_epochs": _at_least(0),
    "schedule.drop_anneal_epochs": _at_least(0),
    "schedule.decay": _share(False, True),
    "schedule.decay_epochs": _at_least(0),
    "schedule.minimum": _at_least(0),
    "schedule.warmup_rate": _at_least(0),
    "schedule.warmup_error": _share(True, True),
    "schedule.plateau.factor": _share(False, False),
    "schedule.plateau.patience": _at_least(1),
    "schedule.plateau.min_improvement": _share(True, False),
    "schedule.plateau.drops": _at_least(1),
    "evaluate.every_epochs": _above(0),
    "evaluate.batch_size": _at_least(1),
    "evaluate.protocol": _one_of(*PROTOCOLS),
    "evaluate.crops": _one_of(*CROPS),
    "evaluate.map_average": _one_of(*MAP_AVERAGES),
    "evaluate.split": _one_of("test", "train"),
    "evaluate.checkpoint": _one_of("latest", "best"),
    "not_finite.action": _one_of("stop", "skip", "roll_back"),
    "not_finite.limit": _at_least(1),
    "not_finite.rate_factor": _share(False, False),
    "checkpoint.every_epochs": _above(0),
    "checkpoint.every_steps": _at_least(0),
    "checkpoint.keep": _at_least(1),
    "predict.invert": _one_of("auto", "yes", "no"),
}


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """{"model.name": "lenet5", ...}, with tuples as lists (as JSON gives them back)."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, (ConfigDict, dict)):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def _validate_colours(section: ConfigDict) -> None:
    """A given mean and deviations: one value a colour."""
    if bool(section.given_mean) != (section.mean == "given"):
        raise UserError(
            f"config.preprocess.mean={section.mean} and .given_mean={tuple(section.given_mean)}: a"
            " given mean needs mean=given, and that needs one"
        )
    for name, holds, what in (
        ("given_mean", lambda v: 0 <= v <= 1, "0 .. 1"),
        ("deviation", lambda v: 0 < v <= 1, "more than 0 .. 1"),
    ):
        values = section[name]
        if not all(kinds.is_number(v) and holds(v) for v in values):
            raise UserError(
                f"config.preprocess.{name}={tuple(values)}: must be numbers, {what}, as"
                " (0.5, 0.5, 0.5)"
            )


def _validate_optimizer(section: ConfigDict) -> None:
    for field, (holds, what) in {
        "max_norms": _above(0),
        "layer_rates": _at_least(0),
        "layer_decays": _at_least(0),
    }.items():
        for name, value in section[field].items():
            if not isinstance(name, str):
                raise UserError(f"config.optimizer.{field}: {name!r} is no name of a layer")
            if not holds(value):
                raise UserError(f"config.optimizer.{field}.{name}={value}: {what}")
    if bool(section.momentum_end) != bool(section.momentum_epochs):
        raise UserError(
            f"config.optimizer.momentum_end={section.momentum_end} and"
            f" .momentum_epochs={section.momentum_epochs}: one needs the other"
        )


def _validate_schedule(schedule: ConfigDict, epochs: float, given: Collection[str] | None) -> None:
    for name in ("boundaries", "factors"):
        if not all(kinds.is_number(v) and v >= 0 for v in schedule[name]):
            raise UserError(f"config.schedule.{name}={schedule[name]}: must be numbers, 0 or more")
    if len(schedule.boundaries) != len(schedule.factors):
        raise UserError("config.schedule.boundaries and .factors must have the same length")
    if list(schedule.boundaries) != sorted(schedule.boundaries):
        raise UserError(f"config.schedule.boundaries={schedule.boundaries}: must increase")
    if given is not None and schedule.name == "steps" and not schedule.boundaries:
        raise UserError(
            "config.schedule.name=steps: without config.schedule.boundaries and .factors the rate"
            " never changes: give both, or config.schedule.name=constant"
        )
    # A recipe's own are left alone when another schedule takes the place of its steps.
    in_vain = "schedule.boundaries" in (given or ())
    if schedule.name != "steps" and schedule.boundaries and in_vain:
        raise UserError(
            f"config.schedule.boundaries={schedule.boundaries}: config.schedule.name="
            f"{schedule.name} has none: leave it out, or set config.schedule.name=steps"
        )
    if schedule.warmup_epochs >= epochs:
        raise UserError(
            f"config.schedule.warmup_epochs={schedule.warmup_epochs}: must be less than"
            f" config.epochs={epochs}"
        )
    if schedule.boundaries and schedule.boundaries[0] < schedule.warmup_epochs:
        raise UserError("config.schedule.boundaries: the first lies within the warm-up")
    if schedule.name in ("exponential", "linear") and schedule.decay == 1:
        raise UserError(
            f"config.schedule.decay=1: must be less for config.schedule.name={schedule.name}"
        )
    if schedule.name == "linear" and not schedule.decay_epochs:
        raise UserError(
            "config.schedule.decay_epochs=0: must be more for config.schedule.name=linear"
        )
    if bool(schedule.warmup_error) != bool(schedule.warmup_rate):
        raise UserError(
            f"config.schedule.warmup_rate={schedule.warmup_rate} and"
            f" .warmup_error={schedule.warmup_error}: one needs the other"
        )
    if schedule.warmup_error and schedule.warmup_epochs:
        raise UserError(
            "config.schedule.warmup_error and .warmup_epochs are two kinds of warm-up: set one"
            " of them to 0"
        )


def validate(config: ConfigDict, given: Collection[str] | None = None) -> None:
    """Raises UserError, naming the field and what it may be, for the first impossible value.

    given: the fields that the command line gives; then values that change nothing are refused, too,
    which a stored run may well have.
    """
    wrong = kinds.wrong(config, base())
    if wrong:
        raise UserError(wrong)
    flat = flatten(config)
    for name, (holds, what) in RULES.items():
        if name in flat and not holds(flat[name]):
            raise UserError(f"config.{name}={flat[name]}: {what}")
    low, mean = config.preprocess.low, config.preprocess.mean
    if low and mean != "none":
        raise UserError(
            f"config.preprocess.low={low}: must be 0 with config.preprocess.mean={mean}, which is"
            " what becomes 0"
        )
    _validate_colours(config.preprocess)
    if given is not None and config.augment.crop and not config.preprocess.crop:
        raise UserError(
            "config.augment.crop=True places config.preprocess.crop at random, which is 0: give"
            " config.preprocess.crop=PIXELS too, or config.augment.crop=False"
        )
    view = config.view
    fixed = tuple(view.train_scale) == (view.test_scale, view.test_scale)
    if view.size and view.square and mean == "pixel" and not fixed:
        raise UserError(
            f"config.view.train_scale={view.train_scale} and .test_scale={view.test_scale}: must be"
            " one size with config.view.square and config.preprocess.mean=pixel, the mean of such"
            " squares"
        )
    if not all(_is_side(side) for side in config.evaluate.scales):
        raise UserError(
            f"config.evaluate.scales={config.evaluate.scales}: must be whole numbers of pixels, as"
            " (256, 288)"
        )
    _validate_optimizer(config.optimizer)
    if not all(isinstance(pattern, str) for pattern in config.init_layers):
        raise UserError(
            f"config.init_layers={config.init_layers}: must be patterns, as ('conv1/*', 'fc6/*')"
        )
    for field in ("init_layers", "init_names"):
        if config[field] and not config.init_from:
            raise UserError(f"config.{field} needs config.init_from: where the weights come from")
    _validate_schedule(config.schedule, config.epochs, given)
    # Equations 8 and 9 are about distances to the RBF codes; the softmax loss is not.
    output = config.model.get("output", "softmax")
    wanted = "softmax" if config.loss.name == "softmax" else "rbf"
    if output != wanted and output in ("rbf", "softmax"):
        losses = "map or mse" if output == "rbf" else "softmax"
        raise UserError(
            f"config.loss.name={config.loss.name} does not go with config.model.output={output}:"
            f" set config.loss.name to {losses}"
        )
    if config.loss.name == "map" and "j" not in config.loss:
        raise UserError("config.loss.name=map needs config.loss.j")


def _is_side(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST_PIXELS


def rate_scale(config: ConfigDict) -> float:
    """The factor on all rates of the `schedule` section, from its `for_batch`."""
    reference = config.schedule.for_batch
    return config.batch_size / reference if reference else 1.0


_OF_A_MACHINE = ("dataset.data_dir", "dataset.cache_dir", "dataset.workers")
# Where a run is, not what it is: it may differ when the run goes on.
_FREE = (
    *_OF_A_MACHINE,
    *("evaluate.split", "evaluate.checkpoint", "evaluate.protocol", "evaluate.scales"),
    *("evaluate.multi_scale", "evaluate.crops", "evaluate.map_average", "evaluate.ensemble"),
)


def differences(stored: dict[str, Any], config: ConfigDict, under: str = "") -> list[str]:
    """ "name: stored -> now" for every field (beginning with `under`) in which two differ."""
    now = flatten(config)
    if stored.get("model.name") == now["model.name"]:
        stored = _with_defaults(stored, now)
    names = [n for n in {**stored, **now} if n.startswith(under) and n not in _FREE]
    return [
        f"{name}: {stored.get(name, 'not there')} -> {now.get(name, 'not there')}"
        for name in names
        if stored.get(name, "not there") != now.get(name, "not there")
        and not name.startswith("predict.")
    ]


def _with_defaults(stored: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """A stored config with the model's options that it did not have yet."""
    missing = [name for name in now if name.startswith("model.") and name not in stored]
    if not missing:
        return stored
    from models import registry  # and JAX, which a run has loaded

    model = now["model.name"]
    defaults = {n: registry.default(model, n.removeprefix("model.")) for n in missing}
    for name, old in _ONCE.get(model, {}).items():
        if f"model.{name}" in defaults:
            defaults[f"model.{name}"] = stored.get(f"model.{old}", now[f"model.{old}"])
    return stored | {name: value for name, value in defaults.items() if value is not None}


# By model: options that followed another one before they had a name of their own.
_ONCE = {"maxout": {"input_dropout_scaling": "dropout_scaling"}}


def digest(mode: str, images: list[str], config: ConfigDict) -> str:
    """A word that processes of one run have in common: the same work, config and version of JAX."""
    flat = {name: value for name, value in flatten(config).items() if name not in _OF_A_MACHINE}
    work = [mode, images, sorted(flat.items()), importlib.metadata.version("jax")]
    return hashlib.sha256(json.dumps(work).encode()).hexdigest()[:16]


def completed(own: dict[str, Any]) -> ConfigDict:
    """A stored config, perhaps of an older version: fields that it has not yet are neutral.

    Raises ValueError for what is no config.
    """

    def over(below: dict, above: dict) -> dict:
        both = {k for k in below.keys() & above.keys() if isinstance(below[k], dict)}
        both = {k for k in both if isinstance(above[k], dict)}
        return below | above | {k: over(below[k], above[k]) for k in both}

    if not isinstance(own, dict):
        raise ValueError("it holds no fields")
    try:
        config = ConfigDict(over(base().to_dict(), own))
    except (KeyError, TypeError, AttributeError) as error:  # names that no field can have
        raise ValueError(one_line(error)) from error
    wrong = kinds.wrong(config, base())
    if wrong:
        raise ValueError(wrong)
    for name, old in _ONCE.get(config.model.name, {}).items():
        if name not in config.model:
            config.model[name] = config.model[old]
    return config


def to_json(config: ConfigDict) -> str:
    """The config as config.json holds it."""
    return json.dumps(config.to_dict(), indent=2) + "\n"
