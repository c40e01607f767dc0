"""Records what each device of a training receives, as SHA-256 digests in files of a folder.

So runs can be compared even if their processes share no memory.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np


def _digest(array) -> str:
    array = np.asarray(array)
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()


def _from_all_devices(values):
    """Inside a step: the 32-bit values of all devices, uint32 [devices, ...]."""
    from train_lib.distributed import parallel

    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    slots = jnp.zeros((jax.lax.axis_size(parallel.AXIS), *bits.shape), jnp.uint32)
    return parallel.total(slots.at[parallel.device_index()].set(bits))


@contextlib.contextmanager
def recording(folder: pathlib.Path):
    """A context in which each training records what the functions below read.

    These are the augmented images and labels of each device of this process in each step, the
    state of each save, and the state with which each device begins.
    """
    from train_lib import checkpoints, train
    from train_lib.distributed import processes
    from train_lib.recorder import Recorder

    folder.mkdir(parents=True, exist_ok=True)
    make, log, loop = train.make_train_step, Recorder._log, train.loop
    save = checkpoints.Checkpoints.save

    def write(name, content):
        (folder / name).write_text(json.dumps(content))

    def make_train_step(recipe):
        images = []

        def keep(*arguments):
            images[:] = [recipe.transform(*arguments)]
            return images[0]

        step = make(dataclasses.replace(recipe, transform=keep))

        def train_step(state, batch):
            state, record = step(state, batch)
            return state, record | {
                "recorded": (_from_all_devices(images[0]), _from_all_devices(batch["label"]))
            }

        return train_step

    def keep_log(self, first, records, excluded_step=None):
        records = dict(records)
        images, labels = map(np.asarray, records.pop("recorded"))  # [steps, devices, share, ...]
        device_count = len(self.exp.devices)
        for step, device in np.ndindex(images.shape[0], device_count):
            device += processes.index() * device_count
            digests = [_digest(images[step, device]), _digest(labels[step, device])]
            write(f"batch {first + step} {device}", digests)
        log(self, first, records, excluded_step)

    def keep_begin(exp, train_step, state, *rest):
        leaves = {jax.tree_util.keystr(p): v for p, v in jax.tree.leaves_with_path(state)}
        for device in exp.devices:
            digests = {}
            for name, leaf in leaves.items():
                (shard,) = [s for s in leaf.addressable_shards if s.device == device]
                digests[name] = _digest(shard.data)
            write(f"begun {int(state.step)} {processes.index()} {device.id}", digests)
        return loop(exp, train_step, state, *rest)

    def keep_save(self, step, state, *rest):
        leaves = jax.tree.leaves_with_path(state)
        write(f"saved {step}", {jax.tree_util.keystr(p): _digest(v) for p, v in leaves})
        return save(self, step, state, *rest)

    train.make_train_step, Recorder._log, train.loop = make_train_step, keep_log, keep_begin
    checkpoints.Checkpoints.save = keep_save
    try:
        yield
    finally:
        train.make_train_step, Recorder._log, train.loop = make, log, loop
        checkpoints.Checkpoints.save = save


def _read(folder: pathlib.Path, kind: str) -> dict:
    return {
        tuple(map(int, path.name.split()[1:])): json.loads(path.read_text())
        for path in folder.glob(f"{kind} *")
    }


def batches(folder: pathlib.Path) -> dict:
    """{(step, device among all): digests of its images and labels}."""
    return _read(folder, "batch")


def initial_states(folder: pathlib.Path) -> dict:
    """{(step, process, device): digests of the state's leaves}."""
    return _read(folder, "begun")


def saved_states(folder: pathlib.Path) -> dict:
    """{(step,): digests of the state's leaves}."""
    return _read(folder, "saved")
