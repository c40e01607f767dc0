"""Eight simulated CPU devices for every test, and the tiny experiments that tests train."""

import os
import shutil
import tempfile

# Before JAX starts. Without NPROC, collectives of simulated devices can dead-lock: the thread pool
# must have more threads than devices.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["NPROC"] = "32"

# Workers, and the processes that tests start, compile the same steps: once is enough.
_CACHE = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _CACHE = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="canon-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# Of each property: the same few cases every time or, with CANON_EXAMPLES=1000, so many new ones.
_EXAMPLES = int(os.environ.get("CANON_EXAMPLES", "0"))
hypothesis.settings.register_profile(
    "canon",
    max_examples=_EXAMPLES or 50,
    derandomize=not _EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("canon")


def pytest_unconfigure():
    if _CACHE:
        shutil.rmtree(_CACHE, ignore_errors=True)


TINY = {
    "epochs": 2.0,
    "batch_size": 100,
    "num_devices": 1,
    "steps_per_dispatch": 1,
    "log_every_steps": 4,
    "evaluate.every_epochs": 1.0,
    "checkpoint.every_epochs": 1.0,
    "checkpoint.every_steps": 5,
}


def tiny_config(**overrides):
    """LeNet-5 on the digits for 29 steps, distorted, on one device; dotted names override."""
    from configs.lenet5 import get_config

    config = get_config("digits")
    config.update_from_flattened_dict({**TINY, **overrides})
    return config


@pytest.fixture(autouse=True, scope="module")
def forget():
    """Compiled steps are held for good otherwise: gigabytes, by the end of all tests."""
    yield
    import jax

    jax.clear_caches()


@pytest.fixture
def tiny():
    return tiny_config
