"""How fast does the input pipeline decode JPEGs? Compared with tf.data on the same cores.

    python -m benchmarks.input_pipeline --data=FOLDER [--view=area|scale] [--cores=N] [--rounds=5]
        [--seconds=2] [--batch=64] [--only=ours,'copy tf',...] [--megapixels=M] [--out=FILE]
    python -m benchmarks.input_pipeline --data=FOLDER --memory [--batches=10000]
    python -m benchmarks.input_pipeline --data=FOLDER --wait [--steps=60]

FOLDER: contains JPEG files, at any depth.
--view: area (random areas with 8 to 100 % of an image and an aspect ratio of 3/4 to 4/3, resized to
    224x224) or scale (random 224x224 squares of the image with a shorter side of 256).
--cores: the number of processor cores that everything runs on; each system gets as many threads.
--megapixels: uses 24 of the files, enlarged to this size. Noise is added, so that they need as many
    bytes per pixel as a camera's images.

Without a mode, batches are made from the files, and from copies of them with a shorter side of 256.
The copies hold JPEGs (copy) or pixels (raw), and are made first:

ours                `stream.TrainBatches`, as training runs it: uint8, bilinear, antialiased
ours in K workers   the same in K processes
tf same             the same in tf.data: sample_distorted_bounding_box, decode_and_crop_jpeg,
                    tf.image.resize(bilinear, antialias=True), uint8. For scale, the whole image is
                    resized and then cropped, or decode_and_crop_jpeg is used if it has that size
tf usual, ...       tf.data in the usual way: not antialiased, flipped, normalised, float32

The copies are array_record sets for ours, and a TFRecord file of the same JPEGs for tf.data. The
versions take turns, because the speed of a machine changes with time. Each turn has a new iterator,
whose first batches are not timed. images/s: by the clock. images/CPU s: by the processor time of
all threads and processes, which other jobs on the machine affect less. The figures are medians over
the rounds. A ratio is the median of the rounds' ratios; above 1, ours is faster. The benchmark
checks that `ours` and `tf same` make the same pixels. Training does not use TensorFlow; without it,
its rows show "-".

--memory: resident memory, open files and threads of this process and its workers, over many small
    batches and many evaluations.
--wait: short real training runs, with the share of the time in which the devices wait for data.
"""

import argparse
import contextlib
import functools
import gc
import importlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

SIZE, AREA, ASPECT = 224, (0.08, 1.0), (3 / 4, 4 / 3)
SHORTER_SIDE = 256  # of the copy
SEED = 0
WARM = 3  # batches that are not timed: those read ahead at the start
# Of --wait: config file, argument, side of the images, batch.
TRAININGS = (
    ("resnet", "18", 64, 32),
    ("alexnet", "one_tower", 224, 16),
    ("mlp", "300", 64, 64),
)
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


def link_as_folder_set(data: Path, root: Path) -> int:
    """Links all JPEGs into root/train/CLASS and root/val/CLASS, ten classes; returns the number."""
    files = sorted(p for p in data.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if len(files) < 20:
        sys.exit(f"{data} holds {len(files)} JPEG files: give a folder of 20 or more")
    for split in ("train", "val"):
        for i, path in enumerate(files):
            folder = root / split / f"class{i % 10}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i:06}.jpg").symlink_to(path.resolve())
    return len(files)


def enlarge(data: Path, out: Path, megapixels: float) -> None:
    """Enlarges 24 of the JPEGs. With this noise, 12 megapixels take 3 MB."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for path in sorted(data.rglob("*.jpg"))[:24]:
        with Image.open(path) as image:
            factor = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
            size = round(image.width * factor), round(image.height * factor)
            large = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))
        noisy = large + rng.normal(0, 5, (*large.shape[:2], 1)).astype(np.float32)
        out.mkdir(exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(out / path.name, quality=90)


def dataset_config(root: Path, view: str = "area"):
    from configs.schema import base

    config = base()
    config.dataset.update({"name": "folder", "data_dir": str(root)})
    config.view.update({"size": SIZE, "train": view, "area": AREA, "aspect": ASPECT})
    config.view.train_scale = (SHORTER_SIDE, SHORTER_SIDE)
    return config


def make_copy(split, out: Path, cores: int, quality: int = 95):
    """The split with a shorter side of 256, as `input_pipeline.prepare` makes it (0: raw)."""
    from input_pipeline import copies, sources
    from input_pipeline.copy_info import CopyInfo

    copy = CopyInfo("photos", SHORTER_SIDE, False, quality, "error", {"train": len(split)})
    made, _ = copies.make({"train": split}, copy, out, cores)
    config = dataset_config(out)
    config.dataset.name = made.parent.name
    return sources.load(config.dataset, "train")


# ---------------------------------------------------------------------------------- processes


def family() -> list[int]:
    """This process and all its descendants."""
    parents = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
            parents[int(entry)] = int(fields[1])
    processes = [os.getpid()]
    for pid in processes:  # the list grows meanwhile
        processes += [child for child, parent in parents.items() if parent == pid]
    return processes


def cpu_seconds() -> float:
    """Processor time that this process and its living workers have used."""
    seconds, others = time.process_time(), family()[1:]
    for pid in others:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            seconds += (int(fields[11]) + int(fields[12])) / TICKS
    return seconds


def held(pid: int) -> tuple[float, int, int]:
    """Resident memory in MB, open files and threads of a process."""
    folder = Path(f"/proc/{pid}")
    pages = int((folder / "statm").read_text().split()[1])
    count = [len(os.listdir(folder / name)) for name in ("fd", "task")]
    return pages * PAGE / 1e6, count[0], count[1]


# -------------------------------------------------------------------------------------- ours


def ours(split, view: str, workers: int, batch: int):
    """An endless iterator over batches."""
    from input_pipeline import stream
    from input_pipeline.batches import Order
    from input_pipeline.reading import Reading
    from input_pipeline.views import View
    from train_lib.distributed.workers import prefetch_in_processes

    view = View.from_section(dataset_config(Path(), view).view)
    reading = Reading(view, workers=prefetch_in_processes(workers))
    order = Order(SEED, batch, devices=1)
    return stream.TrainBatches(split, reading, order, range(10**9), lambda _: 1)


# ------------------------------------------------------------------------------------ tf.data


class TensorFlow:
    """tf.data pipelines over the same JPEGs, on `cores` threads."""

    def __init__(self, cores: int, view: str):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(cores)
        tf.config.threading.set_inter_op_parallelism_threads(cores)
        self.tf, self.cores, self.view = tf, cores, view

    def files(self, split):
        """Encoded images and labels, from the files of a folder set."""
        tf, count = self.tf, len(split)
        paths = [split.path(i) for i in range(count)]
        data = tf.data.Dataset.from_tensor_slices((paths, split.labels)).shuffle(count).repeat()
        return data, lambda path, label: (tf.io.read_file(path), label)

    def records(self, split, folder: Path):
        """Encoded images and labels, from a TFRecord file of a copy's JPEGs."""
        tf, path = self.tf, folder / "copy.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for i in range(len(split)):
                data, label, _ = split.read(i)
                image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
                label = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
                features = tf.train.Features(feature={"image": image, "label": label})
                writer.write(tf.train.Example(features=features).SerializeToString())
        kinds = {
            "image": tf.io.FixedLenFeature([], tf.string),
            "label": tf.io.FixedLenFeature([], tf.int64),
        }

        def parse(record):
            example = tf.io.parse_single_example(record, kinds)
            return example["image"], tf.cast(example["label"], tf.int32)

        return tf.data.TFRecordDataset(str(path)).repeat().shuffle(len(split)), parse

    def place(self, data):
        """A random crop, int32: (top, left, height, width) of an area, or (top, left) of the square
        of a resized image."""
        tf = self.tf
        shape = tf.io.extract_jpeg_shape(data)
        if self.view == "scale":
            spare = self.rescaled(shape[:2]) - SIZE + 1
            return tf.cast(tf.random.uniform([2]) * tf.cast(spare, tf.float32), tf.int32)
        start, extent, _ = tf.image.sample_distorted_bounding_box(
            shape,
            bounding_boxes=tf.zeros([1, 0, 4]),
            area_range=AREA,
            aspect_ratio_range=ASPECT,
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.stack([start[0], start[1], extent[0], extent[1]])

    def rescaled(self, shape):
        return shape * SHORTER_SIDE // self.tf.reduce_min(shape)

    def cut(self, data, place, method: str, antialias: bool):
        """float32 [224, 224, 3]."""
        tf = self.tf

        def part(box):
            return tf.image.decode_and_crop_jpeg(data, box, channels=3)

        def resize(image, size):
            return tf.image.resize(image, size, method, antialias=antialias)

        if self.view == "area":
            return resize(part(place), (SIZE, SIZE))
        shape = tf.io.extract_jpeg_shape(data)[:2]
        size = [SIZE, SIZE]

        def whole():
            image = resize(tf.io.decode_jpeg(data, channels=3), self.rescaled(shape))
            return tf.slice(image, tf.concat([place, [0]], 0), [*size, 3])

        def as_it_is():  # a copy has this size already
            return tf.cast(part(tf.concat([place, size], 0)), tf.float32)

        return tf.cond(tf.reduce_min(shape) == SHORTER_SIDE, as_it_is, whole)

    def same(self, data, place):
        """uint8 [224, 224, 3], resized in the same way as ours."""
        image = self.cut(data, place, "bilinear", antialias=True)
        return self.tf.cast(self.tf.clip_by_value(self.tf.round(image), 0, 255), self.tf.uint8)

    def usual(self, data, place, method: str):
        """float32 [224, 224, 3], not antialiased, flipped half of the time, normalised."""
        tf = self.tf
        image = self.cut(data, place, method, antialias=False)
        image = tf.image.random_flip_left_right(image)
        return (image - tf.constant(MEAN)) / tf.constant(DEVIATION)

    def batches(self, source, kind: str, batch: int):
        """An endless iterator over batches. source: from `files` or `records`."""
        tf = self.tf
        data, parse = source

        def example(*values):
            encoded, label = parse(*values)
            place = self.place(encoded)
            same = kind == "same"
            image = self.same(encoded, place) if same else self.usual(encoded, place, kind)
            return {"image": image, "label": label}

        options = tf.data.Options()
        options.threading.private_threadpool_size = self.cores
        options.threading.max_intra_op_parallelism = 1
        options.deterministic = False
        data = data.map(example, num_parallel_calls=self.cores).batch(batch, drop_remainder=True)
        return data.prefetch(2).with_options(options).as_numpy_iterator()

    def check(self, split) -> tuple[float, float] | None:
        """Raises AssertionError unless `same` gives our pixels at the same place. Returns the mean
        area of our crops and of tf.data's, as shares of the image."""
        import numpy as np

        from input_pipeline import decode, views

        view = views.View.from_section(dataset_config(Path(), self.view).view)
        shares: dict = {"ours": [], "tf": []}
        for i in range(min(len(split), 40)):
            data, rng = split.read(i)[0], np.random.default_rng(i)
            picture = decode.Picture(data)
            shape = picture.height, picture.width
            if self.view == "area":
                for _ in range(25):
                    box = place = view.random_area(*shape, rng)
                    for name, area in (("ours", box), ("tf", self.place(data).numpy())):
                        shares[name].append(area[2] * area[3] / (shape[0] * shape[1]))
            else:
                place = self.place(data).numpy()
                box = views.square_at(*shape, SHORTER_SIDE, tuple(map(int, place)), SIZE)
            a = picture.cut(box, (SIZE, SIZE), views.INTERPOLATIONS["bilinear"]).astype(int)
            b = self.same(data, np.array(place, np.int32)).numpy().astype(int)
            assert abs(a - b)[4:-4, 4:-4].mean() < 2, f"image {i} differs"  # an area's border may
        return tuple(map(statistics.mean, shares.values())) if shares["tf"] else None


# --------------------------------------------------------------------------------- throughput


def measure(iterator, seconds: float, batch: int) -> tuple[float, float, int]:
    """Images per second, images per second of processor time, and bytes per image."""
    for _ in range(WARM):
        arrays = next(iterator)
    to_device = sum(arrays[name].nbytes for name in ("image", "label", "offset") if name in arrays)
    images, start, cpu = 0, time.perf_counter(), cpu_seconds()
    while time.perf_counter() - start < seconds:
        next(iterator)
        images += batch
    took, used = time.perf_counter() - start, cpu_seconds() - cpu
    if hasattr(iterator, "close"):
        iterator.close()
    del iterator
    gc.collect()  # tf.data stops its threads
    return images / took, images / used, to_device // batch


def throughput(arguments, root: Path, cores: int) -> dict:
    from input_pipeline import sources

    split = sources.load(dataset_config(root).dataset, "train")
    copy = make_copy(split, root / "copy", cores)
    raw = make_copy(split, root / "copy", cores, quality=0)
    batch = arguments.batch
    versions: dict = {}
    for source, place in ((split, ""), (copy, "copy "), (raw, "raw ")):
        versions[f"{place}ours"] = functools.partial(ours, source, arguments.view, 0, batch)
        for workers in (1, 2):
            name = f"{place}ours in {workers} worker{'s' * (workers > 1)}"
            versions[name] = functools.partial(ours, source, arguments.view, workers, batch)
        for kind in ("same", "usual, bilinear", "usual, bicubic") if source is not raw else ():
            versions[f"{place}tf {kind}"] = None
    areas = None
    with contextlib.suppress(ImportError):
        tf = TensorFlow(cores, arguments.view)
        areas = tf.check(split)
        for data, place in ((tf.files(split), ""), (tf.records(copy, root), "copy ")):
            for name in (name for name in versions if name.startswith(f"{place}tf ")):
                kind = name.split()[-1]
                versions[name] = functools.partial(tf.batches, data, kind, batch)
    beginnings = tuple(arguments.only.split(",")) if arguments.only else ("",)
    versions = {name: make for name, make in versions.items() if name.startswith(beginnings)}
    sizes, speeds = dict.fromkeys(versions), {name: [] for name in versions}
    loads = []
    for _ in range(arguments.rounds):
        loads.append(os.getloadavg()[0])
        for name, make in versions.items():
            if make is not None:
                *speed, sizes[name] = measure(make(), arguments.seconds, batch)
                speeds[name].append(speed)
    return {"speeds": speeds, "bytes": sizes, "areas": areas, "loads": loads}


def table(results: dict, cores: int) -> str:
    speeds = results["speeds"]

    def ratio(ours_name: str, name: str, which: int) -> str:
        pairs = zip(speeds.get(ours_name, ()), speeds[name], strict=False)
        values = [a[which] / b[which] for a, b in pairs]
        return f"{statistics.median(values):.2f}" if values else "-"

    lines = [
        f"{'':27}{'ours / it':>16}{'copy ours / it':>16}{'raw ours / it':>16}{'images/s':>18}"
        f"{'images':>9}{'bytes':>9}",
        f"{'':27}" + f"{'clock':>8}{'CPU':>8}" * 3 + f"{'all':>9}{'a core':>9}{'/CPU s':>9}/image",
    ]
    for name, values in speeds.items():
        of = ("ours", "copy ours", "raw ours")
        cells = [ratio(ours, name, k).rjust(8) for ours in of for k in (0, 1)]
        if values:
            clock, cpu = (statistics.median(v[k] for v in values) for k in (0, 1))
            figures = (clock, clock / cores, cpu, results["bytes"][name])
            cells += [f"{figure:>9,.0f}" for figure in figures]
        else:
            cells += ["-".rjust(9)] * 4
        lines.append(f"{name:<27}{''.join(cells)}")
    if results["areas"]:
        lines.append(
            "mean area of the boxes: ours {:.3f} of the image, tf {:.3f}".format(*results["areas"])
        )
    loads = " ".join(f"{load:.1f}" for load in results["loads"])
    lines.append(f"load at the start of each round: {loads}")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------- memory


def memory(arguments, root: Path, cores: int) -> None:
    """Prints memory, files and threads over many batches, for each source and number of workers."""
    from input_pipeline import sources, stream
    from input_pipeline.batches import Order
    from input_pipeline.reading import Reading
    from input_pipeline.views import View
    from train_lib.distributed.workers import prefetch_in_processes

    split = sources.load(dataset_config(root).dataset, "train")
    copy = make_copy(split, root / "copy", cores)
    view = dataset_config(root).view
    view.size = 32
    last, size = arguments.batches, 4
    marks = sorted({max(1, last * part // 10) for part in (1, 2, 5, 10)})
    print(f"{'':22}{'batches':>9}{'MB':>9}{'files':>7}{'threads':>9}   each: this process, workers")
    for name, source in (("files", split), ("copy", copy)):
        for workers in (0, 1):
            reading = Reading(View.from_section(view), workers=prefetch_in_processes(workers))
            order, steps = Order(SEED, size, devices=1), range(last + 1)
            iterator = stream.TrainBatches(source, reading, order, steps, lambda _: 1)
            for count in range(1, last + 1):
                next(iterator)
                if count in marks:
                    gc.collect()
                    parts = zip(*(held(pid) for pid in family()), strict=True)
                    sizes, files, threads = (" + ".join(f"{v:.0f}" for v in part) for part in parts)
                    label = f"{name}, workers {workers}"
                    print(f"{label:22}{count:>9,}  {sizes} MB  {files}  {threads}", flush=True)
            iterator.close()
    reading = Reading(View.from_section(view))
    for count in range(1, 201):  # each evaluation opens its own iterator
        for _ in stream.eval_batches(split, reading, 50, 1):
            break
        if count in (50, 100, 200):
            gc.collect()
            print("{:22}{:>9,}  {:.0f} MB  {}  {}".format("evaluations", count, *held(os.getpid())))


# --------------------------------------------------------------------------------------- wait


def wait(arguments, root: Path) -> None:
    """Trains for some steps; prints the share of the time that was spent waiting for data."""
    from train_lib import recorder
    from train_lib.train import train_and_evaluate

    examples = len(list((root / "train").rglob("*.jpg")))
    print(f"{'':40}{'workers':>8}{'waiting':>9}{'images/s':>10}")
    for model, argument, size, batch in TRAININGS:
        for workers in (0, 1):
            config = importlib.import_module(f"configs.{model}").get_config(argument)
            plain = dataset_config(root)
            for section in ("dataset", "view", "preprocess", "augment", "schedule"):
                config[section] = plain[section]
            config.view.size, config.dataset.workers = size, workers
            config.augment.flip = True
            config.schedule.learning_rate = 0.001
            config.batch_size, config.epochs = batch, arguments.steps * batch / examples
            config.log_every_steps, config.steps_per_dispatch = 10, 1
            config.evaluate.every_epochs = config.checkpoint.every_epochs = config.epochs
            with contextlib.ExitStack() as stack:
                workdir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                quiet = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(quiet))
                stack.enter_context(contextlib.redirect_stderr(quiet))
                train_and_evaluate(config, workdir)
                records = [r for r in recorder.read(workdir) if "train/data_wait" in r]
            waited, speed = (
                statistics.median(record[name] for record in records)
                for name in ("train/data_wait", "train/images_per_second")
            )
            label = f"{model}:{argument} at {size}, batch {batch}"
            print(f"{label:40}{workers:>8}{waited:>9.1%}{speed:>10.1f}", flush=True)


# --------------------------------------------------------------------------------------- main


def setting(cores: int, count: int) -> dict:
    """Versions and hardware, on which the figures depend."""
    import importlib.metadata

    processors = Path("/proc/cpuinfo")
    lines = processors.read_text().splitlines() if processors.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    facts = {
        "processor": names[0] if names else platform.machine(),
        "cores and threads": cores,
        "images": count,
        "python": platform.python_version(),
    }
    for package in ("grain", "pillow", "numpy", "tensorflow", "tensorflow_cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts[package] = importlib.metadata.version(package)
    return facts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of JPEG files")
    parser.add_argument("--cores", type=int, default=0, help="0: all that this process may use")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--only", default="", help="beginnings of rows, with commas between")
    parser.add_argument("--view", choices=("area", "scale"), default="area")
    parser.add_argument("--megapixels", type=float, default=0.0, help="0: the files themselves")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--batches", type=int, default=10_000, help="of --memory")
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--steps", type=int, default=60, help="of --wait")
    arguments = parser.parse_args()

    # This comes before any library counts the cores.
    allowed = sorted(os.sched_getaffinity(0))
    cores = arguments.cores or len(allowed)
    os.sched_setaffinity(0, allowed[:cores])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        count = link_as_folder_set(arguments.data, root)
        if arguments.megapixels:
            enlarge(root / "train", root / "enlarged", arguments.megapixels)
            root = root / "large"
            count = link_as_folder_set(root.parent / "enlarged", root)
        print(", ".join(f"{k} {v}" for k, v in setting(cores, count).items()))
        if arguments.memory:
            return memory(arguments, root, cores)
        if arguments.wait:
            return wait(arguments, root)
        results = throughput(arguments, root, cores)
    print(table(results, cores))
    if arguments.out:
        arguments.out.write_text(json.dumps(setting(cores, count) | results, indent=1) + "\n")


if __name__ == "__main__":
    main()
