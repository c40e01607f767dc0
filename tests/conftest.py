"""Eight simulated CPU devices for every test, and the tiny experiments that tests train."""

import os
import shutil
import tempfile

# Before JAX starts. Without NPROC, collectives of simulated devices can dead-lock: the thread pool
# must have more threads than devices.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MPLBACKEND"] = "agg"  # `make test` in a notebook inherits one that only its kernel has
_LEVEL = "xla_backend_optimization_level"


def xla_flags(devices: int) -> str:
    """For so many simulated devices, and code that is compiled with little optimisation."""
    return f"--xla_force_host_platform_device_count={devices} --{_LEVEL}=1"


os.environ["XLA_FLAGS"] = xla_flags(8)
os.environ["NPROC"] = "32"

# Workers, and the processes that tests start, compile the same steps: once is enough.
_CACHE = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _CACHE = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="canon-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import hypothesis  # noqa: E402
import pytest  # noqa: E402

from models.layers import backend  # noqa: E402

# Tests compile with little optimisation and without oneDNN: compilation then takes less time, and
# JAX can store the compiled programs. (At level 0 maxout's gradient is NaN: there XLA computes the
# maximum and its argument separately, and they can differ in the last bit.) Commands that tests
# start as a user does have the product's compiler options, and so have tests with the fixture
# `product_options`.
_PRODUCT_OPTIONS = "CANON_TESTS_PRODUCT_OPTIONS"
_of_product = backend.compiler_options


def _options_of_tests(platform: str) -> dict:
    if _PRODUCT_OPTIONS not in os.environ:
        return {_LEVEL: 1} if platform == "cpu" else {}
    return _of_product(platform) | ({_LEVEL: 3} if platform == "cpu" else {})  # 3: XLA's default


backend.compiler_options = _options_of_tests

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


def slow_where(is_slow, cases) -> list:
    """The cases of a parametrised test, with those marked slow for which `is_slow(case)` holds."""
    return [pytest.param(case, marks=pytest.mark.slow) if is_slow(case) else case for case in cases]


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
def product_options(monkeypatch):
    """The product's compiler options, also in the processes that the test starts."""
    monkeypatch.setenv(_PRODUCT_OPTIONS, "1")


@pytest.fixture(autouse=True, scope="session")
def no_plots():
    """The pictures at the end of a training take longer than a tiny training."""
    from train_lib.pictures import run_plots

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(run_plots, "write_all", lambda *arguments: None)
        yield


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """(workdir, final state) of a run of `tiny_config()`. Tests that write copy the workdir."""
    import jax

    from train_lib.train import train_and_evaluate

    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, jax.device_get(train_and_evaluate(tiny_config(), workdir))


@pytest.fixture
def tiny():
    return tiny_config


@pytest.fixture(scope="module")
def resnet_of_8_layers():
    """`model.depth=8` of resnet_cifar10: one block in each stage, for tests of other parts."""
    from configs.rules import choice
    from models import registry

    options = registry.options

    def with_depth_8(name):
        rules = options(name)
        if name == "resnet_cifar10":
            rules["depth"] = choice(8, *rules["depth"].choices)
        return rules

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(registry, "options", with_depth_8)
        yield
