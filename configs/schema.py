"""Every field of a config: its default, the rule for its values, and its meaning.

A config holds primary numbers only, in the units of the papers. Values that follow from them, such
as the number of steps, are derived where they are used. docs/config.md is generated from this file:

    python -m configs.schema
"""

import functools
from collections.abc import Collection
from operator import getitem

from ml_collections import ConfigDict

from configs.combinations import COMBINATIONS
from configs.rules import (
    MOST_PIXELS,
    Field,
    Rule,
    at_least,
    by_layer,
    each,
    each_of,
    fraction,
    is_pixels,
    more_than,
    one_of,
    type_problem,
    up_to,
)
from errors import UserError

RUN = {
    "seed": Field(0, up_to(2**31 - 1), "fixes initial weights, order of examples, augmentation"),
    "epochs": Field(1.0, more_than(0), "passes over the training set"),
    "batch_size": Field(32, at_least(1), "images per step, over all devices together"),
    "num_devices": Field(0, at_least(0), "devices to use; 0: all that this process sees"),
    "steps_per_dispatch": Field(1, at_least(1), "steps per device call; more is faster if small"),
    "log_every_steps": Field(100, at_least(1), "steps between two lines of `metrics.jsonl`"),
    "deterministic": Field(
        False,
        None,
        "makes GPUs add in a fixed order, so that a run repeats to the bit; slower. CPUs and TPUs"
        " always do",
    ),
    "init_from": Field(
        "",
        None,
        "initial weights: another run's workdir (its newest weights; averaged ones, if it"
        " averages), a file of `--mode=export`, or a file of torchvision, timm, Caffe or Keras"
        " ([weights.md](weights.md)). A run needs it only once. Commands other than training use"
        " it when the workdir holds no run",
    ),
    "init_names": Field(
        "", None, "a JSON file {Canon's name: the file's name}, for a weight file of unknown layout"
    ),
    "init_settings": Field(
        "auto",
        None,
        "`auto`: preprocessing, view and model options become those of the weight file in"
        " `init_from`, except fields given on the command line. Empty: they stay. A run stores the"
        " names of the fields that changed",
    ),
    "init_layers": Field(
        (),
        each(lambda pattern: isinstance(pattern, str), "patterns, such as ('conv1/*', 'fc6/*')"),
        "which parameters and statistics to initialise: patterns of names such as `conv1/kernel`,"
        " with `*` for anything; `!fc8/*` leaves out. Empty: all",
    ),
}

# The options of every network. A config file adds those of its network, and models/registry.py
# has the rules for all of them: some networks allow more or fewer values.
MODEL = {
    "name": Field("", None, "a name of `models/registry.py`"),
    "dtype": Field(
        "float32",
        one_of(float32="", bfloat16=""),
        "type of the computation; parameters stay float32. GPUs and TPUs multiply float32 in fewer"
        " bits unless `JAX_DEFAULT_MATMUL_PRECISION=float32` is set in the environment",
    ),
    "activation": Field(
        "relu",
        None,
        "`sigmoid`, `tanh`, `scaled_tanh`, `relu`, `leaky_relu`, `prelu`, `prelu_shared`, `maxout`",
    ),
    "maxout_pieces": Field(2, None, "affine pieces of each unit, for `maxout`"),
    "initializer": Field(
        "gaussian",
        None,
        "`gaussian`, `uniform`, `he`, `he_fan_out`, `glorot`, `lecun1998`, `xavier_fan_in`",
    ),
    "initializer_scale": Field(0.01, None, "deviation of `gaussian`, bound of `uniform`"),
    "regulariser": Field("none", None, "`none`, `dropout`, `dropconnect`, `standout`"),
    "drop_rate": Field(0.5, None, "share that dropout and DropConnect drop"),
    "dropout_scaling": Field(
        "train",
        None,
        "`train`: divide by the share kept, in training; `test`: multiply by it, at test time",
    ),
    "dropconnect_inference": Field(
        "gaussian", None, "`gaussian`: as published; `mean`: with the mean of the weights"
    ),
    "dropconnect_samples": Field(1000, None, "samples of that Gaussian"),
    "standout_alpha": Field(
        1.0, None, "a standout unit is kept with probability sigmoid(alpha * input + beta)"
    ),
    "standout_beta": Field(0.0, None, "beta of this probability"),
}

DATASET = {
    "name": Field(
        "",
        Rule(bool, "the name of a data set"),
        "`digits` (comes with scikit-learn), `folder` (an image folder), or a TFDS set: `mnist`,"
        " `cifar10`, `imagenet2012`, ...",
    ),
    "train_split": Field(
        "train", None, "part to train on; of TFDS sets any split expression, as `train[:45000]`"
    ),
    "test_split": Field(
        "test",
        None,
        "part to evaluate on. Where no part has this name: `validation` of a TFDS set; `val/` or"
        " `validation/` of a folder",
    ),
    "data_dir": Field("", None, "where the TFDS sets are (empty: TFDS's default), or the folder"),
    "cache_dir": Field(
        "", None, "for decoded arrays; empty: `$XDG_CACHE_HOME/canon` or `~/.cache/canon`"
    ),
    "test_fraction": Field(
        0.0, fraction("[)"), "share of each class to test on, of a folder without a test folder"
    ),
    "on_bad_image": Field(
        "error",
        one_of(error="stop", skip="leave the image out, and report how many were"),
        "what to do with an image that cannot be read",
    ),
    "workers": Field(0, up_to(1024), "processes that decode images; 0: threads of this process"),
}

VIEW = {
    "size": Field(0, up_to(MOST_PIXELS), "pixels of a side; 0: images are not cut"),
    "train": Field(
        "scale",
        None,
        "for training. `scale`: the shorter side is drawn from `train_scale`, the square is at a"
        " random place; `area`: a rectangle of random area and aspect, stretched; `center`: as in"
        " evaluation",
    ),
    "train_scale": Field((256, 256), None, "pixels, from and to"),
    "square": Field(False, None, "with `scale`: only from the central square (AlexNet)"),
    "area": Field((0.08, 1.0), None, "with `area`: share of the image, from and to"),
    "aspect": Field((3 / 4, 4 / 3), None, "with `area`: width by height, from and to"),
    "interpolation": Field(
        "bilinear",
        None,
        "`bilinear`, `bicubic`, `lanczos`, `box`, `nearest`; `random`: bilinear, bicubic, box or"
        " nearest for each image",
    ),
    "test_scale": Field(
        256, up_to(MOST_PIXELS), "shorter side in evaluation, of which the central square is cut"
    ),
}

PREPROCESS = {
    "pad": Field(
        0, up_to(MOST_PIXELS), "pixels to add on each side: black ones or, with a mean, of the mean"
    ),
    "crop": Field(
        0,
        up_to(MOST_PIXELS),
        "side of the square to cut after that: the central one, or with `augment.crop` a random"
        " one in training; 0: none",
    ),
    "low": Field(0.0, None, "value of black pixels; must be 0 with a mean"),
    "high": Field(1.0, None, "value of white pixels; with a mean m: high * (pixel - m)"),
    "mean": Field(
        "none",
        one_of(
            none="",
            channel="one value per colour, of the training set",
            pixel="the mean image of the training set",
            given="`given_mean`",
        ),
        "mean to subtract from pixels in 0 .. 1",
    ),
    "given_mean": Field(
        (),
        each_of(fraction("[]"), "(0.5, 0.5, 0.5)"),
        "one value per colour, as pretrained weights need it",
    ),
    "deviation": Field(
        (),
        each_of(fraction("(]"), "(0.5, 0.5, 0.5)"),
        "one value per colour, by which the result is divided; empty: no division",
    ),
}

AUGMENT = {
    "translate": Field(0.0, at_least(0), "shift along each axis, at most so many pixels"),
    "scale": Field(0.0, fraction("[)"), "change of size: 0.1 is 0.9 to 1.1"),
    "squeeze": Field(0.0, fraction("[)"), "width times 1 + s, height divided by 1 + s"),
    "shear": Field(0.0, at_least(0), "horizontal pixels per row"),
    "crop": Field(False, None, "`preprocess.crop` at a random place"),
    "flip": Field(False, None, "mirror half of the images left to right"),
    "lighting": Field(
        "none",
        one_of(
            none="",
            eigenvalues="by its eigenvalue, as the paper says",
            deviations="by its deviation, as the author's code has it",
        ),
        "AlexNet's shift along each principal colour, times N(0, `lighting_deviation`^2)",
    ),
    "lighting_deviation": Field(0.1, more_than(0), "deviation of the factor in `lighting`"),
    "photometric": Field(
        0.0, fraction("[]"), "brightness, contrast and colour, each times 1 - this to 1 + this"
    ),
}

LOSS = {
    "name": Field(
        "softmax",
        one_of(
            softmax="cross-entropy of the softmax",
            mse="distance to the code of the class (LeCun 1998, eq. 8)",
            map="the same, against other classes (eq. 9)",
        ),
        "the loss; `mse` and `map` are for LeNet-5's RBF output",
    ),
    "auxiliary_weight": Field(
        0.0, at_least(0), "weight of the loss of each auxiliary head (GoogLeNet)"
    ),
    "j": Field(0.0, at_least(0), "eq. 9's constant of the class of no character, for `map`"),
}

OPTIMIZER = {
    "momentum": Field(0.9, fraction("[)"), "momentum of stochastic gradient descent"),
    "momentum_end": Field(
        0.0, fraction("[)"), "momentum after `momentum_epochs`, reached linearly; 0: it stays"
    ),
    "momentum_epochs": Field(0.0, at_least(0), "epochs over which the momentum changes"),
    "momentum_form": Field(
        "pytorch",
        one_of(
            pytorch="v = m v + g, w -= rate v",
            caffe="v = m v + rate g, w -= v, as AlexNet",
        ),
        "whether the rate is outside or inside the velocity v",
    ),
    "weight_decay": Field(0.0, at_least(0), "wd: wd * w is added to the gradient, without a 1/2"),
    "decayed": Field(
        "kernels",
        one_of(
            kernels="weights of convolutions and fully connected layers",
            all="all but PReLU's slopes",
        ),
        "which parameters decay",
    ),
    "layer_decays": Field({}, by_layer(at_least(0)), "weight decay by layer, as `{'fc6': 0.0}`"),
    "bias_rate": Field(1.0, at_least(0), "factor on the rate of biases"),
    "layer_rates": Field(
        {}, by_layer(at_least(0)), "factors on the rate by layer, as `{'conv1': 0.05}`"
    ),
    "max_norm": Field(0.0, at_least(0), "largest norm of each unit's weights; 0: no limit"),
    "max_norms": Field({}, by_layer(more_than(0)), "largest norms by layer, before `max_norm`"),
    "averaging": Field(
        0.0,
        fraction("[)"),
        "evaluation and prediction use a running average of the parameters, of about the last"
        " 1 / (1 - averaging) steps; 0: the parameters themselves",
    ),
}

SCHEDULE = {
    "name": Field(
        "constant",
        one_of(
            constant="",
            cosine="falls to zero at the end",
            steps="`learning_rate` times `factors[i]` from epoch `boundaries[i]` on",
            exponential="times `decay` every `decay_epochs`, not below `minimum`",
            linear="to `learning_rate` times `decay` over `decay_epochs`",
            plateau="times `plateau.factor` when evaluations stop improving",
        ),
        "how the rate changes",
    ),
    "learning_rate": Field(0.01, more_than(0), "the initial rate"),
    "for_batch": Field(
        0,
        at_least(0),
        "batch size that `learning_rate` is meant for; it is scaled to `batch_size`. 0: not",
    ),
    "warmup_epochs": Field(0.0, at_least(0), "epochs in which the rate rises linearly from zero"),
    "drop_anneal_epochs": Field(
        0.0, at_least(0), "epochs in which drop rates fall linearly to zero; 0: they stay"
    ),
    "boundaries": Field((), each_of(at_least(0), "(30.0, 60.0)"), "of `steps`: epochs"),
    "factors": Field((), each_of(at_least(0), "(0.1, 0.01)"), "of `steps`: factors on the rate"),
    "decay": Field(1.0, fraction("(]"), "of `exponential` and `linear`"),
    "decay_epochs": Field(
        0.0, at_least(0), "of `exponential` (0: `decay` at every update) and `linear`"
    ),
    "minimum": Field(0.0, at_least(0), "of `exponential`: the lowest rate"),
    "warmup_rate": Field(
        0.0,
        at_least(0),
        "the rate until the training error, averaged over about 50 steps, is below `warmup_error`"
        " (ResNet-110: 0.01, 0.8); epochs count from the first step all the same. 0: none",
    ),
    "warmup_error": Field(0.0, fraction("[]"), "see `warmup_rate`"),
}

PLATEAU = {
    "factor": Field(0.1, fraction("()"), "factor on the rate"),
    "patience": Field(
        5, at_least(1), "evaluations in a row without a lower top-1 error, before the rate changes"
    ),
    "min_improvement": Field(
        0.001, fraction("[)"), "an error is lower if below (1 - this) times the lowest so far"
    ),
    "drops": Field(3, at_least(1), "how often the rate changes at most"),
}

EVALUATE = {
    "every_epochs": Field(1.0, more_than(0), "epochs between two evaluations during training"),
    "batch_size": Field(
        1000,
        at_least(1),
        "images, crops and mirrors together, or whole images of as many pixels with their mirrors;"
        " lower it if memory is short",
    ),
    "protocol": Field(
        "auto",
        one_of(
            auto="`center` where images are cut, otherwise `full`",
            full="the image",
            center="the central crop",
            ten_crop="corners and centre of the central square, and their mirrors",
            multi_crop="see `crops`",
            dense="the network at all places of the whole image and of its mirror",
            dense_and_multi_crop="the mean of both",
        ),
        "which parts of an image are evaluated; the probabilities of all are averaged"
        " ([evaluation.md](evaluation.md))",
    ),
    "scales": Field(
        (),
        each(is_pixels, "whole numbers of pixels, such as (256, 288)"),
        "shorter sides of the images; empty: `view.test_scale`",
    ),
    "multi_scale": Field(
        False,
        None,
        "the published scales instead: for a fixed S: S - 32, S, S + 32; for a random S: the"
        " smallest, the middle and the largest; for `crops=squares`: 0, 32, 64 and 96 above"
        " `test_scale`",
    ),
    "crops": Field(
        "grid",
        one_of(
            grid="5 x 5 places, 50 crops with mirrors (VGG)",
            squares="of three squares: corners, centre, the square itself; 36 with mirrors"
            " (GoogLeNet)",
        ),
        "crops of `multi_crop` at each scale",
    ),
    "map_average": Field(
        "scores",
        one_of(scores="before the softmax", probabilities="after it"),
        "what `dense` averages over all places",
    ),
    "ensemble": Field(
        "",
        None,
        "runs, or files of `--mode=export`, whose probabilities are averaged, with commas. Each"
        " has its own model and preprocessing. Results go to `--workdir`",
    ),
    "split": Field("test", one_of(test="", train=""), "which split is evaluated"),
    "checkpoint": Field(
        "latest", one_of(latest="", best="with the lowest top-1 error"), "which checkpoint is used"
    ),
}

NOT_FINITE = {
    "action": Field(
        "stop",
        one_of(
            stop="end the run, and say at which step",
            skip="leave out the update of this step",
            roll_back="resume from the last checkpoint, with the rate times `rate_factor`",
        ),
        "what to do when a loss or a gradient is infinite or not a number",
    ),
    "limit": Field(10, at_least(1), "so often; then stop"),
    "rate_factor": Field(0.5, fraction("()"), "of `roll_back`"),
}

CHECKPOINT = {
    "every_epochs": Field(1.0, more_than(0), "epochs between two checkpoints"),
    "every_steps": Field(0, at_least(0), "steps between two more checkpoints; 0: none"),
    "keep": Field(3, at_least(1), "how many of the newest are kept, beside the best"),
}

PREDICT = {
    "invert": Field(
        "auto", one_of(auto="", yes="", no=""), "whether to invert pictures of dark ink on paper"
    ),
    "contact_sheet": Field("", None, "a PNG file to write, of the pictures and their classes"),
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


def validate(config: ConfigDict, given: Collection[str] | None = None) -> None:
    """Raises UserError, naming the field and what it may be, for the first impossible value.

    given: the fields that the command line gives; then values that change nothing are refused, too,
    which a stored run may have.
    """
    problem = first_type_problem(config) or _first_rule_problem(config)
    if problem:
        raise UserError(problem)
    for check in COMBINATIONS:
        check(config, given)


def first_type_problem(config: ConfigDict) -> str | None:
    """A line on the first field that is missing or of another type than its default, if any.

    ConfigDict sees to the types of fields that the command line gives. A config from a file, or
    from Python, can hold anything.
    """
    for path, fields in SECTIONS.items():
        section, name = config, "config"
        for part in filter(None, path.split(".")):
            name += f".{part}"
            if part not in section:
                return f"{name} is missing"
            section = section[part]
            if not isinstance(section, ConfigDict):
                return f"{name}={section}: must be a section with fields"
        for key, field in fields.items():
            if key not in section:
                return f"{name}.{key} is missing"
            problem = type_problem(f"{name}.{key}", section[key], field.default)
            if problem:
                return problem
    return None


def _first_rule_problem(config: ConfigDict) -> str | None:
    """A line on the first field whose value its rule does not allow, if any."""
    for path, fields in SECTIONS.items():
        section = functools.reduce(getitem, filter(None, path.split(".")), config)
        for name, field in fields.items():
            full_name = ".".join(filter(None, ("config", path, name)))
            problem = field.rule and field.rule.problem(full_name, section[name])
            if problem:
                return problem
    return None


def choices(name: str) -> tuple[str, ...]:
    """The words that a field may have, as choices("schedule.name")."""
    path, _, last = name.rpartition(".")
    return tuple(SECTIONS[path][last].rule.choices)
