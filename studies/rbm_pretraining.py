"""2006: deep networks of sigmoids learn after pre-training by RBMs. Later: rectifiers."""

from matplotlib.figure import Figure

from studies.study import Results, Run, Scale, Study, Verdict, last_percent

ERROR, TRAIN = "test error, %", "training error, %"
STACKS = {2: "500-500", 3: "500-500-2000", 5: "500-500-500-500-500"}  # by number of hidden layers
SAME = {"batch_size": 100, "preprocess.low": 0.0, "preprocess.high": 1.0}  # and the rate of mlp.py
SIGMOID = {"model.activation": "sigmoid", "model.initializer": "glorot"}
RELU = {"model.activation": "relu", "model.initializer": "he"}
PRETRAINED, RANDOM, RECTIFIED = "sigmoid, pre-trained", "sigmoid, random", "ReLU, random"
KINDS = {PRETRAINED: SIGMOID, RANDOM: SIGMOID, RECTIFIED: RELU}


def _name(layers: int, kind: str) -> str:
    return f"{layers} hidden layers, {kind}"


def _runs(stacks=STACKS, pretraining=20.0, epochs=40.0, **overrides) -> list[Run]:
    runs = {}  # by name: stacks share their first layers
    short = {"epochs": pretraining, "evaluate.every_epochs": pretraining} | overrides
    for layers, stack in stacks.items():
        sizes, start = stack.split("-"), ""
        for count in range(1, layers + 1):  # each run trains the last of its layers
            part = "-".join(sizes[:count])
            name = f"RBM {part}"
            runs[name], start = Run(name, f"rbm:{part}", short, start=start), name
        for kind, options in KINDS.items():
            fields = {"epochs": epochs} | SAME | options | overrides
            published = "1.2" if (layers, kind) == (3, PRETRAINED) else ""
            first = start if kind == PRETRAINED else ""
            runs[_name(layers, kind)] = Run(
                _name(layers, kind), f"mlp:{stack}", fields, published, first
            )
    return list(runs.values())


def verdict(results: Results) -> Verdict:
    """See `STUDY.rule`."""

    def better(kind: str, layers: int) -> bool:
        return results.difference(_name(layers, RANDOM), _name(layers, kind), ERROR).low > 0

    if not all(better(PRETRAINED, layers) for layers in (3, 5)):
        return Verdict.NOT_REPRODUCED
    needless = all(better(RECTIFIED, layers) for layers in (3, 5))
    return Verdict.REPRODUCED if needless else Verdict.DIRECTION


def figure(results: Results) -> Figure:
    """The test error by depth, a line for each kind of network."""
    drawing = Figure(figsize=(6, 4), layout="constrained")
    axis, depths = drawing.subplots(), list(STACKS)
    for kind in KINDS:
        errors = [results.mean(_name(layers, kind), ERROR) for layers in depths]
        axis.semilogy(depths, errors, "o-", label=kind)
    axis.set(xlabel="hidden layers", ylabel=ERROR)
    axis.set_xticks(depths)
    axis.set_yticks([3, 5, 10, 20, 50, 90], ["3", "5", "10", "20", "50", "90"], minor=False)
    axis.minorticks_off()
    axis.legend()
    return drawing


PART = {"dataset.train_split": "train[:10000]", "evaluate.every_epochs": 5.0}
PART |= {"checkpoint.every_epochs": 10.0}
TINY = {"dataset.name": "digits", "steps": 3, "steps_per_dispatch": 1}

STUDY = Study(
    claim="Deep networks of sigmoids err less if restricted Boltzmann machines pre-train them,"
    " layer by layer. Rectifiers learn without it.",
    source="Hinton & Salakhutdinov 2006 (784-500-500-2000-10 on MNIST: 1.2 %, from memory); Glorot"
    " 2010, table 1 (five hidden layers of random sigmoids on MNIST: 2.21 %); Glorot 2011, Deep"
    " sparse rectifier neural networks, table 1 (three hidden layers of 1,000 units, MNIST:"
    " rectifiers 1.43 % without and 1.20 % with pre-training)",
    changes="10,000 of the 60,000 training images. 20 epochs for each RBM in place of 50. SGD with"
    " momentum in place of conjugate gradients, 40 epochs with a cosine schedule. Random weights of"
    " sigmoids are Glorot's, of 2010, and those of rectifiers are He's. All networks have the rate"
    " of configs/mlp.py, 0.01. With 0.1 and with 0.3, three hidden layers of random sigmoids were"
    " still at chance after 1,500 updates. The runs called RBM are the pre-training; their error is"
    " that of a linear classifier on the last layer. Each adds 20 epochs, which the networks with"
    " random weights do not get.",
    scales={
        "smoke": Scale(_runs({2: "12-8", 3: "12-8-6"}, 1.0, 1.0, **TINY), seeds=1, hours=0.03),
        "small": Scale(_runs(**PART), seeds=5, hours=0.6),
        "paper": Scale(_runs(pretraining=50.0, epochs=100.0), seeds=5, hours=13),
    },
    measures={ERROR: last_percent("test/top1_error"), TRAIN: last_percent("train/top1_error")},
    rule="Direction reproduced if, with three and with five hidden layers, the 95 % interval of the"
    " difference between random and pre-trained sigmoids is above zero (paired by seed). Reproduced"
    " if that of the difference between random sigmoids and random rectifiers is, too.",
    verdict=verdict,
    figure=figure,
    remarks="In these 4,000 updates, random sigmoids are far from learning the training images:"
    " with five layers they stay at chance, though Glorot 2010 trained five random layers. So the"
    " runs show that pre-trained sigmoids learn sooner, and not that they err less in the end."
    " Pre-trained sigmoids err less than random rectifiers, too, perhaps because the set is small."
    " Whether pre-training helps rectifiers, as Glorot 2011 says, was not run.",
    published="test error, %",
)
