"""Programs that were compiled by an earlier process: used only if whole and this machine's."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from train_lib import compilation_cache
from train_lib.compilation_cache import Store

ROOT = pathlib.Path(__file__).parents[2]

# Compiles a gradient with a convolution, a matrix product, exponentials and random numbers. Prints
# how many programs came from the cache and the bytes of the result.
SMALL = """
import hashlib, json, jax, jax.numpy as jnp, numpy as np
from train_lib import compilation_cache
hits = []
jax.monitoring.register_event_listener(
    lambda name, **_: name.endswith("/cache_hits") and hits.append(1)
)
compilation_cache.SHORTEST_SECONDS = 0.0
compilation_cache.configure(True)

@jax.jit
def program(seed):
    image, kernel, weights = (
        jax.random.normal(jax.random.key(seed + i), shape)
        for i, shape in enumerate([(4, 12, 12, 3), (3, 3, 3, 8), (8, 5)])
    )
    def loss(kernel):
        maps = jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.exp(jnp.tanh(maps).mean((1, 2)) @ weights).sum()
    return jax.value_and_grad(loss)(kernel)

result = hashlib.sha256()
for leaf in jax.tree.leaves(program(3)):
    result.update(np.asarray(leaf).tobytes())
print(json.dumps([len(hits), result.hexdigest()]))
"""

# Trains, and prints the same of the final state.
TRAINING = """
import hashlib, json, sys, jax, numpy as np
sys.path.insert(0, "tests")
from conftest import tiny_config
from train_lib.train import train_and_evaluate
hits = []
jax.monitoring.register_event_listener(
    lambda name, **_: name.endswith("/cache_hits") and hits.append(1)
)
config = tiny_config(compilation_cache=sys.argv[1] == "on", epochs=1.0)
state = train_and_evaluate(config, sys.argv[2])
result = hashlib.sha256()
for leaf in jax.tree.leaves(state):
    result.update(np.asarray(leaf).tobytes())
print(json.dumps([len(hits), result.hexdigest()]))
"""


def start(code: str, home: pathlib.Path, *arguments: str, **variables: str) -> subprocess.Popen:
    environment = os.environ | {"XDG_CACHE_HOME": str(home), "PYTHONPATH": str(ROOT)} | variables
    # The tests' own cache, and `conftest` in the process that is started would choose it again.
    environment["JAX_COMPILATION_CACHE_DIR"] = ""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen) -> tuple[int, str, str]:
    """(programs from the cache, digest of the result, standard error)."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors and "Warning" not in errors, errors
    return *json.loads(output.splitlines()[-1]), errors


def entries(home: pathlib.Path) -> list[pathlib.Path]:
    return sorted((home / "canon" / "compiled").glob("*.xla"))


def test_trained_with_and_without_it_to_the_same_bits(tmp_path):
    def trained(mode: str, workdir: str):
        return end(start(TRAINING, tmp_path / "home", mode, str(tmp_path / workdir)))

    _, without, _ = trained("off", "without")
    assert not entries(tmp_path / "home")
    hits, filling, _ = trained("on", "filling")
    assert hits == 0 and entries(tmp_path / "home")
    hits, using, _ = trained("on", "using")
    assert hits >= 3  # initial parameters, training step, evaluation
    assert without == filling == using


def truncated(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file):
    file.write_bytes(b"")


def garbled(file):
    entry = bytearray(file.read_bytes())
    entry[len(entry) // 2] ^= 1
    file.write_bytes(entry)


def without_digest(file):
    file.write_bytes(file.read_bytes()[32:])


def a_folder(file):
    file.unlink()
    file.mkdir()


DAMAGES = [truncated, emptied, garbled, without_digest, a_folder]


def test_damaged_entries_are_compiled_again_without_a_word(tmp_path):
    hits, expected, _ = end(start(SMALL, tmp_path))
    assert hits == 0
    files = entries(tmp_path)
    for damage, file in zip((truncated, garbled, emptied), files * 3, strict=False):
        damage(file)
        hits, result, said = end(start(SMALL, tmp_path))
        assert (hits, result, said) == (len(files) - 1, expected, ""), damage.__name__
    hits, result, _ = end(start(SMALL, tmp_path))
    assert (hits, result) == (len(files), expected)  # each was replaced by a whole one


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_store_gives_nothing_that_is_damaged(tmp_path, damage):
    store = Store(tmp_path)
    store.put("key", b"program" * 100)
    assert store.get("key") == b"program" * 100
    damage(next(tmp_path.glob("*.xla")))
    assert store.get("key") is None
    store.put("key", b"program")  # a folder stays in the way
    assert store.get("key") == (None if damage is a_folder else b"program")


def test_no_entry_of_another_key_or_machine(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.put("key", b"program")
    store.put("another", b"another program")
    store._file("key").write_bytes(store._file("another").read_bytes())
    assert store.get("key") is None
    monkeypatch.setattr(compilation_cache, "machine", lambda: "with other instructions")
    assert Store(tmp_path).get("another") is None
    assert store.get("another") == b"another program"


def test_a_machine_is_its_cpu_and_its_threads(monkeypatch):
    here = compilation_cache.machine()
    assert here == compilation_cache.machine()
    monkeypatch.setenv("NPROC", "3")
    assert compilation_cache.machine() != here
    monkeypatch.undo()
    read = pathlib.Path.read_text
    text = read(pathlib.Path("/proc/cpuinfo")) if os.path.exists("/proc/cpuinfo") else ""
    if "avx2" in text:
        fewer = text.replace(" avx2", "")
        monkeypatch.setattr(pathlib.Path, "read_text", lambda self: fewer)
        assert compilation_cache.machine() != here


def test_the_least_recently_used_are_removed(tmp_path):
    store = Store(tmp_path, most_bytes=1000)
    for number in range(3):
        store.put(str(number), bytes(250))
        os.utime(store._file(str(number)), (number, number))
    assert store.get("0") is not None  # used now
    store.put("3", bytes(250))
    assert [store.get(str(number)) is None for number in range(4)] == [False, True, False, False]
    store.put("4", bytes(2000))  # more than all together may have
    assert store.get("4") is None and store.get("3") is not None
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 1000


def test_a_full_disk_stops_nothing(tmp_path, monkeypatch):
    store = Store(tmp_path)

    def write_bytes(path, content):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", write_bytes)
    store.put("key", b"program")
    assert store.get("key") is None and not list(tmp_path.iterdir())


def test_two_processes_share_it(tmp_path):
    both = [start(SMALL, tmp_path) for _ in range(2)]
    results = {end(process)[1] for process in both}
    hits, result, _ = end(start(SMALL, tmp_path))
    assert hits == len(entries(tmp_path)) and results == {result}


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path):
    hits, expected, said = end(start(SMALL, tmp_path / "home"))
    assert said == ""
    (tmp_path / "file").touch()
    hits, result, said = end(start(SMALL, tmp_path / "file"))
    assert hits == 0 and result == expected
    assert said.startswith("compiled programs are not kept in") and said.count("\n") == 1
    (tmp_path / "home" / "canon" / "compiled").chmod(0o777)
    hits, result, said = end(start(SMALL, tmp_path / "home"))
    assert hits == 0 and result == expected
    assert "another user may write there" in said and said.count("\n") == 1


def test_a_cache_that_the_user_has_chosen_is_left_alone(tmp_path):
    chosen = tmp_path / "chosen"
    choose = f"import os; os.environ['JAX_COMPILATION_CACHE_DIR'] = {str(chosen)!r}\n"
    end(start(choose + SMALL, tmp_path))
    assert not entries(tmp_path)
