"""--mode=inspect: what is inside a run's net, as pictures and tables in WORKDIR/inspection."""

import itertools
import pathlib
import re
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from errors import UserError, printable
from input_pipeline import decode, sources
from input_pipeline import images as image_files
from models import inspection, parameter_tables
from train_lib import foreign, pictures, recorder
from train_lib.distributed import processes
from train_lib.evaluation import ensemble, exported, result_files
from train_lib.evaluation.trained import Trained, load_run
from train_lib.pictures import of_run, run_plots
from train_lib.workdir import check_run, write_text

FOLDER = "inspection"
MOST_SHOWN = 4  # of the given pictures; of a test set, one
# Of images that activations are held of at once: as many as have so many bytes, within limits.
BYTES, FEWEST, MOST = 2**29, 4, 200
# What an earlier inspection wrote, which would stand beside pictures of other images.
WRITTEN = (
    *("parameters.txt", "difference_*.txt", "learning_curves.png", "filters.png"),
    *("weight_histograms.png", "c3_table.png", "rbf_codes.png", "confusion_matrix.png"),
    *("activation_histograms.png", "dead_units.png", "feature_maps_*.png", "f6_and_codes.png"),
    *("gradient_norms.png", "receptive_fields_*.png", "saliency_*.png", "occlusion_*.png"),
    *("dropout_masks.png", "dropout_average.png", "max_pool_routing.png"),
)


def inspect_run(
    config: ConfigDict,
    workdir: pathlib.Path,
    images: Sequence[str],
    layer: str = "",
    compare: Sequence[str] = (),
) -> None:
    """Writes pictures and tables of a run to WORKDIR/inspection, and says each file's name.

    images: files, and folders of them; none: some of the data set's test images, if it is there.
    layer: whose feature maps are shown; "": of the first with an activation. compare: other runs'
    folders, or steps of this run's checkpoints. Files of an earlier inspection are overwritten.

    Raises UserError, before anything is written, for what is no run, image, layer or checkpoint.
    """
    (member,) = ensemble.find(config, workdir, ensemble=False, data=False)
    step, state = member.load()
    variables = jax.device_get(state.variables())
    del state
    net = Trained(member.exp, variables, member.class_names, step)
    layer, most = _layer(net, layer)
    differences, runs, notes = _compared(net, workdir, compare)
    seen = _looked_at(net, member, images, layer, most, notes)
    output = workdir / FOLDER
    result_files.check_writable(output / "parameters.txt")
    for path in itertools.chain.from_iterable(map(output.glob, WRITTEN)):
        path.unlink()
    texts = {
        "parameters": parameter_tables.text(parameter_tables.parameters(net.variables)) + "\n"
    } | differences
    for name, text in texts.items():
        write_text(output / f"{name}.txt", text)
        processes.print_once(f"written: {output / name}.txt")
    for name, figure in itertools.chain(_learning(runs), of_run.of_weights(net), _of(seen)):
        run_plots.save(figure, output / f"{name}.png")
        processes.print_once(f"written: {output / name}.png")
    for note in notes:
        processes.print_once(note)


def _layer(net: Trained, layer: str) -> tuple[str, int]:
    """The name of an activation, and of how many images to hold all activations.

    Raises UserError for a layer that there is not.
    """
    image = jax.ShapeDtypeStruct((1, *net.input_shape), np.float32)
    names: list[str] = []

    def look(image):
        found = inspection.activations(net.module, net.variables, image)
        names.extend(found)  # in order, which JAX does not keep
        return found

    shapes = jax.eval_shape(look, image)
    held = sum(value.size * value.dtype.itemsize for value in shapes.values())
    most = min(MOST, max(FEWEST, BYTES // held))
    return inspection.activated(dict.fromkeys(names), layer or names[0]), most


def _of(seen: of_run.LookedAt | None) -> Iterator:
    """All that takes pictures."""
    if seen is None:
        return
    for pictures_of in (
        of_run.of_answers,
        of_run.of_activations,
        of_run.of_gradients,
        of_run.of_images,
        of_run.of_dropping,
        of_run.of_pooling,
    ):
        yield from pictures_of(seen)


def _learning(runs: dict[str, list[dict]]) -> Iterator:
    """learning_curves, of all runs that have records."""
    runs = {label: records for label, records in runs.items() if records}
    if runs:
        yield "learning_curves", pictures.curves(runs)


def _compared(net: Trained, workdir: pathlib.Path, compare: Sequence[str]):
    """Texts of differences by name, records of runs by label, and notes on what is left out."""
    texts, notes = {}, []
    runs = {str(workdir): recorder.read(workdir)}
    for name in filter(None, map(str.strip, compare)):
        if name.isdecimal():
            other, label = load_run(workdir, int(name)), f"step {name} of this run"
        else:
            if foreign.is_foreign(name):
                raise UserError(
                    f"--compare={name}: give a run's folder, or a file of --mode=export"
                )
            if pathlib.Path(name).suffix.lower() != exported.SUFFIX:
                check_run(pathlib.Path(name).expanduser(), "--compare")
            other, label = load_run(name), printable(name)
            path = pathlib.Path(name).expanduser()
            if path.is_dir():
                runs[label] = recorder.read(path)
        try:
            rows = parameter_tables.differences(net.variables, other.variables)
        except UserError as error:
            notes.append(f"no difference from {label}: {error}")
            continue
        title = f"from {workdir}, step {net.step}, to {label}, step {other.step}"
        short = re.sub(r"[^A-Za-z0-9]+", "-", f"step {name}" if name.isdecimal() else name)
        file = f"difference_{short.strip('-')[-100:]}"
        while file in texts:
            file += "-too"
        texts[file] = f"{title}\n\n{parameter_tables.text(rows)}\n"
    return texts, runs, notes


def _looked_at(net: Trained, member, images, layer: str, most: int, notes: list[str]):
    """The pictures to look at, at most so many; None (and a note) where there are none."""
    if images:
        paths, views = [], []
        for path in image_files.find(images)[:most]:
            try:
                views.append(net.views(path)[0])
                paths.append(path)
            except UserError as error:
                if net.config.dataset.on_bad_image == "error":
                    raise
                notes.append(f"skipped {printable(path)} ({error})")
        if not views:
            raise UserError("not one of the pictures can be read: give others by --images")
        views = np.stack(views)
        labels = np.argmax(net.probabilities(net.on_device, views), axis=1)
        captions = [
            f"{printable(pathlib.Path(path).name)} (taken for {net.class_names[label]})"
            for path, label in zip(paths, labels, strict=True)
        ]
        shown = min(MOST_SHOWN, len(paths))
        return of_run.LookedAt(net, views, labels, captions, shown, layer, answers=True)
    dataset = net.config.dataset
    try:
        split = sources.load(dataset, sources.split_name(dataset, dataset.test_split))
    except UserError as error:
        notes.append(f"left out what needs images: give some by --images ({error})")
        return None
    ensemble.check_classes([member], split.info)
    views, labels, captions = [], [], []
    for i in np.unique(np.linspace(0, len(split) - 1, most).astype(int)):
        try:
            views.append(net.exp.picture(split, i))
        except decode.BadImage:
            continue
        labels.append(split.read(i)[1])
        captions.append(f"test image {split.id(i)} ({net.class_names[labels[-1]]})")
    if not views:
        raise UserError("not one image of the test split can be read: give some by --images")
    return of_run.LookedAt(net, np.stack(views), np.array(labels), captions, 1, layer)
