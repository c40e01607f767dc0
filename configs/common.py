"""The sections that every experiment has, with neutral values. A config file fills them in.

Only primary numbers stand in a config, in the paper's units. What follows from the final values is
derived where it is used: steps in `train_lib.plans`, rates by step in `train_lib.schedules`, the
number of classes in `input_pipeline.sources`, the batch of a device in
`train_lib.distributed.parallel`.
"""

from ml_collections import ConfigDict


def choose(file: str, argument: str, arguments) -> str:
    """`argument` if it is one of `arguments`. Raises ValueError, naming them, otherwise."""
    if argument not in arguments:
        raise ValueError(
            f"{file} has no argument {argument!r}: choose one of {', '.join(arguments)}"
        )
    return argument


def base() -> ConfigDict:
    """A config with every section; what each field means is said beside it."""
    config = ConfigDict()
    config.seed = 0  # initial weights, order of the examples, augmentation
    config.epochs = 1.0  # passes over the training set
    config.batch_size = 32  # of all devices together
    config.num_devices = 0  # 0: all that this process sees
    config.steps_per_dispatch = 1  # steps in one device call (lax.scan)
    config.log_every_steps = 100  # training loss, error, rate and speed, in metrics.jsonl
    # GPUs: the same sums in the same order every time, so that a run repeats to the bit; slower.
    # CPUs and TPUs do so anyway.
    config.deterministic = False
    # Another run's workdir, whose newest weights this one starts with (averaged ones, if it
    # averages), a file of --mode=export, or one of torchvision, timm, Caffe or Keras
    # (docs/weights.md). Once begun, a run does not need them any more. The test modes take it where
    # the workdir has no run.
    config.init_from = ""
    # Of a file of another framework that Canon does not know: a JSON file, {our name: theirs}.
    config.init_names = ""
    # auto: preprocessing, view and options of the model become those that a file of another
    # framework comes with, but for fields given on the command line. "": they stay. (A run stores
    # the names of the fields that it took over.)
    config.init_settings = "auto"
    # Which of its parameters and statistics: patterns of names like "conv1/kernel", "*" for
    # anything; "!fc8/*" leaves out. (): all.
    config.init_layers = ()

    # What every model has; `models.layers.Net` says more. A config file adds the model's own.
    config.model = ConfigDict(
        {
            "name": "",
            # Of the computation: float32, bfloat16. GPUs and TPUs multiply float32 in fewer bits
            # by default (TF32, bfloat16): JAX_DEFAULT_MATMUL_PRECISION=float32 forbids it.
            "dtype": "float32",
            # sigmoid, tanh, scaled_tanh, relu, leaky_relu, prelu, prelu_shared, maxout
            "activation": "relu",
            "maxout_pieces": 2,  # affine pieces of each unit, for maxout
            # gaussian, uniform, he, he_fan_out, glorot, lecun1998, xavier_fan_in
            "initializer": "gaussian",
            "initializer_scale": 0.01,  # gaussian's deviation, uniform's bound
            "regulariser": "none",  # none, dropout, dropconnect, standout
            "drop_rate": 0.5,  # share that dropout and DropConnect drop
            # train: divide by the share kept in training; test: multiply by it at test time.
            "dropout_scaling": "train",
            "dropconnect_inference": "gaussian",  # gaussian (the paper's), mean (of the weights)
            "dropconnect_samples": 1000,
            # A standout unit is kept with probability sigmoid(alpha * input + beta).
            "standout_alpha": 1.0,
            "standout_beta": 0.0,
            # Local response normalisation: published (as the net has it), none, a reading of
            # AlexNet's constants (paper, cuda_convnet, caffe), or within_map.
            "lrn": "published",
            "pooling": "published",  # or max, average, overlapping, non_overlapping
        }
    )

    config.dataset = ConfigDict(
        {
            "name": "",  # digits, a TFDS set (mnist, imagenet2012, ...), or folder
            "train_split": "train",  # TFDS: any split expression, as train[:45000]
            "test_split": "test",  # "validation" where the set has no test with labels
            # Where the TFDS sets are ("": TFDS's own rule); of a folder, the folder itself.
            "data_dir": "",
            "cache_dir": "",  # decoded arrays; "": $XDG_CACHE_HOME/canon or ~/.cache/canon
            "test_fraction": 0.0,  # of each class, in a folder without train and val
            "on_bad_image": "error",  # or skip: leave out, and say so
            "workers": 0,  # processes that decode images; 0: threads of this one
        }
    )

    # What the host cuts from each decoded image, a square of `size` pixels. 0: nothing is cut;
    # the images have one size, and are held in memory.
    config.view = ConfigDict(
        {
            "size": 0,
            # Training. scale: shorter side drawn from train_scale, a square at a random place;
            # area: a rectangle of random area and aspect, stretched; center: as for the test.
            "train": "scale",
            "train_scale": (256, 256),  # pixels, from and to
            "square": False,  # scale: only from the central square (AlexNet)
            "area": (0.08, 1.0),  # share of the image
            "aspect": (3 / 4, 4 / 3),  # width by height
            # bilinear, bicubic, lanczos, box, nearest; random: one of four for each image
            "interpolation": "bilinear",
            "test_scale": 256,  # shorter side, of which the central square is taken
        }
    )

    # In this order: pad by pixels of 0 on each side (of the mean, where one is subtracted), crop to
    # a square (0: not; centred, but at random in training with augment.crop). Then images u in
    # 0..1 become low + (high - low) u or, with a mean m, high (u - m); either divided by deviation.
    config.preprocess = ConfigDict(
        {
            "pad": 0,
            "crop": 0,
            "low": 0.0,
            "high": 1.0,
            # none; of the training set: channel (one value a colour), pixel (a mean image); given
            "mean": "none",
            "given_mean": (),  # one value a colour, 0..1, as weights from elsewhere were made with
            "deviation": (),  # one value a colour, 0..1; (): no division
        }
    )

    # Training images only. Random affine distortion: each range is +-, 0 switches it off.
    config.augment = ConfigDict(
        {
            "translate": 0.0,  # pixels, along each axis
            "scale": 0.0,  # share of the size: 0.1 is 0.9 to 1.1
            "squeeze": 0.0,  # width times 1 + s, height divided by it
            "shear": 0.0,  # horizontal pixels a row
            "crop": False,  # preprocess.crop at a random place in training
            "flip": False,  # mirrored left to right, half of the time
            # AlexNet's shift along the principal colours, each by its eigenvalue (as the paper
            # reads) or deviation (as its author's code has it) times N(0, lighting_deviation^2).
            "lighting": "none",  # none, eigenvalues, deviations
            "lighting_deviation": 0.1,
            "photometric": 0.0,  # brightness, contrast and colour by factors of 1 +- this
        }
    )

    # auxiliary_weight: of the loss of each auxiliary head, if the model has any (GoogLeNet: 0.3).
    config.loss = ConfigDict({"name": "softmax", "auxiliary_weight": 0.0})

    config.optimizer = ConfigDict(
        {
            "momentum": 0.9,
            "momentum_end": 0.0,  # where it is after momentum_epochs, linearly ...
            "momentum_epochs": 0.0,  # ... or 0: it stays
            # "pytorch": v = m v + g, w -= rate v.  "caffe": v = m v + rate g, w -= v, as AlexNet.
            "momentum_form": "pytorch",
            "weight_decay": 0.0,  # coupled: wd * w is added to the gradient
            # Which parameters decay: "kernels" (weights of convolutions and fully connected
            # layers) or "all" (but PReLU's slopes).
            "decayed": "kernels",
            "layer_decays": ConfigDict({}),  # by layer, in place of weight_decay
            "bias_rate": 1.0,  # factor on the rate of biases (cuda-convnet: 2)
            "layer_rates": ConfigDict({}),  # factors on the rate by layer, as {"conv1": 0.05}
            "max_norm": 0.0,  # largest norm of a unit's weights; 0: no limit
            "max_norms": ConfigDict({}),  # the same by layer, before max_norm
            # Evaluation and prediction take a running average of the parameters, of about the
            # last 1 / (1 - averaging) steps; 0: the parameters themselves.
            "averaging": 0.0,
        }
    )

    config.schedule = ConfigDict(
        {
            # constant, cosine (to zero at the end), steps, exponential, linear, plateau
            "name": "constant",
            "learning_rate": 0.01,
            "for_batch": 0,  # if not 0: of this batch size; scaled to batch_size linearly
            "warmup_epochs": 0.0,  # linear from zero
            "drop_anneal_epochs": 0.0,  # drop rates fall linearly to zero over these; 0: they stay
            "boundaries": (),  # steps: epochs at which the rate changes ...
            "factors": (),  # ... to learning_rate times this
            # exponential: times `decay` every decay_epochs (0: every update), not below
            # `minimum`. linear: to learning_rate times `decay` over decay_epochs.
            "decay": 1.0,
            "decay_epochs": 0.0,
            "minimum": 0.0,
            # The rate until the training error, averaged over about 50 steps, was below
            # warmup_error (ResNet-110: 0.01, 0.8); the epochs of the schedule count from the
            # first step all the same. 0: off.
            "warmup_rate": 0.0,
            "warmup_error": 0.0,
            # plateau: times `factor` after `patience` evaluations in a row whose top-1 error is not
            # below (1 - min_improvement) times the lowest so far; at most `drops` times.
            "plateau": ConfigDict(
                {"factor": 0.1, "patience": 5, "min_improvement": 0.001, "drops": 3}
            ),
        }
    )

    config.evaluate = ConfigDict(
        {
            "every_epochs": 1.0,  # in training, by one view of each image
            # Images, crops and mirrors; or whole images of as many pixels, with their mirrors.
            "batch_size": 1000,
            # --mode=evaluate and --mode=predict: what of an image is looked at. Probabilities of
            # its crops, mirrors and scales are averaged.
            # full: the image. center: the central crop. auto: that of them which the images are
            # for. ten_crop: corners and centre of the central square, and their mirrors.
            # multi_crop: see `crops`. dense: the net at all places of the whole image and its
            # mirror. dense_and_multi_crop: the mean of both.
            "protocol": "auto",
            "scales": (),  # shorter sides; (): view.test_scale
            # The published scales instead. Fixed S: S - 32, S, S + 32; jittered: the smallest, the
            # middle and the largest S; multi_crop with crops=squares: 0, 32, 64 and 96 above
            # test_scale.
            "multi_scale": False,
            # multi_crop at each scale: grid (VGG: 5x5 places, 50 with mirrors), squares (GoogLeNet:
            # of three squares, corners, centre and the square itself, 36 with mirrors).
            "crops": "grid",
            # dense: the mean over places of the scores before the softmax, or of probabilities.
            "map_average": "scores",
            # Runs, or files of --mode=export, whose probabilities are averaged, each with its own
            # model and preprocessing: "runs/a,b.safetensors". What is written goes to --workdir.
            "ensemble": "",
            "split": "test",  # test or train: which of the data set's two splits
            "checkpoint": "latest",  # or "best": the lowest test top-1 error
        }
    )

    # A loss or gradient that is infinite or no number.
    config.not_finite = ConfigDict(
        {
            # stop: end the run, and say where. skip: leave the step's update out. roll_back: go on
            # from the last checkpoint with the rate times rate_factor.
            "action": "stop",
            "limit": 10,  # so often; then stop
            "rate_factor": 0.5,
        }
    )

    config.checkpoint = ConfigDict(
        {
            "every_epochs": 1.0,
            "every_steps": 0,  # in addition, if not 0
            "keep": 3,  # the newest; the best one is kept beside them
        }
    )

    # Pictures given to --mode=predict: dark ink on light paper is inverted (auto, yes, no).
    # contact_sheet: a PNG file to write, of the pictures and their classes.
    config.predict = ConfigDict({"invert": "auto", "contact_sheet": ""})
    return config


def imagenet(config: ConfigDict) -> None:
    """What the papers' ImageNet recipes share: 224x224 crops and flips, RGB values of 0..255.

    Fixed S = 256: shorter side 256, the crop anywhere. In test, the central crop.
    """
    config.dataset.name = "imagenet2012"
    config.view.update({"size": 224, "train_scale": (256, 256), "test_scale": 256})
    config.preprocess.high = 255.0
    config.augment.flip = True
    config.evaluate.batch_size = 128
