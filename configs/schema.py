"""Every field of a config: its default, the rule for its values, and its meaning.

A config holds only the values that a user chooses, in the units of the papers. Values that follow
from them, such as the number of steps, are computed where they are used. `configs.reference` makes
the tables of docs/config.md from this file.
"""

import itertools
from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

from configs.combinations import conflicts, without_effect
from configs.rules import (
    FRACTION,
    FROM_0,
    FROM_1,
    LARGEST_INT,
    NUMBER,
    PIXELS,
    POSITIVE,
    SIDE,
    Field,
    Rule,
    between,
    by_layer,
    check_type,
    choice,
    each,
    one_of,
    pair,
    whole,
)
from errors import UserError

_PATTERN = Rule(lambda name: isinstance(name, str), "a pattern")

RUN = {
    "seed": Field(0, "fixes initial weights, example order, augmentation", between(0, LARGEST_INT)),
    "epochs": Field(1.0, "passes over the training set", POSITIVE),
    "steps": Field(
        0, "length of the run in steps, in place of `epochs`; 0: `epochs`", between(0, LARGEST_INT)
    ),
    "batch_size": Field(32, "images per step, in total over all devices", FROM_1),
    "num_devices": Field(0, "number of devices; 0: all that the process sees", FROM_0),
    "devices_per_network": Field(
        1,
        "number of devices that share a network in training; 2: each device holds one tower of"
        " AlexNet's `two_tower` ([scaling.md](scaling.md#one-network-on-two-devices))",
        choice(1, 2),
    ),
    "steps_per_dispatch": Field(1, "steps per device call; many speed up small networks", FROM_1),
    "log_every_steps": Field(
        100,
        "steps between two training lines in `metrics.jsonl`; each evaluation also has the training"
        " loss",
        FROM_1,
    ),
    "tracker": Field(
        "none",
        "`trackio`: training also writes its records to [Trackio](training.md#trackio), on this"
        " machine",
        one_of("none trackio"),
    ),
    "deterministic": Field(
        False,
        "GPUs add numbers in a fixed order: equal runs then give exactly equal results, but are"
        " slower. CPUs and TPUs always use a fixed order",
    ),
    "init_from": Field(
        "",
        "source of initial weights: another run's workdir (its newest weights, or their running"
        " average if it has one), a file of `--mode=export`, or a weight file of torchvision, timm,"
        " Caffe or Keras ([weights.md](weights.md)). Training reads it only at step 0. Other"
        " commands read it only if the workdir holds no run",
    ),
    "init_names": Field(
        "", "JSON file that maps Canon's names to those in a weight file that Canon does not know"
    ),
    "init_settings": Field(
        "auto",
        "`auto`: a weight file also sets its preprocessing, view and model options, except those"
        " given on the command line; empty: it does not. A run stores the names of the fields set",
    ),
    "init_layers": Field(
        (),
        "names of the parameters and statistics to initialise, where `*` matches anything and"
        " `!fc8/*` excludes; empty: all",
        each(_PATTERN, "('conv1/kernel', 'fc6/*')"),
    ),
}

# The options that every network has. A config file adds the other options of its network.
# models/registry.py checks the rules, because a network may allow other values.
MODEL = {
    "name": Field("", "the network: a name of `models/registry.py`"),
    "dtype": Field(
        "float32",
        "type of the computation; parameters are float32. GPUs and TPUs multiply float32 at a lower"
        " precision unless the environment sets `JAX_DEFAULT_MATMUL_PRECISION=float32`",
        one_of("float32 bfloat16"),
    ),
    "activation": Field(
        "relu",
        "activation function; `prelu` learns one slope per channel, `prelu_shared` one per layer",
        one_of("sigmoid tanh scaled_tanh relu leaky_relu prelu prelu_shared maxout"),
    ),
    "maxout_pieces": Field(2, "affine pieces per unit of `maxout`", whole(2, 1000)),
    "initializer": Field(
        "gaussian",
        "distribution of initial weights; `he` and `xavier_fan_in` (Caffe's) use the fan-in",
        one_of("gaussian uniform he he_fan_out glorot lecun1998 xavier_fan_in"),
    ),
    "initializer_scale": Field(
        0.01, "deviation of `gaussian`, bound of `uniform`", between(0, 10**6, "()")
    ),
    "regulariser": Field(
        "none", "method that drops units or weights", one_of("none dropout dropconnect standout")
    ),
    "drop_rate": Field(0.5, "share of units or weights that are dropped", FRACTION),
    "dropout_scaling": Field(
        "train",
        "`train`: training divides by the share kept; `test`: evaluation multiplies by it, as"
        " published",
        one_of("train test"),
    ),
    "dropconnect_inference": Field(
        "gaussian",
        "evaluation with samples, as published, or with the mean of the weights",
        one_of("gaussian mean"),
    ),
    "dropconnect_samples": Field(1000, "samples of `gaussian`", whole(1, 10**6)),
    "standout_alpha": Field(
        1.0, "standout keeps a unit with probability sigmoid(alpha * input + beta)", NUMBER
    ),
    "standout_beta": Field(0.0, "see `standout_alpha`", NUMBER),
}

DATASET = {
    "name": Field(
        "",
        "`digits` (part of scikit-learn), `folder` (a folder of images), or a TFDS set: `mnist`,"
        " `cifar10`, `imagenet2012`, ... ([data.md](data.md))",
        Rule(bool, "the name of a data set"),
    ),
    "train_split": Field("train", "split to train on; of TFDS sets also parts: `train[:45000]`"),
    "test_split": Field(
        "test", "split to evaluate on. Data without `test`: its `validation`, or `val` in a folder"
    ),
    "data_dir": Field("", "folder of TFDS sets (empty: TFDS's default), or of the images"),
    "cache_dir": Field("", "for decoded images; empty: `$XDG_CACHE_HOME/canon`, `~/.cache/canon`"),
    "order": Field(
        "new",
        "of the training images: `new`: another random order in each pass; `fixed`: the same random"
        " order in all passes",
        one_of("new fixed"),
    ),
    "test_fraction": Field(0.0, "share to evaluate on, of a folder without a test split", FRACTION),
    "train_per_class": Field(
        0, "in place of `test_fraction`: images of each class to train on", whole(0, 10**6)
    ),
    "test_per_class": Field(
        0,
        "with `train_per_class`: most images of each class to evaluate on; 0: all",
        whole(0, 10**6),
    ),
    "division": Field(
        0, "which random division a folder without a test split gets", whole(0, 10**6)
    ),
    "on_bad_image": Field("error", "stop at unreadable images, or skip them", one_of("error skip")),
    "workers": Field(0, "decoding processes; 0: threads of the main process", between(0, 1024)),
}

VIEW = {
    "size": Field(
        0,
        "side of the square in pixels; 0: images are not cut. If it is changed alone, `train_scale`"
        " and `test_scale` change in proportion",
        PIXELS,
    ),
    "train": Field(
        "scale",
        "what training uses. `scale`: a square at a random place of the image, which is resized to"
        " a random scale in `train_scale`; `area`: a rectangle of random `area` and `aspect`;"
        " `center`: the same as evaluation",
        one_of("scale area center"),
    ),
    "train_scale": Field((256, 256), "shorter side, from and to", pair(SIDE)),
    "square": Field(False, "with `scale`: cut from the central square only, as AlexNet"),
    "area": Field((0.08, 1.0), "share of the image's area, from and to", pair(between(0, 1, "(]"))),
    "aspect": Field(
        (3 / 4, 4 / 3), "width divided by height, from and to", pair(between(0, 2**16, "(]"))
    ),
    "interpolation": Field(
        "bilinear",
        "how images are resized; `random`: one of four for each image (GoogLeNet),"
        " and bicubic in evaluations",
        one_of("bilinear bicubic lanczos box nearest random"),
    ),
    "test_scale": Field(256, "evaluation sees the centre of images with this shorter side", PIXELS),
}

PREPROCESS = {
    "pad": Field(0, "pixels to add on each side: black, or the mean if one is subtracted", PIXELS),
    "crop": Field(
        0, "then the central square of this side is cut; 0: none. See `augment.crop`", PIXELS
    ),
    "low": Field(0.0, "value of black; must be 0 if a mean is subtracted"),
    "high": Field(1.0, "value of white; with a mean m: high * (pixel - m), pixels in 0 to 1"),
    "mean": Field(
        "none",
        "mean to subtract: the training set's mean per `channel` or per `pixel`, or `given_mean`",
        one_of("none channel pixel given"),
    ),
    "given_mean": Field((), "one value per colour", each(between(0, 1), "(0.5, 0.5, 0.5)")),
    "deviation": Field(
        (), "one divisor per colour; empty: none", each(between(0, 1, "(]"), "(0.5, 0.5, 0.5)")
    ),
}

AUGMENT = {
    "translate": Field(0.0, "largest shift along each axis, in pixels", FROM_0),
    "scale": Field(0.0, "largest change of size: 0.1 means from 0.9 to 1.1", FRACTION),
    "squeeze": Field(0.0, "largest s: width times 1 + s, height divided by 1 + s", FRACTION),
    "shear": Field(0.0, "largest horizontal shift per row, in pixels", FROM_0),
    "crop": Field(False, "the square of `preprocess.crop` is cut at a random place in training"),
    "flip": Field(False, "half of the images are mirrored left to right"),
    "lighting": Field(
        "none",
        "AlexNet's random shift along each principal colour of the training set. It is scaled by"
        " the colour's eigenvalue, as in the paper, or by its deviation, as in the author's code",
        one_of("none eigenvalues deviations"),
    ),
    "lighting_deviation": Field(0.1, "deviation of that random shift", POSITIVE),
    "photometric": Field(
        0.0, "p: brightness, contrast and colour times a factor from 1 - p to 1 + p", between(0, 1)
    ),
}

LOSS = {
    "name": Field(
        "softmax",
        "`softmax`: cross-entropy; `mse`, `map`: eq. 8, 9 of LeCun 1998, for an RBF output",
        one_of("softmax mse map"),
    ),
    "j": Field(
        0.0,
        "of `map`: constant of eq. 9, for a class of all inputs that are not characters",
        FROM_0,
    ),
    "auxiliary_weight": Field(0.0, "weight of the loss of each auxiliary head (GoogLeNet)", FROM_0),
}

OPTIMIZER = {
    "momentum": Field(0.9, "momentum m of stochastic gradient descent", FRACTION),
    "momentum_end": Field(0.0, "momentum after `momentum_epochs`, reached linearly", FRACTION),
    "momentum_epochs": Field(0.0, "epochs in which the momentum changes; 0: constant", FROM_0),
    "momentum_form": Field(
        "pytorch",
        "`pytorch`: v = m v + g, w -= rate v; `caffe` and AlexNet: v = m v + rate g, w -= v",
        one_of("pytorch caffe"),
    ),
    "weight_decay": Field(0.0, "wd: wd * w is added to the gradient, without factor 1/2", FROM_0),
    "decayed": Field(
        "kernels",
        "parameters that decay. `kernels`: weights of convolutions and fully connected layers;"
        " `all`: all parameters except PReLU's slopes",
        one_of("kernels all"),
    ),
    "layer_decays": Field(
        {},
        "weight decay by layer, such as `{'fc6': 0.0}`. `*` in a layer's name matches anything:"
        " `{'conv2_*': 0.0}`",
        by_layer(FROM_0),
    ),
    "bias_rate": Field(1.0, "factor on the learning rate of biases", FROM_0),
    "layer_rates": Field(
        {}, "factors on the rate by layer, `{'conv1': 0.05, 'conv2_*': 0.1}`", by_layer(FROM_0)
    ),
    "frozen": Field(
        (),
        "names of the parameters and statistics that training does not change, in the form of"
        " `init_layers`: `('conv1/*', 'bn1/*')`, or `('!fc/*',)` for all but the last layer"
        " ([training.md](training.md#fine-tuning))",
        each(_PATTERN, "('conv1/*', 'fc6/*')"),
    ),
    "max_norm": Field(0.0, "largest norm of the weights of a unit; 0: no limit", FROM_0),
    "max_norms": Field({}, "the same by layer, in place of `max_norm`", by_layer(POSITIVE)),
    "curvature_examples": Field(
        0,
        "stochastic diagonal Levenberg-Marquardt: before each pass, second derivatives h are"
        " estimated on this many training images (at most all), always the same, and the gradient"
        " of each parameter is divided by mu + h (LeCun 1998, app. C;"
        " [training.md](training.md#second-derivatives)); 0: it is not divided",
        FROM_0,
    ),
    "mu": Field(0.0, "see `curvature_examples`; limits the rate where h is small", FROM_0),
    "averaging": Field(
        0.0,
        "evaluation uses a running average of the parameters, over about the last"
        " 1 / (1 - averaging) steps; 0: the parameters themselves",
        FRACTION,
    ),
}

# Fields whose value is a mapping by layer. `compare.flatten` leaves out those that are empty.
BY_LAYER: dict[str, dict] = {
    f"optimizer.{name}": {} for name, field in OPTIMIZER.items() if field.default == {}
}

SCHEDULE = {
    "name": Field(
        "constant",
        "`cosine`: the rate falls to zero at the last step; `steps`: `learning_rate` times"
        " `factors[i]` from epoch `boundaries[i]` on; `exponential`: times `decay` every"
        " `decay_epochs`; `linear`: to `learning_rate` times `decay` within `decay_epochs`;"
        " `plateau`: times `plateau.factor` when evaluations stop improving",
        one_of("constant cosine steps exponential linear plateau"),
    ),
    "learning_rate": Field(0.01, "the first learning rate", POSITIVE),
    "for_batch": Field(
        0,
        "batch size that the rates are given for. They are scaled to `batch_size`; 0: not scaled",
        FROM_0,
    ),
    "warmup_epochs": Field(0.0, "epochs in which the rate rises linearly from zero", FROM_0),
    "warmup_rate": Field(
        0.0,
        "rate until the training error, averaged over about 50 steps, is below `warmup_error`"
        " (ResNet-110: 0.01 until 0.8); 0: none",
        FROM_0,
    ),
    "warmup_error": Field(0.0, "see `warmup_rate`", between(0, 1)),
    "boundaries": Field((), "of `steps`: epochs", each(FROM_0, "(30.0, 60.0)")),
    "factors": Field((), "of `steps`: factors on `learning_rate`", each(FROM_0, "(0.1, 0.01)")),
    "decay": Field(1.0, "of `exponential` and `linear`: factor on the rate", between(0, 1, "(]")),
    "decay_epochs": Field(0.0, "of the same; 0 with `exponential`: every step", FROM_0),
    "minimum": Field(0.0, "of `exponential`: the lowest rate", FROM_0),
    "drop_anneal_epochs": Field(
        0.0, "epochs in which all drop rates fall linearly to zero; 0: constant", FROM_0
    ),
}

PLATEAU = {
    "factor": Field(0.1, "factor on the learning rate", between(0, 1, "()")),
    "patience": Field(5, "evaluations in a row without a lower top-1 error", FROM_1),
    "min_improvement": Field(
        0.001, "smallest relative decrease of the error that is an improvement", FRACTION
    ),
    "drops": Field(3, "largest number of times that the rate is lowered", FROM_1),
}

EVALUATE = {
    "every_epochs": Field(1.0, "epochs between two evaluations in training", POSITIVE),
    "batch_size": Field(
        1000, "images per step, counting crops and mirrors; lower it if memory is short", FROM_1
    ),
    "split": Field("test", "split that `--mode=evaluate` uses", one_of("test train")),
    "checkpoint": Field("latest", "`best`: the lowest test top-1 error", one_of("latest best")),
    "protocol": Field(
        "auto",
        "which parts of an image the network sees ([evaluation.md](evaluation.md)); `auto`:"
        " `center` if images are cut, else `full`",
        one_of("auto full center ten_crop multi_crop dense dense_and_multi_crop"),
    ),
    "scales": Field(
        (),
        "shorter sides to which images are resized; empty: `view.test_scale`",
        each(SIDE, "(256, 288)"),
    ),
    "multi_scale": Field(False, "VGG's and GoogLeNet's scales in place of `scales`"),
    "crops": Field(
        "grid",
        "crops of `multi_crop`, per scale: VGG's 5 x 5 places (50 with mirrors), or those of"
        " GoogLeNet's three squares (36)",
        one_of("grid squares"),
    ),
    "map_average": Field(
        "scores",
        "what `dense` averages over places: scores before the softmax, or probabilities",
        one_of("scores probabilities"),
    ),
    "ensemble": Field(
        "",
        "workdirs and exported files, separated by commas, whose probabilities are averaged. A name"
        " that contains a comma stands in double quotes. Each keeps its own network"
        " and preprocessing. Results go to `--workdir`",
    ),
}

NOT_FINITE = {
    "action": Field(
        "stop",
        "if a loss or gradient is infinite or not a number: end the run, `skip` the update of the"
        " step, or resume from the last checkpoint with the rate times `rate_factor`",
        one_of("stop skip roll_back"),
    ),
    "limit": Field(10, "how often to skip or roll back before stopping", FROM_1),
    "rate_factor": Field(0.5, "of `roll_back`: factor on the learning rate", between(0, 1, "()")),
}

CHECKPOINT = {
    "every_epochs": Field(1.0, "epochs between two checkpoints", POSITIVE),
    "every_steps": Field(0, "steps between additional checkpoints; 0: none", FROM_0),
    "keep": Field(3, "number of checkpoints to keep, in addition to the best", FROM_1),
}

PREDICT = {
    "invert": Field("auto", "invert dark ink on light paper", one_of("auto yes no")),
    "crop_to_ink": Field(
        True, "give a digit the size, place and thickness that digits have in its set"
    ),
    "contact_sheet": Field(
        "", "PNG file to write: the first 100 images with their predicted classes"
    ),
}

SECTIONS: dict[str, dict[str, Field]] = {
    "": RUN,
    "model": MODEL,
    "dataset": DATASET,
    "view": VIEW,
    "preprocess": PREPROCESS,
    "augment": AUGMENT,
    "loss": LOSS,
    "optimizer": OPTIMIZER,
    "schedule": SCHEDULE,
    "schedule.plateau": PLATEAU,
    "evaluate": EVALUATE,
    "not_finite": NOT_FINITE,
    "checkpoint": CHECKPOINT,
    "predict": PREDICT,
}


def base() -> ConfigDict:
    """A config with every section and neutral values. A config file fills it in."""
    values = {}
    for path, fields in SECTIONS.items():
        section = values
        for name in filter(None, path.split(".")):
            section = section.setdefault(name, {})
        section.update({name: field.default for name, field in fields.items()})
    return ConfigDict(values)


def validate(
    config: ConfigDict, given: Collection[str] | None = None, is_stored: bool = False
) -> None:
    """Raises UserError for the first value that is not allowed. It names the allowed values.

    given: names of the fields that the command line sets; None if no command line was read.
    is_stored: whether it changes a stored config, in which values without effect are allowed.
    """
    check_types(config)
    for path, fields in SECTIONS.items():
        # models/registry.py checks the section `model`.
        for name, field in fields.items() if path != "model" else ():
            if field.rule:
                field.rule.check(_full_name(path, name), _section(config, path)[name])
    ineffective = () if given is None or is_stored else without_effect(config, given)
    for message in itertools.chain(conflicts(config, given or ()), ineffective):
        raise UserError(message)


def check_types(config: ConfigDict) -> None:
    """Raises UserError for the first field that is missing or of another type than its default.

    ConfigDict checks the types of fields that the command line sets. A config from a file, or from
    Python, can hold values of any type.
    """
    for path, fields in SECTIONS.items():
        section = _section(config, path)
        if not isinstance(section, ConfigDict):
            raise UserError(f"config.{path}={section}: must be a section with fields")
        for name, field in fields.items():
            if name not in section:
                raise UserError(f"{_full_name(path, name)} is missing")
            check_type(_full_name(path, name), section[name], field.default)


def _section(config: ConfigDict, path: str) -> Any:
    """The section of a path such as "schedule.plateau"; None if it is missing."""
    for name in filter(None, path.split(".")):
        config = config.get(name) if isinstance(config, ConfigDict) else None
    return config


def _full_name(path: str, name: str) -> str:
    return ".".join(filter(None, ("config", path, name)))


def choices(name: str) -> tuple[str, ...]:
    """The words that a field allows; `name` is, for example, "schedule.name"."""
    path, _, last = name.rpartition(".")
    return tuple(SECTIONS[path][last].rule.choices)
