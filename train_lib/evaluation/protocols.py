"""How a test turns one image into one prediction, by name: the protocols of the papers.

A protocol is one or more passes over the split. Each looks at every image once, in its way, and
gives class probabilities; their weighted sum is the prediction. What a pass sees of an image, its
crops and their mirrors, is averaged as probabilities.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from errors import UserError
from input_pipeline import stream
from input_pipeline.crops import Crops, Whole, corners_and_center
from input_pipeline.split import part_of
from input_pipeline.transform import make_transform
from models import layers, registry
from train_lib.distributed import parallel, processes

_UNSEEN = -2  # a label, before the first pass


@dataclasses.dataclass(frozen=True)
class Pass:
    """One look at every example of a split.

    batches: a split -> host batches [devices, n, ...], with `index` of the examples if these do
        not come in order.
    step: (state, batch) -> probabilities [devices, n, classes], already parallel.
    """

    weight: float
    batches: Callable[[object], Iterator[dict]]
    step: Callable


def name(exp) -> str:
    """The experiment's protocol: for auto center or full, whether or not its images are cut."""
    protocol = exp.config.evaluate.protocol
    return protocol if protocol != "auto" else "center" if _is_cut(exp) else "full"


def _is_cut(exp) -> bool:
    return bool(exp.config.view.size) or exp.input_shape[0] < min(exp.info.image_shape[:2])


def is_single(exp) -> bool:
    """Whether the net looks at each image once, as training's own tests do."""
    return name(exp) in ("center", "full")


def scales(exp) -> tuple[int, ...]:
    """The shorter sides Q that the protocol looks at.

    With multi_scale, the published ones. Fixed S: S - 32, S, S + 32; jittered: the smallest, the
    middle and the largest S (Simonyan & Zisserman 2015, sec. 4.2). For GoogLeNet's squares Q,
    Q + 32, Q + 64, Q + 96 from Q = view.test_scale on (Szegedy 2014, sec. 7: 256, 288, 320, 352).
    """
    section, view = exp.config.evaluate, exp.config.view
    if section.scales:
        return tuple(section.scales)
    if not view.size:
        return (min(exp.info.image_shape[:2]),)
    if not section.multi_scale:
        return (view.test_scale,)
    if name(exp) == "multi_crop" and section.crops == "squares":
        return tuple(view.test_scale + 32 * i for i in range(4))
    low, high = view.train_scale
    return (low - 32, low, low + 32) if low == high else (low, round((low + high) / 2), high)


def describe(exp) -> dict:
    """What was asked of the net, beside the protocol's name: for the line that a test prints."""
    section, protocol = exp.config.evaluate, name(exp)
    if is_single(exp):
        return {}
    found: dict = {"scales": list(scales(exp))}
    if "multi_crop" in protocol:
        found["crops"] = section.crops
    if "dense" in protocol:
        found["map_average"] = section.map_average
    return found


def check(exp) -> None:
    """Raises UserError where the net cannot be tested as the config asks for."""
    config, section = exp.config, exp.config.evaluate
    protocol, view, side = name(exp), config.view, exp.input_shape[0]
    asked = f"config.evaluate.protocol={section.protocol}"
    if is_single(exp):
        if (protocol == "full") == _is_cut(exp):
            does, other = ("cuts a square of", "center") if _is_cut(exp) else ("takes", "full")
            raise UserError(f"{asked}: the recipe {does} these images: choose {other}")
        if section.scales or section.multi_scale:
            raise UserError(
                f"{asked} looks at one scale, config.view.test_scale: choose another protocol for"
                " config.evaluate.scales and .multi_scale"
            )
        return
    if section.scales and section.multi_scale:
        raise UserError("config.evaluate.scales and .multi_scale: set one of them")
    squares = protocol == "multi_crop" and section.crops == "squares"
    if section.multi_scale and not (view.size and (squares or view.train == "scale")):
        raise UserError(
            "config.evaluate.multi_scale follows config.view.train_scale, which this recipe does"
            " not use: give config.evaluate.scales"
        )
    if view.size and side != view.size:
        raise UserError(
            f"{asked}: config.view gives {view.size} pixels and config.preprocess makes {side} of"
            " them: set config.preprocess.crop and .pad to 0"
        )
    if not view.size and protocol == "ten_crop" and (section.scales or not _is_cut(exp)):
        what = (
            "config.evaluate.scales need config.view.size"
            if section.scales
            else ("the net takes these images whole: choose full")
        )
        raise UserError(f"{asked}: {what}")
    if not view.size and "multi_crop" in protocol:
        raise UserError(f"{asked} needs config.view.size: choose another protocol")
    if "dense" in protocol:
        _check_dense(exp, asked)
    too_small = [found for found in scales(exp) if found < side]
    if too_small:
        raise UserError(
            f"a shorter side of {too_small[0]} (by config.evaluate.scales or .multi_scale) is less"
            f" than the {side} pixels that the net takes: give larger config.evaluate.scales"
        )


def check_copy(exp) -> None:
    """Raises UserError where the data set is a copy of less than the protocol looks at."""
    if exp.info.copy and not is_single(exp):
        exp.info.copy.check_scales(scales(exp), whole=name(exp) != "ten_crop")


def _check_dense(exp, asked: str) -> None:
    height, width = exp.input_shape[:2]
    model = exp.config.model.name
    sliding = registry.sliding()
    if model not in sliding:
        raise UserError(
            f"{asked}: {model} cannot be slid over a larger image, as {', '.join(sliding)} can:"
            " choose another protocol"
        )
    if height != width:
        raise UserError(f"{asked}: the net takes {height}x{width} images, and dense needs squares")


def passes(exp) -> list[Pass]:
    """The passes of the experiment's protocol; their weights sum to 1. Raises as `check`."""
    check(exp)
    protocol = name(exp)
    if is_single(exp):
        return [_single(exp)]
    if protocol == "ten_crop":
        return [_crops(exp, "ten_crop") if exp.reading.view.size else _corners(exp)]
    if protocol == "multi_crop":
        return [_crops(exp, exp.config.evaluate.crops)]
    dense = _dense(exp)
    if protocol == "dense":
        return dense
    # Both equally, of all scales (Simonyan & Zisserman 2015, table 5).
    return [
        *(dataclasses.replace(one, weight=one.weight / 2) for one in dense),
        dataclasses.replace(_crops(exp, exp.config.evaluate.crops), weight=0.5),
    ]


def _whole_number(size: float, devices: int) -> int:
    """Of examples in a batch: some `size`, and as many on each device."""
    return max(1, int(size) // devices) * devices


def _probabilities(exp) -> Callable:
    """(state, network input) -> class probabilities [batch, classes]."""

    def apply(state, inputs):
        scale = exp.drop_scale(state.step)
        logits = exp.module.apply(state.variables(), inputs, train=False, drop_scale=scale)
        return exp.loss.probabilities(logits)

    return apply


def _with_mirrors(x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [2 b, h, w, c]: the mirrored ones behind."""
    return jnp.concatenate([x, x[:, :, ::-1]])


def _single(exp) -> Pass:
    """The images as the net's own test has them."""
    apply, transform = _probabilities(exp), exp.transform

    def step(state, batch):
        return apply(state, transform(batch["image"]))

    return Pass(1.0, exp.eval_batches, parallel.predict_step(step, exp.devices))


def _crops(exp, kind: str) -> Pass:
    """Crops that the host cuts, and their mirrors."""
    config, devices = exp.config, len(exp.devices)
    reader = Crops(kind, config.view.size, scales(exp), config.view.interpolation)
    size = _whole_number(exp.eval_batch_size / (2 * reader.count), devices)
    # Crops that go through the net at once; mirrored, twice as many.
    at_once = max(1, exp.eval_batch_size // (2 * devices))
    # The transform outside of the step: its statistics may have to come from another process.
    apply, transform = _probabilities(exp), exp.transform
    # A mean image is of the central square at test_scale. Of other crops it has no places: from
    # them its middle is subtracted.
    has_places = kind == "ten_crop" and scales(exp) == (config.view.test_scale,)

    def some(state, images, offsets):
        inputs = transform(images, offsets=offsets if has_places else None)
        found = apply(state, _with_mirrors(inputs))
        return (found[: len(images)] + found[len(images) :]) / 2

    def step(state, batch):
        count, views = batch["image"].shape[:2]
        images = batch["image"].reshape(-1, *batch["image"].shape[2:])
        offsets = batch["offset"].reshape(-1, 2)
        if len(images) <= at_once:
            found = some(state, images, offsets)
        else:
            groups = -(-len(images) // at_once)
            spare = groups * at_once - len(images)
            images, offsets = (
                jnp.pad(v, [(0, spare)] + [(0, 0)] * (v.ndim - 1)).reshape(
                    groups, at_once, *v.shape[1:]
                )
                for v in (images, offsets)
            )
            found = jax.lax.map(lambda group: some(state, *group), (images, offsets))
            found = found.reshape(-1, found.shape[-1])[: count * views]
        return found.reshape(count, views, -1).mean(axis=1)

    def batches_of(split):
        count = min(size, _up(len(split), devices))
        return stream.eval_batches(split, exp.reading, count, devices, reader)

    return Pass(1.0, batches_of, parallel.predict_step(step, exp.devices))


def _corners(exp) -> Pass:
    """Corners and centre of small images that are not cut by the host, and their mirrors."""
    config, devices = exp.config, len(exp.devices)
    side, pad = config.preprocess.crop, config.preprocess.pad
    size = _whole_number(exp.eval_batch_size / 10, devices)
    # The transform outside of the step: its statistics may have to come from another process.
    apply, transform = _probabilities(exp), exp.transform

    def step(state, batch):
        height, width = (length + 2 * pad for length in batch["image"].shape[1:3])
        rows, columns = (corners_and_center(length, side) for length in (height, width))
        places = [(top, left) for (top, _), (_, left) in zip(rows, columns, strict=True)]
        parts = [_with_mirrors(transform(batch["image"], at=place)) for place in places]
        found = apply(state, jnp.concatenate(parts))
        return found.reshape(2 * len(places), len(batch["image"]), -1).mean(axis=0)

    def batches_of(split):
        count = min(size, _up(len(split), devices))
        return stream.eval_batches(split, exp.reading, count, devices)

    return Pass(1.0, batches_of, parallel.predict_step(step, exp.devices))


def _up(count: int, devices: int) -> int:
    return -(-count // devices) * devices


def _dense(exp) -> list[Pass]:
    """Whole images at each scale, and their mirrors: the mean of the net at all places."""
    config, devices = exp.config, len(exp.devices)
    side = exp.input_shape[0]
    module = exp.module.clone(class_map=True, image_size=side)
    sides = scales(exp)
    section = config.preprocess.copy_and_resolve_references()
    section.pad = section.crop = 0
    if section.mean == "pixel":
        section.mean = "channel"  # a mean image has no meaning at other sizes
    transform = make_transform(section, config.augment, exp.statistics)
    scores = config.evaluate.map_average == "scores"

    def mean(maps, valid):
        inside = layers.inside(maps.shape[1:3], valid)
        return maps.mean(axis=(1, 2), where=inside)

    def step(state, batch):
        images, sizes = transform(batch["image"]), batch["size"]
        shape = images.shape[1:3]
        # The mirror of a padded image: column j comes from column width - 1 - j.
        columns = (sizes[:, 1, None] - 1 - jnp.arange(shape[1])) % shape[1]
        mirrored = jnp.take_along_axis(images, columns[:, None, :, None], axis=2)
        with layers.padded(shape, jnp.concatenate([sizes, sizes])) as extents:
            maps = module.apply(
                state.variables(),
                jnp.concatenate([images, mirrored]),
                train=False,
                drop_scale=exp.drop_scale(state.step),
            )
            valid = extents.of(maps)
        if scores:
            found = exp.loss.probabilities(mean(maps, valid))
        else:
            cells = exp.loss.probabilities(maps.reshape(-1, maps.shape[-1]))
            found = mean(cells.reshape(maps.shape), valid)
        return (found[: len(images)] + found[len(images) :]) / 2

    parallel_step = parallel.predict_step(step, exp.devices)
    pixels = exp.eval_batch_size * side**2 // 2

    def of(shorter: int) -> Pass:
        reader = Whole(shorter, config.view.interpolation)

        def batches_of(split):
            return stream.whole_batches(split, exp.reading, reader, pixels, devices)

        return Pass(1 / len(sides), batches_of, parallel_step)

    return [of(shorter) for shorter in sides]


def predict(all_passes: list[Pass], state, split, meter) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities of every example, float32 [n, classes], and the labels, int32 [n].

    Of several processes each looks at its part of the split, and all have the result. The label
    is -1 for what a pass could not read and skipped. meter: a `console.Meter` of this part, which
    counts an example once for each pass.
    """
    part = part_of(split, processes.index(), processes.count())
    sums, labels = None, np.full(len(part), _UNSEEN, np.int32)
    for one in all_passes if len(part) else ():
        waiting: list[tuple] = []  # two batches in flight keep the device busy
        for batch in _numbered(one.batches(part), len(part)):
            inputs = {name: batch[name] for name in ("image", "offset", "size") if name in batch}
            with meter.compiling((one.step, inputs["image"].shape)):
                waiting.append((batch, one.step(state, inputs)))
            if len(waiting) > 2:
                sums = _add(sums, labels, one.weight, *waiting.pop(0), meter)
        for batch, found in waiting:
            sums = _add(sums, labels, one.weight, batch, found, meter)
    own = {"labels": labels} | ({} if sums is None else {"sums": sums})
    gathered = processes.gather(**own)
    return tuple(
        np.concatenate([one[name] for one in gathered if name in one])
        for name in ("sums", "labels")
    )


def _numbered(found: Iterator[dict], count: int) -> Iterator[dict]:
    """Batches with an `index`: where they have none, they come in order, padded at the end."""
    position = 0
    with contextlib.closing(found):
        for batch in found:
            if "index" not in batch:
                index = np.arange(position, position + batch["label"].size)
                batch["index"] = np.where(index < count, index, -1).reshape(batch["label"].shape)
                position += index.size
            yield batch


def _add(sums, labels, weight: float, batch: dict, found, meter) -> np.ndarray:
    """Adds a batch's probabilities, times the weight, and fills in its labels."""
    index = batch["index"].reshape(-1)
    there = index >= 0
    found = np.asarray(found).reshape(len(index), -1)
    if sums is None:
        sums = np.zeros((len(labels), found.shape[-1]), np.float32)
    sums[index[there]] += np.float32(weight) * found[there]
    known = np.where(batch["mask"] > 0, batch["label"], -1).reshape(-1)[there]
    before = labels[index[there]]
    labels[index[there]] = np.where((known < 0) | (before == _UNSEEN), known, before)
    meter.done(int(there.sum()))
    return sums
