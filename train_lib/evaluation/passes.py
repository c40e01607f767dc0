"""Evaluation passes over a split, and the weighted sum of their class probabilities.

Each pass reads every image once. It averages the class probabilities of the image's crops and of
their mirror images.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from input_pipeline import stream
from input_pipeline.crops import Crops, Whole, corners_and_center
from input_pipeline.split import part_of
from input_pipeline.transform import make_transform
from models import layers
from train_lib.distributed import parallel, processes


@dataclasses.dataclass(frozen=True)
class Pass:
    """One evaluation of every example of a split.

    weight: the factor on the probabilities. The weights of a protocol's passes sum to 1.
    batches: split -> batches on the host [devices, n, ...]. They contain the `index` of each
        example if the examples are not in order.
    step: (state, batch) -> class probabilities [devices, n, classes], computed on all devices.
    """

    weight: float
    batches: Callable[[object], Iterator[dict]]
    step: Callable


def single_view(exp) -> Pass:
    """Every image in the same view as in the evaluations during training."""
    apply, transform = _probabilities(exp), exp.transform

    def step(state, batch):
        return apply(state, transform(batch["image"]))

    return Pass(1.0, exp.eval_batches, parallel.predict_step(step, exp.devices))


def host_crops(exp, kind: str, scales: Sequence[int]) -> Pass:
    """Crops that the host cuts, and their mirror images. kind: a name of `crops.KINDS`."""
    view, devices = exp.config.view, len(exp.devices)
    reader = Crops(kind, view.size, scales, view.interpolation)
    # Made outside of the step, because its statistics may come from another process.
    apply, transform = _probabilities(exp), exp.transform
    # A mean image covers the central square at test_scale. For crops at other places, the centre
    # of the mean image is subtracted.
    use_offsets = kind == "ten_crop" and tuple(scales) == (view.test_scale,)

    def probabilities(state, images, offsets):
        inputs = transform(images, offsets=offsets if use_offsets else None)
        return _mean_of_mirrors(apply(state, _with_mirrors(inputs)))

    # Number of crops in one call of the network. Their mirror images double it.
    group = max(1, exp.eval_batch_size // (2 * devices))

    def step(state, batch):
        count, views = batch["image"].shape[:2]
        images = batch["image"].reshape(-1, *batch["image"].shape[2:])
        offsets = batch["offset"].reshape(-1, 2)
        if len(images) <= group:
            outputs = probabilities(state, images, offsets)
        else:
            in_groups = [_in_groups(array, group) for array in (images, offsets)]
            outputs = jax.lax.map(lambda arrays: probabilities(state, *arrays), in_groups)
            outputs = outputs.reshape(-1, outputs.shape[-1])[: count * views]
        return outputs.reshape(count, views, -1).mean(axis=1)

    def batches_of(split):
        size = _batch_size(exp, split, 2 * reader.count)
        return stream.eval_batches(split, exp.reading, size, devices, reader)

    return Pass(1.0, batches_of, parallel.predict_step(step, exp.devices))


def device_crops(exp) -> Pass:
    """Corners and centre of small images, cut on the device, and their mirror images."""
    section, devices = exp.config.preprocess, len(exp.devices)
    # Made outside of the step, because its statistics may come from another process.
    apply, transform = _probabilities(exp), exp.transform

    def step(state, batch):
        padded = (length + 2 * section.pad for length in batch["image"].shape[1:3])
        rows, columns = (corners_and_center(length, section.crop) for length in padded)
        places = [(top, left) for (top, _), (_, left) in zip(rows, columns, strict=True)]
        crops = [_with_mirrors(transform(batch["image"], at=place)) for place in places]
        outputs = apply(state, jnp.concatenate(crops))
        return outputs.reshape(2 * len(places), len(batch["image"]), -1).mean(axis=0)

    def batches_of(split):
        size = _batch_size(exp, split, 10)
        return stream.eval_batches(split, exp.reading, size, devices)

    return Pass(1.0, batches_of, parallel.predict_step(step, exp.devices))


def whole_images(exp, scales: Sequence[int]) -> list[Pass]:
    """Whole images and their mirror images, one pass per scale.

    The network is applied at all positions of an image, and its outputs are averaged over them.
    """
    config, side = exp.config, exp.input_shape[0]
    module = exp.module.clone(class_map=True, image_size=side)
    section = ConfigDict(config.preprocess.to_dict() | {"pad": 0, "crop": 0})
    if section.mean == "pixel":
        section.mean = "channel"  # a mean image fits one size only
    transform = make_transform(section, config.augment, exp.statistics)
    average_scores = config.evaluate.map_average == "scores"

    def step(state, batch):
        images, sizes = transform(batch["image"]), batch["size"]
        shape = images.shape[1:3]
        # Mirrors each image without its padding: column j comes from column width - 1 - j.
        columns = (sizes[:, 1, None] - 1 - jnp.arange(shape[1])) % shape[1]
        mirrored = jnp.take_along_axis(images, columns[:, None, :, None], axis=2)
        with layers.padded(shape, jnp.concatenate([sizes, sizes])):
            maps = module.apply(
                state.variables(),
                jnp.concatenate([images, mirrored]),
                train=False,
                drop_scale=exp.drop_scale(state.step),
            )
            inside = layers.inside(maps.shape[1:3], layers.valid_sizes(maps))
        if average_scores:
            outputs = exp.loss.probabilities(maps.mean(axis=(1, 2), where=inside))
        else:
            cells = exp.loss.probabilities(maps.reshape(-1, maps.shape[-1]))
            outputs = cells.reshape(maps.shape).mean(axis=(1, 2), where=inside)
        return _mean_of_mirrors(outputs)

    parallel_step = parallel.predict_step(step, exp.devices)
    pixels = exp.eval_batch_size * side**2 // 2

    def at_scale(scale: int) -> Pass:
        reader = Whole(scale, config.view.interpolation)

        def batches_of(split):
            return stream.whole_batches(split, exp.reading, reader, pixels, len(exp.devices))

        return Pass(1 / len(scales), batches_of, parallel_step)

    return [at_scale(scale) for scale in scales]


def _probabilities(exp) -> Callable:
    """(state, network input) -> class probabilities [batch, classes]."""

    def apply(state, inputs):
        scale = exp.drop_scale(state.step)
        logits = exp.module.apply(state.variables(), inputs, train=False, drop_scale=scale)
        return exp.loss.probabilities(logits)

    return apply


def _batch_size(exp, split, views: int) -> int:
    """Number of examples in a batch if each has `views` views; a multiple of the device count."""
    devices = len(exp.devices)
    most = max(1, int(exp.eval_batch_size / views) // devices) * devices
    return min(most, -(-len(split) // devices) * devices)


def _in_groups(array: jax.Array, size: int) -> jax.Array:
    """[n, ...] -> [groups, size, ...], the last group filled with zeros."""
    groups = -(-len(array) // size)
    spare = [(0, groups * size - len(array))] + [(0, 0)] * (array.ndim - 1)
    return jnp.pad(array, spare).reshape(groups, size, *array.shape[1:])


def _with_mirrors(x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [2 b, h, w, c]: the images, then their mirror images."""
    return jnp.concatenate([x, x[:, :, ::-1]])


def _mean_of_mirrors(outputs: jax.Array) -> jax.Array:
    """[2 b, classes] of `_with_mirrors` -> [b, classes]."""
    images, mirrored = jnp.split(outputs, 2)
    return (images + mirrored) / 2


def predict(passes: Sequence[Pass], state, split, meter) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities of every example, float32 [n, classes], and the labels, int32 [n].

    With several processes, each evaluates its part of the split, and all get the whole result. The
    label is -1 for an image that a pass could not read. meter: a `progress.Meter` for this
    process's part.
    """
    part = part_of(split, processes.index(), processes.count())
    sums = np.zeros((len(part), split.info.num_classes), np.float32)
    labels = np.full(len(part), np.iinfo(np.int32).max, np.int32)
    for one_pass in passes if len(part) else ():
        for batch, outputs in _outputs(one_pass, state, part, meter):
            is_example = batch["index"] >= 0
            index = batch["index"][is_example]
            sums[index] += np.float32(one_pass.weight) * np.asarray(outputs)[is_example]
            batch_labels = np.where(batch["mask"] > 0, batch["label"], -1)[is_example]
            labels[index] = np.minimum(labels[index], batch_labels)  # -1 stays
            meter.advance(len(index))
    parts = processes.gather(sums=sums, labels=labels)
    return tuple(np.concatenate([part[name] for part in parts]) for name in ("sums", "labels"))


def _outputs(one_pass: Pass, state, part, meter) -> Iterator[tuple]:
    """Yields (batch with `index`, outputs). Runs two batches ahead to keep the devices busy."""
    waiting: list[tuple] = []
    position = 0
    with contextlib.closing(one_pass.batches(part)) as batches:
        for batch in batches:
            if "index" not in batch:  # examples are in order, with padding at the end
                index = position + np.arange(batch["label"].size).reshape(batch["label"].shape)
                batch["index"] = np.where(index < len(part), index, -1)
                position += index.size
            inputs = {name: batch[name] for name in ("image", "offset", "size") if name in batch}
            with meter.compiling((one_pass.step, inputs["image"].shape)):
                waiting.append((batch, one_pass.step(state, inputs)))
            if len(waiting) > 2:
                yield waiting.pop(0)
    yield from waiting
