"""Whether the tests would notice: each promise's line taken out of the code, in turn.

    python -m tests.stress.mutations [--only=NAME,...]

For each mutation a copy of the sources is changed in one place, and the tests named beside it run
there: they must fail. Without a change they must pass.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]
RULES = "tests/train_lib/test_rules_resume.py"
RESUME = "tests/train_lib/test_resume.py::test_interrupted_runs_equal_the_uninterrupted_run[4]"

# name: (file, what is replaced, by what, the test that must notice)
MUTATIONS = {
    "arrays' checksum": (
        "train_lib/checkpoints.py",
        "        if actual.get(name) != expected.get(name):",
        "        if actual[name][:2] != expected[name][:2]:",
        "tests/train_lib/test_checkpoints.py",
    ),
    "description's checksum": (
        "train_lib/checkpoints.py",
        'content.get("digest") == description_digest(content)',
        "True",
        "tests/train_lib/test_checkpoints.py",
    ),
    "files replaced whole": (
        "input_pipeline/cache.py",
        'temporary = path.with_name(f"{prefix}{path.name}.{uuid.uuid4().hex}")',
        "temporary = path",
        "tests/train_lib/test_workdir.py",
    ),
    "records behind the checkpoint dropped": (
        "train_lib/recorder.py",
        'if record["step"] <= step]',
        "]",
        "tests/train_lib/test_recorder.py",
    ),
    "sums of the log in the state": (
        "train_lib/checkpoints.py",
        "        return state\n\n    def _of_another",
        "        return state.replace(window={k: 0 * v for k, v in state.window.items()})"
        " if hasattr(state, 'window') else state\n\n    def _of_another",
        RESUME,
    ),
    "velocity in the state": (
        "train_lib/checkpoints.py",
        "        return state\n\n    def _of_another",
        "        import jax.numpy as jnp\n        return state.replace(opt_state=jax.tree.map("
        "lambda v: 0 * v if v.ndim else v, state.opt_state)) if hasattr(state, 'window') else state"
        "\n\n    def _of_another",
        RESUME,
    ),
    "a random leaf of the state": (
        "train_lib/checkpoints.py",
        "        return state\n\n    def _of_another",
        "        import random\n        leaves, tree = jax.tree.flatten(state)\n"
        "        one = random.choice([i for i, leaf in enumerate(leaves) if np.any(leaf)])\n"
        "        leaves[one] = np.zeros_like(leaves[one])\n"
        "        return jax.tree.unflatten(tree, leaves)\n\n    def _of_another",
        RULES,
    ),
    "the checkpoint that was restored": (
        "train_lib/train.py",
        "        if restored is not None:",
        "        if restored is not None and restored[0] < 0:",
        RULES,
    ),
    "the error of a test whose save was interrupted": (
        "train_lib/recorder.py",
        "holds(step, scored=error is not None)",
        "holds(step, scored=False)",
        RULES,
    ),
    "what keeps a good checkpoint from being read": (
        "train_lib/checkpoints.py",
        "        why = reason_outside_file(error)\n        if why:",
        "        why = reason_outside_file(error)\n        if why and not why:",
        "tests/train_lib/test_checkpoints.py",
    ),
    "the old checkpoint while its step is saved again": (
        "train_lib/checkpoints.py",
        "(self.directory / str(step)).rename(self.workdir / REPLACED / str(step))",
        "shutil.rmtree(self.directory / str(step))",
        "tests/train_lib/test_checkpoints.py",
    ),
    "random keys from the seed and the step alone": (
        "train_lib/steps.py",
        "    base_key = jax.random.fold_in(jax.random.key(recipe.seed), 1)",
        "    import os\n    base_key = jax.random.fold_in("
        "jax.random.key(recipe.seed), os.getpid())",
        RESUME,
    ),
    "order of the examples from the step": (
        "input_pipeline/stream.py",
        "        step = self._steps.start\n",
        "        step = 0\n",
        RESUME,
    ),
    "plateau's memory": (
        "train_lib/recorder.py",
        "        state = self._with_observed_error(state, step)",
        "        state = self._with_observed_error(state, step) if step % 2 else state",
        RULES,
    ),
    "lock": (
        "train_lib/distributed/lock.py",
        "            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "            return None",
        "tests/train_lib/distributed/test_lock.py",
    ),
    "what is not finite": (
        "train_lib/steps.py",
        "    return jnp.where(flags.any(), jnp.argmax(flags), -1).astype(jnp.int32)",
        "    return jnp.int32(-1)",
        "tests/train_lib/test_not_finite.py",
    ),
    "the loss of two devices counts once": (
        "models/layers/division.py",
        "    return jax.lax.dynamic_update_slice_in_dim(whole, x, _start(x.shape[last]), last)",
        "    return joined(x)",
        "tests/models/test_division.py",
    ),
    "masks of two devices": (
        "models/layers/dropping.py",
        "division.own(draw(keys, share))",
        "draw(keys, share)[..., : x.shape[-1]]",
        "tests/models/test_division.py",
    ),
    "two devices know what is not finite": (
        "train_lib/distributed/parallel.py",
        "    return jax.lax.psum(flags, TOWER) > 0 if division.axis_name() else flags",
        "    return flags",
        "tests/train_lib/distributed/test_shared_networks.py"
        "::test_all_devices_know_of_a_value_that_is_not_finite",
    ),
    "each process its own part": (
        "input_pipeline/batches.py",
        "[:, order.process].swapaxes",
        "[:, 0].swapaxes",
        "tests/train_lib/distributed/test_processes.py::test_batches_of_processes_are_parts_of_one_batch",
    ),
}


def copy_of_sources(folder: pathlib.Path) -> pathlib.Path:
    target = folder / "canon"
    ignored = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", "*_cache")
    shutil.copytree(ROOT, target, ignore=ignored)
    return target


def run(sources: pathlib.Path, test: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", test]
    return subprocess.run(command, cwd=sources, capture_output=True, text=True)


def main() -> int:
    """The number of mutations that the tests did not notice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(MUTATIONS))
    arguments = parser.parse_args()
    missed, passed = [], set()
    with tempfile.TemporaryDirectory() as folder:
        sources = copy_of_sources(pathlib.Path(folder))
        for name in arguments.only.split(","):
            file, old, new, test = MUTATIONS[name]
            if test not in passed:
                done = run(sources, test)
                assert done.returncode == 0, f"{test} fails as it is: {done.stdout[-1500:]}"
                passed.add(test)
            path = sources / file
            text = path.read_text()
            assert text.count(old) == 1, f"{name}: {old!r} stands there {text.count(old)} times"
            path.write_text(text.replace(old, new))
            noticed = run(sources, test).returncode == 1
            path.write_text(text)
            if not noticed:
                missed.append(name)
            print(f"{'noticed' if noticed else 'MISSED':>8}  {name}  ({test})", flush=True)
    print(f"{len(missed)} missed")
    return len(missed)


if __name__ == "__main__":
    sys.exit(bool(main()))
