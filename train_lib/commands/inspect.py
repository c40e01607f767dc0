"""--mode=inspect: figures and tables of a run's network, in WORKDIR/inspection."""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Collection, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from command_line import expand
from errors import UserError, printable
from input_pipeline import decode, sources
from input_pipeline import images as image_files
from models import inspection, parameter_tables
from train_lib import pictures, recorder
from train_lib.distributed import processes
from train_lib.evaluation import ensemble, result_files
from train_lib.evaluation.trained import Trained, load_run
from train_lib.pictures import inspect_figures, run_plots
from train_lib.pictures.inspect_figures import Subject
from train_lib.workdir import write_text

FOLDER = "inspection"
MOST_SHOWN = 4  # images of the user with figures of their own; of the test images only one has them
# All activations of some images are held at a time: as many images as fit, within limits.
ACTIVATION_BYTES, FEWEST_IMAGES, MOST_IMAGES = 2**29, 4, 200
# The files of an earlier inspection, which may be of other images.
WRITTEN = (
    *("parameters.txt", "difference_*.txt", "learning_curves.png", "filters.png"),
    *("weight_histograms.png", "c3_table.png", "rbf_codes.png", "confusion_matrix.png"),
    *("activation_histograms.png", "dead_units.png", "feature_maps_*.png", "f6_and_codes.png"),
    *("gradient_norms.png", "receptive_fields_*.png", "saliency_*.png", "occlusion_*.png"),
    *("dropout_masks.png", "dropout_average.png", "max_pool_routing.png"),
    *("reconstructions.png", "free_energies.png"),
)


@dataclasses.dataclass(frozen=True)
class Selection:
    """What an inspection shows.

    images: paths of files and folders; by default some test images of the data set, if it exists.
    layer: the layer whose feature maps are shown, by default the first.
    compare: other runs' folders, exported files, or steps of this run's checkpoints.
    """

    images: Sequence[str] = ()
    layer: str = ""
    compare: Sequence[str] = ()


def inspect_run(
    config: ConfigDict,
    workdir: pathlib.Path,
    selection: Selection = Selection(),
    given: Collection[str] = (),
) -> None:
    """Writes figures and tables of a run to WORKDIR/inspection, and prints each file's name.

    given: the config's fields that the user gave, see `experiment.resolve`.

    Replaces the files of an earlier inspection. Raises UserError, before anything is written, for
    a run, image, layer or checkpoint that does not exist.
    """
    network = ensemble.find_one(config, workdir, given).open()
    layer, most = _layer_and_images(network, selection.layer)
    notes: list[str] = []  # on files that are left out
    tables, runs = _compare(network, workdir, selection.compare, notes)
    if selection.images:
        paths = image_files.find(selection.images)[:most]
        subject = _user_images(network, paths, layer, notes)
    else:
        subject = _test_images(network, layer, most, notes)
    output = workdir / FOLDER
    result_files.check_writable(output / "parameters.txt")
    for path in itertools.chain.from_iterable(map(output.glob, WRITTEN)):
        path.unlink()
    parameters = parameter_tables.text(parameter_tables.parameters(network.variables)) + "\n"
    for name, text in {"parameters": parameters, **tables}.items():
        write_text(output / f"{name}.txt", text)
        processes.print_once(f"written: {output / name}.txt")
    figures = itertools.chain(
        [("learning_curves", pictures.curves(runs))] if runs else [],
        inspect_figures.weight_figures(network),
        inspect_figures.image_figures(subject) if subject else [],
    )
    for name, figure in figures:
        run_plots.save(figure, output / f"{name}.png")
        processes.print_once(f"written: {output / name}.png")
    for note in notes:
        processes.print_once(note)


def _layer_and_images(network: Trained, layer: str) -> tuple[str, int]:
    """The name of the activation to show, and the number of images to hold all activations of.

    Raises UserError for an unknown layer.
    """
    image = jax.ShapeDtypeStruct((1, *network.input_shape), np.float32)
    names: list[str] = []

    def activations(image):
        values = inspection.activations(network.module, network.variables, image)
        names.extend(values)  # in the layers' order, which JAX does not keep
        return values

    shapes = jax.eval_shape(activations, image)
    image_bytes = sum(value.size * value.dtype.itemsize for value in shapes.values())
    most = min(MOST_IMAGES, max(FEWEST_IMAGES, ACTIVATION_BYTES // image_bytes))
    return inspection.activated(dict.fromkeys(names), layer or names[0]), most


def _compare(network: Trained, workdir: pathlib.Path, compare: Sequence[str], notes: list[str]):
    """Tables of the differences from other networks by file name, and runs' records by label.

    Adds a note for each network that cannot be compared.
    """
    tables, runs = {}, {str(workdir): recorder.read(workdir)}
    for name in filter(None, map(str.strip, compare)):
        if name.isdecimal():
            other, name = load_run(workdir, int(name)), f"step {name}"
            label = f"{name} of this run"
        else:
            other, label = load_run(name, source="--compare"), printable(name)
            if expand(name).is_dir():
                runs[label] = recorder.read(expand(name))
        try:
            rows = parameter_tables.differences(network.variables, other.variables)
        except UserError as error:
            notes.append(f"no difference from {label}: {error}")
            continue
        title = f"from {workdir}, step {network.step}, to {label}, step {other.step}"
        file = "difference_" + re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[-100:]
        while file in tables:
            file += "-too"
        tables[file] = f"{title}\n\n{parameter_tables.text(rows)}\n"
    return tables, {label: records for label, records in runs.items() if records}


def _user_images(network: Trained, paths: Sequence[str], layer: str, notes: list[str]) -> Subject:
    """The user's picture files. Adds a note for each that cannot be read, if they are skipped."""
    readable, views = [], []
    for path in paths:
        try:
            views.append(network.views(path)[0])
            readable.append(path)
        except UserError as error:
            if network.config.dataset.on_bad_image == "error":
                raise
            notes.append(f"skipped {printable(path)} ({error})")
    if not views:
        raise UserError("no image can be read: give other images with --images")
    views = np.stack(views)
    labels = np.argmax(network.probabilities(network.on_device, views), axis=1)
    captions = [
        f"{printable(pathlib.Path(path).name)} (predicted: {network.readable_names[label]})"
        for path, label in zip(readable, labels, strict=True)
    ]
    shown = min(MOST_SHOWN, len(readable))
    return Subject(network, views, labels, captions, shown, layer, has_true_labels=False)


def _test_images(network: Trained, layer: str, most: int, notes: list[str]) -> Subject | None:
    """Some images of the data set's test split; None, and a note, if it is missing."""
    dataset = network.config.dataset
    try:
        split = sources.load(dataset, sources.split_name(dataset, dataset.test_split))
    except UserError as error:
        notes.append(f"figures that need images are left out: give images with --images ({error})")
        return None
    split = sources.with_classes(split, network.name, network.class_names)
    views, labels, captions = [], [], []
    for i in np.unique(np.linspace(0, len(split) - 1, most).astype(int)):
        try:
            views.append(network.exp.picture(split, i))
        except decode.BadImage:
            continue
        labels.append(split.read(i)[1])
        captions.append(f"test image {split.id(i)} ({network.readable_names[labels[-1]]})")
    if not views:
        raise UserError("no image of the test split can be read: give images with --images")
    return Subject(network, np.stack(views), np.array(labels), captions, shown=1, layer=layer)
