"""Helpers of the tests against torch: random networks, and comparisons.

Importing this skips the importing test module where torch or torchvision is not installed; test
modules take `torch` from here for that reason.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

REASON = "compares with torch and torchvision, which are not installed: make parity"
torch = pytest.importorskip("torch", reason=REASON)
torchvision = pytest.importorskip("torchvision", reason=REASON)

# torch's threads spin while they wait for each other: on cores that are shared, as those of
# `pytest -n 2`, nearly all the time.
torch.set_num_threads(1)

# Most of the time here goes to compilation, which this halves.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

AUXILIARY_WEIGHT = 0.3  # Szegedy 2014, sec. 5


def random_net(constructor, **options):
    """A torch network in evaluation mode with random tensors that keep the scale of activations."""
    with torch.device("meta"):  # so that torch's own start, slow for VGG, is not computed
        net = constructor(**options)
    net.to_empty(device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.0)
                module.bias.normal_(0.0, 0.1)
                module.running_mean.normal_(0.0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.num_batches_tracked.zero_()
            elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                bound = (6 / module.weight[0].numel()) ** 0.5
                module.weight.uniform_(-bound, bound)
                if module.bias is not None:
                    module.bias.uniform_(-0.1, 0.1)
    return net.eval()


def arrays(net) -> dict[str, np.ndarray]:
    """The state dict; the arrays share the network's memory."""
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()}


def images(batch, side) -> np.ndarray:
    """Noise on 32-pixel patches of noise, [batch, side, side, 3]: images with different logits."""
    rng = np.random.default_rng(0)
    cell = np.arange(side) // 32
    patches = 2.0 * rng.normal(size=(batch, cell[-1] + 1, cell[-1] + 1, 3))
    patches += 2.0 * rng.normal(size=(batch, 1, 1, 3))
    noise = rng.normal(size=(batch, side, side, 3))
    return (patches[:, cell][:, :, cell] + noise).astype(np.float32)


def to_nchw(x: np.ndarray):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def assert_close(actual, expected, what="", tolerance=1e-4):
    """The largest difference is within `tolerance` of the largest expected value."""
    actual, expected = (
        x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
        for x in (actual, expected)
    )
    assert actual.shape == expected.shape, what
    scale = np.linalg.norm(expected.ravel(), np.inf)
    assert np.isfinite(scale) and scale > 0, what
    error = np.linalg.norm((actual - expected).ravel(), np.inf) / scale
    assert error <= tolerance, f"{what}: {error:.1e} of the largest, {scale:.1e}"


def assert_same_function(ours, theirs, *inputs, tolerance=1e-5):
    """Values, and gradients in every input for a random cotangent; layouts are ours throughout."""
    tensors = [torch.from_numpy(x).requires_grad_() for x in inputs]
    expected = theirs(*tensors)
    cotangent = np.random.default_rng(9).normal(size=expected.shape).astype(np.float32)

    @jit
    def run(inputs, cotangent):
        y, vjp = jax.vjp(ours, *inputs)
        return y, vjp(cotangent)

    actual, gradients = run(inputs, cotangent)
    assert_close(actual, expected, "value", tolerance)
    wanted = torch.autograd.grad(expected, tensors, torch.from_numpy(cotangent))
    for number, pair in enumerate(zip(gradients, wanted, strict=True)):
        assert_close(*pair, f"gradient in input {number}", tolerance)


def assert_same_logits(module, variables, net, x, tolerance=1e-4):
    """Evaluation mode, for images x [batch, height, width, 3]."""
    with torch.inference_mode():
        expected = net(to_nchw(x)).numpy()
    # Logits that hardly depend on the image would show nothing.
    assert np.abs(expected[0] - expected[1]).max() > 0.05 * np.abs(expected).max()
    assert_close(jit(module.apply)(variables, x), expected, "logits", tolerance)


def assert_same_training_step(module, variables, entries, net, x, tolerance=1e-6, jit=jit):
    """Training mode: logits of all heads, every gradient, and BatchNorm's running statistics.

    In float64: in float32 a few of the millions of ReLUs round to the other side of 0, in
    either framework, and each changes the gradients behind it by up to several percent.

    The loss is the mean cross-entropy, plus AUXILIARY_WEIGHT times that of auxiliary heads.
    net: torch's, without dropout; in training it returns logits, or an object with `logits`,
    `aux_logits1` and `aux_logits2`. entries: the names of `module`'s tensors in it. jit: to
    compile with.
    """
    net, x, labels = net.double(), x.astype(np.float64), np.arange(len(x)) * 7
    module = module.clone(dtype=jnp.float64)
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables)
    before = {name: tensor.numpy().copy() for name, tensor in net.named_buffers()}
    elements = {}  # that each BatchNorm's statistics are taken over
    for name, layer in net.named_modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.register_forward_hook(
                lambda layer, x, y, name=name: elements.update({name: y[:, 0].numel()})
            )
    out = net.train()(to_nchw(x))
    heads = [out] if torch.is_tensor(out) else [out.logits, out.aux_logits1, out.aux_logits2]
    weights = [1.0, AUXILIARY_WEIGHT, AUXILIARY_WEIGHT][: len(heads)]
    losses = [torch.nn.functional.cross_entropy(h, torch.from_numpy(labels)) for h in heads]
    sum(w * loss for w, loss in zip(weights, losses, strict=True)).backward()

    def loss(params):
        logits, state = module.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats", "auxiliary"]
        )
        sown = state.get("auxiliary", {})
        actual = [logits, *(sown[name]["logits"][0] for name in ("aux1", "aux2") if name in sown)]
        total = sum(
            w * optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            for w, logits in zip(weights, actual, strict=True)
        )
        return total, (actual, state.get("batch_stats", {}))

    with jax.enable_x64(True):
        gradients, (actual, statistics) = jit(jax.grad(loss, has_aux=True))(variables["params"])
    for number, pair in enumerate(zip(actual, heads, strict=True)):
        assert_close(*pair, f"logits of head {number}", tolerance)
    theirs = dict(net.named_parameters())
    ours = flatten_dict({"params": gradients, "batch_stats": statistics})
    for entry in entries:
        if not entry.path:
            continue
        leaf = entry.to_theirs(ours[entry.path])
        if entry.path[0] == "params":
            assert_close(leaf, theirs[entry.key].grad, f"gradient of {entry.key}", tolerance)
            continue
        name, kind = entry.key.rsplit(".", 1)
        expected = getattr(net.get_submodule(name), kind).numpy()
        if kind == "running_var":
            # torch averages the unbiased variance, and we the biased one.
            n, old = elements[name], 0.9 * before[entry.key]
            expected = old + (expected - old) * (n - 1) / n
        assert_close(leaf, expected, entry.key, tolerance)
