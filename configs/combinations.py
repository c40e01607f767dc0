"""Rules that join several fields of a config. Each raises UserError if they do not go together."""

from collections.abc import Collection

from ml_collections import ConfigDict

from errors import UserError

# The output of the network that each loss is defined for. A network has `model.output` only if it
# offers both; all others return logits for the softmax.
OUTPUTS = {"map": "rbf", "mse": "rbf", "softmax": "softmax"}


def _weights_need_a_source(config: ConfigDict) -> None:
    for field in ("init_layers", "init_names"):
        if config[field] and not config.init_from:
            raise UserError(
                f"config.{field} needs config.init_from: give the file or run with the weights"
            )


def _view_fits_mean_image(config: ConfigDict) -> None:
    view = config.view
    fixed = tuple(view.train_scale) == (view.test_scale, view.test_scale)
    if view.size and view.square and config.preprocess.mean == "pixel" and not fixed:
        raise UserError(
            f"config.view.train_scale={view.train_scale} and .test_scale={view.test_scale}: must be"
            " the same size with config.view.square and config.preprocess.mean=pixel, because the"
            " mean image is that of squares of this size"
        )


def _view_fits_scales(config: ConfigDict) -> None:
    view = config.view
    if view.square and view.train != "scale":
        raise UserError(
            "config.view.square=True needs config.view.train=scale: set both, or neither"
        )
    if view.train == "scale" and view.size > view.train_scale[0]:
        raise UserError(
            f"config.view.train_scale={tuple(view.train_scale)}: must be"
            f" config.view.size={view.size} or more"
        )
    if view.size > view.test_scale:
        raise UserError(
            f"config.view.test_scale={view.test_scale}: must be config.view.size={view.size} or"
            " more"
        )


def _mean_fits_range(config: ConfigDict) -> None:
    section = config.preprocess
    if section.low and section.mean != "none":
        raise UserError(
            f"config.preprocess.low={section.low}: must be 0 with config.preprocess.mean="
            f"{section.mean}, because the mean becomes 0"
        )


def _given_mean_is_used(config: ConfigDict) -> None:
    section = config.preprocess
    if bool(section.given_mean) != (section.mean == "given"):
        raise UserError(
            f"config.preprocess.mean={section.mean} and .given_mean={tuple(section.given_mean)}:"
            " set both mean=given and given_mean, or neither"
        )


def _loss_fits_output(config: ConfigDict) -> None:
    loss, output = config.loss.name, config.model.get("output", "softmax")
    fitting = [name for name, needed in OUTPUTS.items() if needed == output]
    if fitting and loss not in fitting:
        raise UserError(
            f"config.loss.name={loss} does not fit config.model.output={output}:"
            f" set config.loss.name to {' or '.join(fitting)}"
        )
    if loss == "map" and not config.loss.j:
        raise UserError(
            f"config.loss.j={config.loss.j}: must be more than 0 with config.loss.name=map"
        )


def _momentum_change_is_complete(config: ConfigDict) -> None:
    _need_each_other(config.optimizer, "optimizer", "momentum_end", "momentum_epochs")


def _boundaries_fit_factors(config: ConfigDict) -> None:
    schedule = config.schedule
    boundaries = list(schedule.boundaries)
    if len(boundaries) != len(schedule.factors):
        raise UserError("config.schedule.boundaries and .factors must have the same length")
    if boundaries != sorted(boundaries):
        raise UserError(f"config.schedule.boundaries={schedule.boundaries}: must increase")
    if boundaries and boundaries[0] < schedule.warmup_epochs:
        raise UserError(
            f"config.schedule.boundaries={schedule.boundaries}: the first must not be less than"
            f" config.schedule.warmup_epochs={schedule.warmup_epochs}"
        )


def _decay_changes_the_rate(config: ConfigDict) -> None:
    schedule = config.schedule
    if schedule.name in ("exponential", "linear") and schedule.decay == 1:
        raise UserError(
            "config.schedule.decay=1: must be less than 1 with"
            f" config.schedule.name={schedule.name}"
        )
    if schedule.name == "linear" and not schedule.decay_epochs:
        raise UserError(
            "config.schedule.decay_epochs=0: must be more than 0 with config.schedule.name=linear"
        )


def _warmups_fit(config: ConfigDict) -> None:
    schedule = config.schedule
    if schedule.warmup_epochs >= config.epochs:
        raise UserError(
            f"config.schedule.warmup_epochs={schedule.warmup_epochs}: must be less than"
            f" config.epochs={config.epochs}"
        )
    _need_each_other(schedule, "schedule", "warmup_rate", "warmup_error")
    if schedule.warmup_error and schedule.warmup_epochs:
        raise UserError(
            "config.schedule.warmup_error and .warmup_epochs are two kinds of warm-up: set one"
            " of them to 0"
        )


def _need_each_other(section: ConfigDict, path: str, first: str, second: str) -> None:
    if bool(section[first]) != bool(section[second]):
        raise UserError(
            f"config.{path}.{first}={section[first]} and .{second}={section[second]}: set both, or"
            " neither"
        )


def _random_crop_has_a_size(config: ConfigDict, given: Collection[str]) -> None:
    if config.augment.crop and not config.preprocess.crop:
        raise UserError(
            "config.augment.crop=True has no effect with config.preprocess.crop=0: set"
            " config.preprocess.crop=PIXELS too, or config.augment.crop=False"
        )


def _steps_have_boundaries(config: ConfigDict, given: Collection[str]) -> None:
    schedule = config.schedule
    if schedule.name == "steps" and not schedule.boundaries:
        raise UserError(
            "config.schedule.name=steps: without config.schedule.boundaries and .factors the rate"
            " never changes: set both, or config.schedule.name=constant"
        )
    # Those of a config file are ignored when the command line chooses another schedule.
    if schedule.name != "steps" and schedule.boundaries and "schedule.boundaries" in given:
        raise UserError(
            f"config.schedule.boundaries={schedule.boundaries}: config.schedule.name="
            f"{schedule.name} has no boundaries: leave them out, or set config.schedule.name=steps"
        )


COMBINATIONS = (
    _weights_need_a_source,
    _view_fits_scales,
    _view_fits_mean_image,
    _mean_fits_range,
    _given_mean_is_used,
    _loss_fits_output,
    _momentum_change_is_complete,
    _boundaries_fit_factors,
    _decay_changes_the_rate,
    _warmups_fit,
)
# Fields without effect, which a stored config may have. given: fields that the command line gives.
EFFECTS = (_random_crop_has_a_size, _steps_have_boundaries)
