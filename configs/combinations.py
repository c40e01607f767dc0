"""Rules that join several fields of a config: what is wrong with fields that do not go together."""

from collections.abc import Collection, Iterator
from operator import attrgetter

from ml_collections import ConfigDict

# Models that are fitted in one step, and the fields that only training by gradients uses.
FITTED = ("traditional",)
_OF_GRADIENTS = (
    *("augment.", "optimizer.", "schedule.", "not_finite.", "init_", "epochs", "steps"),
    *("batch_size", "steps_per_dispatch", "checkpoint.every_", "evaluate.every_"),
    *("view.train", "view.area", "view.aspect"),
)

# The field, and its values, on which the effect of other fields depends.
_USED_WITH = {
    ("schedule.name", "steps"): ("schedule.boundaries", "schedule.factors"),
    ("schedule.name", "exponential", "linear"): ("schedule.decay", "schedule.decay_epochs"),
    ("schedule.name", "exponential"): ("schedule.minimum",),
    ("schedule.name", "plateau"): (
        *("schedule.plateau.factor", "schedule.plateau.patience"),
        *("schedule.plateau.min_improvement", "schedule.plateau.drops"),
    ),
    ("model.activation", "maxout"): ("model.maxout_pieces",),
    ("model.initializer", "gaussian", "uniform"): ("model.initializer_scale",),
    ("model.regulariser", "dropout"): (
        *("model.dropout_scaling", "model.input_drop_rate", "model.input_dropout_scaling"),
    ),
    ("model.regulariser", "dropout", "dropconnect"): ("model.drop_rate",),
    ("model.regulariser", "dropout", "dropconnect", "standout"): ("schedule.drop_anneal_epochs",),
    ("model.regulariser", "dropconnect"): (
        *("model.dropconnect_inference", "model.dropconnect_samples"),
    ),
    ("model.regulariser", "standout"): ("model.standout_alpha", "model.standout_beta"),
    ("dataset.name", "folder"): ("dataset.test_fraction", "dataset.train_per_class"),
    ("view.train", "area"): ("view.area", "view.aspect"),
    ("augment.lighting", "eigenvalues", "deviations"): ("augment.lighting_deviation",),
    ("loss.name", "map"): ("loss.j",),
    ("not_finite.action", "skip", "roll_back"): ("not_finite.limit",),
    ("not_finite.action", "roll_back"): ("not_finite.rate_factor",),
}


def conflicts(config: ConfigDict, given: Collection[str] = ()) -> Iterator[str]:
    """A message for each group of fields that do not go together.

    given: names of the fields that the command line sets.
    """
    if config.steps and "epochs" in given:
        yield (
            f"config.epochs={config.epochs} and .steps={config.steps} both set the length of the"
            " run: leave one of them out (config.steps=0 in a run that has steps)"
        )
    for field in ("init_layers", "init_names"):
        if config[field] and not config.init_from:
            yield f"config.{field} needs config.init_from: give the file or run with the weights"
    yield from _dataset_conflicts(config)
    yield from _image_conflicts(config)
    yield from _probability_conflicts(config)
    yield from _loss_conflicts(config)
    yield from _need_each_other(config, "optimizer", "momentum_end", "momentum_epochs")
    yield from _need_each_other(config, "optimizer", "curvature_examples", "mu")
    if config.optimizer.curvature_examples and config.loss.auxiliary_weight:
        yield (
            f"config.optimizer.curvature_examples={config.optimizer.curvature_examples}: auxiliary"
            " heads have no second derivatives: set config.loss.auxiliary_weight=0, or"
            " config.optimizer.curvature_examples=0 and config.optimizer.mu=0"
        )
    yield from _schedule_conflicts(config)
    if config.devices_per_network > 1:
        yield from _division_conflicts(config)


def _division_conflicts(config: ConfigDict) -> Iterator[str]:
    """Of devices that share AlexNet: each must be able to compute and update its tower alone."""
    model, field = config.model, f"config.devices_per_network={config.devices_per_network}"
    if (model.name, model.get("variant")) != ("alexnet", "two_tower"):
        yield (
            f"{field}: only configs/alexnet.py:two_tower has two towers: set"
            " config.devices_per_network=1"
        )
        return
    if model.lrn_over != "tower" and model.lrn not in ("none", "within_map"):
        yield (
            f"{field}: with config.model.lrn_over={model.lrn_over} the normalisation of one tower"
            " needs maps of the other: set config.model.lrn_over=tower"
        )
    alone = {
        "config.model.activation": (model.activation, "prelu_shared", "prelu"),
        "config.model.regulariser": (model.regulariser, "dropconnect", "dropout"),
    }
    for name, (value, refused, other) in alone.items():
        if value == refused:
            yield f"{field} does not work with {name}={value}: set {name}={other}"
    if config.optimizer.curvature_examples:
        yield (
            f"{field} does not work with config.optimizer.curvature_examples: set"
            " config.devices_per_network=1"
        )


def _dataset_conflicts(config: ConfigDict) -> Iterator[str]:
    dataset = config.dataset
    fraction, count = dataset.test_fraction, dataset.train_per_class
    if fraction and count:
        yield (
            f"config.dataset.test_fraction={fraction} and .train_per_class={count} both divide the"
            " folder: set one of them to 0"
        )
    if dataset.test_per_class and not count:
        yield (
            f"config.dataset.test_per_class={dataset.test_per_class} needs"
            " config.dataset.train_per_class: set both, or neither"
        )
    if dataset.division and not (fraction or count):
        yield (
            f"config.dataset.division={dataset.division} needs config.dataset.train_per_class or"
            " .test_fraction: set one of them, or config.dataset.division=0"
        )


def _image_conflicts(config: ConfigDict) -> Iterator[str]:
    view, preprocess = config.view, config.preprocess
    low, mean, given_mean = preprocess.low, preprocess.mean, tuple(preprocess.given_mean)
    scale, test_scale = tuple(view.train_scale), view.test_scale
    or_more = f"must be config.view.size={view.size} or more"
    if view.square and view.train != "scale":
        yield "config.view.square=True needs config.view.train=scale: set both, or neither"
    if view.train == "scale" and view.size > scale[0]:
        yield f"config.view.train_scale={scale}: {or_more}"
    if view.size > test_scale:
        yield f"config.view.test_scale={test_scale}: {or_more}"
    if view.size and view.square and mean == "pixel" and scale != (test_scale, test_scale):
        yield (
            f"config.view.train_scale={scale} and .test_scale={test_scale}: must be the same size"
            " with config.view.square and config.preprocess.mean=pixel, because the mean image is"
            " that of squares of this size"
        )
    if low and mean != "none":
        yield (
            f"config.preprocess.low={low}: must be 0 with config.preprocess.mean={mean}, because"
            " the mean becomes 0"
        )
    if bool(given_mean) != (mean == "given"):
        yield (
            f"config.preprocess.mean={mean} and .given_mean={given_mean}: set both mean=given and"
            " given_mean, or neither"
        )


def _probability_conflicts(config: ConfigDict) -> Iterator[str]:
    """The pixels of a restricted Boltzmann machine are probabilities."""
    preprocess, lighting = config.preprocess, config.augment.lighting
    low, high = preprocess.low, preprocess.high
    is_moved = preprocess.mean != "none" or preprocess.deviation or lighting != "none"
    if config.model.name == "rbm" and (is_moved or min(low, high) < 0 or max(low, high) > 1):
        yield (
            "config.model.name=rbm takes pixels from 0 to 1, because they are probabilities: set"
            " config.preprocess.low=0, .high=1, .mean=none, .deviation=() and"
            " config.augment.lighting=none"
        )


def _loss_conflicts(config: ConfigDict) -> Iterator[str]:
    loss = config.loss
    # A network has `model.output` only if it offers both; others return logits for the softmax.
    output = config.model.get("output", "softmax")
    fitting = {"rbf": ("map", "mse"), "softmax": ("softmax",)}.get(output, (loss.name,))
    if loss.name not in fitting:
        yield (
            f"config.loss.name={loss.name} does not fit config.model.output={output}: set"
            f" config.loss.name to {' or '.join(fitting)}"
        )
    if loss.name == "map" and not loss.j:
        yield f"config.loss.j={loss.j}: must be more than 0 with config.loss.name=map"


def _schedule_conflicts(config: ConfigDict) -> Iterator[str]:
    schedule = config.schedule
    boundaries, warmup = tuple(schedule.boundaries), schedule.warmup_epochs
    with_name = f"with config.schedule.name={schedule.name}"
    if len(boundaries) != len(schedule.factors):
        yield "config.schedule.boundaries and .factors must have the same length"
    if boundaries != tuple(sorted(boundaries)):
        yield f"config.schedule.boundaries={boundaries}: must increase"
    if schedule.name == "steps" and boundaries and boundaries[0] < warmup:
        yield (
            f"config.schedule.boundaries={boundaries}: the first must not be less than"
            f" config.schedule.warmup_epochs={warmup}"
        )
    if schedule.name in ("exponential", "linear") and schedule.decay == 1:
        yield f"config.schedule.decay=1: must be less than 1 {with_name}"
    if schedule.name == "linear" and not schedule.decay_epochs:
        yield f"config.schedule.decay_epochs=0: must be more than 0 {with_name}"
    if warmup >= config.epochs and not config.steps:  # `make_plan` compares it with steps
        yield (
            f"config.schedule.warmup_epochs={warmup}: must be less than"
            f" config.epochs={config.epochs}"
        )
    yield from _need_each_other(config, "schedule", "warmup_rate", "warmup_error")
    if schedule.warmup_error and warmup:
        yield (
            "config.schedule.warmup_error and .warmup_epochs are two kinds of warm-up: set one of"
            " them to 0"
        )


def _need_each_other(config: ConfigDict, path: str, first: str, second: str) -> Iterator[str]:
    section = config[path]
    if bool(section[first]) != bool(section[second]):
        yield (
            f"config.{path}.{first}={section[first]} and .{second}={section[second]}: set both, or"
            " neither"
        )


def without_effect(config: ConfigDict, given: Collection[str]) -> Iterator[str]:
    """A message for each field without effect, which a stored config may have.

    given: names of the fields that the command line sets.
    """
    if config.model.name in FITTED:
        for field in sorted(given):
            if field.startswith(_OF_GRADIENTS):
                yield (
                    f"config.{field} has no effect with config.model.name={config.model.name},"
                    " which is fitted in one step: leave it out"
                )
    # A config file may have such fields: it may be used with another schedule or regulariser.
    for (condition, *used), fields in _USED_WITH.items():
        value = attrgetter(condition)(config)
        for field in fields if value not in used else ():
            if field in given and attrgetter(field)(config):
                yield (
                    f"config.{field} has no effect with config.{condition}={value}: set"
                    f" config.{condition}={' or '.join(used)}, or leave it out"
                )
    if config.augment.crop and not config.preprocess.crop:
        yield (
            "config.augment.crop=True has no effect with config.preprocess.crop=0: set"
            " config.preprocess.crop=PIXELS too, or config.augment.crop=False"
        )
    if config.schedule.name == "steps" and not config.schedule.boundaries:
        yield (
            "config.schedule.name=steps: without config.schedule.boundaries and .factors the rate"
            " never changes: set both, or config.schedule.name=constant"
        )
