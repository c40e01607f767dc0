"""How long does evaluation take? Compares protocols, and the evaluation loop with bare inference.

    python -m benchmarks.evaluation [--nets=vgg:A,resnet:18] [--images=16] [--rounds=3] [--batch=20]
    python -m benchmarks.evaluation --loop [--rounds=5]
    python -m benchmarks.evaluation --border --workdir=RUN --data=FOLDER [--images=16]

Without a mode, each protocol runs as in `--mode=evaluate`, in turns, on images of 256x256 pixels in
memory. The networks have the published sizes and random weights. passes: the multiply-adds of
`models.summary`, in passes of the network over 224x224 pixels. The time should grow in proportion.

--loop: compares `evaluate` on 10,000 images of 32x32 in memory (ResNet-20) with the bare step on
    one fixed batch.
--border: takes an AlexNet, VGG or ResNet for ImageNet from a run, and photographs. The shorter side
    is chosen so that the class map has four cells per side. Prints how far the cells differ from
    the network's output for the crops at their positions, at the map's border and inside, and how
    often the most probable class is the same.
"""

import argparse
import importlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

PROTOCOLS = ("center", "ten_crop", "multi_crop", "dense")


def config_of(name: str):
    family, _, argument = name.partition(":")
    module = importlib.import_module(f"configs.{family}")
    return module.get_config(argument) if argument else module.get_config()


def smooth_noise(count: int, side: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        small = rng.integers(0, 256, (side // 8, side // 8, channels)).astype(np.uint8)
        images.append(np.asarray(Image.fromarray(small).resize((side, side))))
    return np.stack(images)


def opened(config, images: np.ndarray):
    """An experiment on images in memory, its random state, and the split."""
    from input_pipeline import sources
    from input_pipeline.split import ArraySplit, Info
    from train_lib import experiment, optimizers, schedules
    from train_lib import state as state_lib
    from train_lib.distributed import parallel

    names = tuple(map(str, range(10 if images.shape[1] == 32 else 1000)))
    info = Info("noise", images.shape[1:], names)
    sources.KNOWN["noise"] = info.image_shape, info.class_names
    config.dataset.name = "noise"
    config.preprocess.mean, config.augment.lighting = "none", "none"
    exp = experiment.resolve(config)
    optimizer = optimizers.make_optimizer(
        config.optimizer, schedules.make_rate(config.schedule, 1.0, 1)
    )
    state = state_lib.create(exp.module, optimizer, 0, exp.input_shape)
    split = ArraySplit(info, images, np.zeros(len(images), np.int32))
    return exp, parallel.replicate(state, exp.devices), split


def protocols_table(arguments) -> None:
    from models import summary
    from train_lib import progress
    from train_lib.evaluation import passes, protocols

    images = smooth_noise(arguments.images, 256)
    print(f"{'':24}{'passes':>9}{'images/s':>10}{'time / center':>15}{'time / ten crops':>18}")
    for network in arguments.nets.split(","):
        cases, macs = {}, {}
        for protocol in PROTOCOLS:
            config = config_of(network)
            config.num_devices = 1
            config.evaluate.update({"protocol": protocol, "batch_size": arguments.batch})
            exp, state, split = opened(config, images)
            cases[protocol] = protocols.of(exp).passes(), state, split
            once = summary.describe(exp.module, network, exp.input_shape)["total"]["macs"]
            sliding = exp.module.clone(class_map=True)
            map_macs = summary.describe(sliding, network, (256, 256, 3))["total"]["macs"]
            views = {"center": 1, "ten_crop": 10, "multi_crop": 50, "dense": 2 * map_macs / once}
            macs[protocol] = views[protocol]
        times: dict = {protocol: [] for protocol in PROTOCOLS}
        for turn in range(arguments.rounds + 1):
            for protocol, (protocol_passes, state, split) in cases.items():
                start = time.perf_counter()
                passes.predict(protocol_passes, state, split, progress.Meter(len(split), network))
                if turn:  # the first turn compiles
                    times[protocol].append(time.perf_counter() - start)

        def ratio(protocol, base, times=times):
            pairs = zip(times[protocol], times[base], strict=True)
            return statistics.median(a / b for a, b in pairs)

        for protocol in PROTOCOLS:
            speed = arguments.images / statistics.median(times[protocol])
            cells = f"{macs[protocol]:>9.2f}{speed:>10.2f}{ratio(protocol, 'center'):>15.2f}"
            print(f"{network + ' ' + protocol:24}{cells}{ratio(protocol, 'ten_crop'):>18.2f}")


def loop(arguments) -> None:
    from train_lib.evaluation.metrics import evaluate

    config = config_of("resnet_cifar10:20")
    config.num_devices = 1
    config.evaluate.batch_size = 500
    exp, state, split = opened(config, smooth_noise(10_000, 32))
    step = exp.eval_step
    batch = next(exp.eval_batches(split))
    count = len(split) // config.evaluate.batch_size

    def bare() -> float:
        start = time.perf_counter()
        for _ in range(count):
            outputs = step(state, batch)
        jax.block_until_ready(outputs)
        return len(split) / (time.perf_counter() - start)

    def whole() -> float:
        start = time.perf_counter()
        evaluate(exp, state, split)
        return len(split) / (time.perf_counter() - start)

    bare(), whole()
    ratios = []
    for _ in range(arguments.rounds):
        a, b = bare(), whole()
        ratios.append(b / a)
        print(f"bare {a:,.0f}  evaluate {b:,.0f} images/s  ratio {b / a:.3f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f} over {arguments.rounds} rounds")


def border(arguments) -> None:
    from pathlib import Path

    from input_pipeline import crops, decode, images, views
    from train_lib import experiment
    from train_lib import workdir as folder
    from train_lib.evaluation import trained

    workdir = Path(arguments.workdir)
    config = folder.read_config(workdir)
    exp = experiment.resolve(config, workdir, read_only=True)
    _, variables = trained.read_run(exp)
    size = exp.input_shape[0]
    side = size + 3 * 32  # the cells are 32 pixels apart
    module = exp.module.clone(class_map=True, image_size=size)
    is_recipe = config.model.name in ("alexnet", "vgg", "resnet") and exp.statistics is not None
    if not is_recipe or config.preprocess.mean not in ("channel", "pixel"):
        sys.exit("--border takes the ImageNet recipes of alexnet, vgg and resnet")
    mean, scale = np.asarray(exp.statistics.mean, np.float32), config.preprocess.high / 255

    @jax.jit
    def sliding(x):
        return jax.nn.softmax(module.apply(variables, x)[0])

    @jax.jit
    def alone(x):
        return jax.nn.softmax(exp.module.apply(variables, x))

    rows: dict = {"border": [], "inside": []}
    for path in images.find([arguments.data])[: arguments.images]:
        picture = decode.Picture(path)
        resample = views.INTERPOLATIONS["bilinear"]
        whole = crops.rescale(picture, side, resample)[:side, :side]
        whole = ((whole - mean) * scale).astype(np.float32)
        cells = np.asarray(sliding(whole[None]))
        count = len(cells)
        places = [(i, j) for i in range(count) for j in range(count)]
        parts = [whole[32 * i : 32 * i + size, 32 * j : 32 * j + size] for i, j in places]
        expected = np.asarray(alone(jnp.stack(parts)))
        for (i, j), probabilities in zip(places, expected, strict=True):
            where = "inside" if 0 < i < count - 1 and 0 < j < count - 1 else "border"
            cell = cells[i, j]
            distance = float(np.abs(cell - probabilities).sum() / 2)
            rows[where].append((distance, cell.argmax() == probabilities.argmax()))
    print(f"{arguments.workdir}: {size} pixels, slid over {side}, {count} x {count} cells")
    for where, values in rows.items():
        if values:
            distance, same = np.mean(values, axis=0)
            print(
                f"{where}: {len(values)} cells; half the sum of |probability differences| to the"
                f" crop {distance:.3f}, the same class in {same:.1%}"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default="vgg:A,resnet:18", help="config files and arguments")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=20, help="config.evaluate.batch_size")
    parser.add_argument("--loop", action="store_true")
    parser.add_argument("--border", action="store_true")
    parser.add_argument("--workdir", default="", help="of --border")
    parser.add_argument("--data", default="", help="of --border: images or a folder of them")
    arguments = parser.parse_args()
    if arguments.border:
        if not (arguments.workdir and arguments.data):
            sys.exit("--border needs --workdir and --data")
        return border(arguments)
    return loop(arguments) if arguments.loop else protocols_table(arguments)


if __name__ == "__main__":
    main()
