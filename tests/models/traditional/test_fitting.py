"""The fit of the pipelines: dimensions, the classifier, the dictionary, a whole fit."""

import jax
import numpy as np
import pytest
from sklearn.decomposition import MiniBatchDictionaryLearning, SparseCoder
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from errors import UserError
from models.traditional import fitting, pipelines
from models.traditional.pipelines import Pipeline

RNG = np.random.default_rng(2)
SMALL = {"words": 6, "bin_widths": (3,), "step": 3, "svm_c": 1.0, "samples": 500, "levels": (1, 2)}
KERNELS = {"vq": "chi2", "sparse": "linear", "llc": "linear", "fisher": "linear"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """On busy cores, scikit-learn's threads spend their time waiting for each other."""
    with threadpool_limits(1):
        yield


def stripes(count, seed=0):
    """Images 24x24 of horizontal (0) or vertical (1) stripes with noise, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    wave = np.sin(np.arange(24) + rng.uniform(0, 6, (count, 1)))
    images = np.where(labels[:, None, None] == 0, wave[:, :, None], wave[:, None, :])
    images = 0.5 + 0.3 * images + 0.05 * rng.normal(size=images.shape)
    return np.float32(images)[..., None], labels


def fitted(encoder, **options):
    images, labels = stripes(20)
    labels[-3:] = -1  # padding
    module = Pipeline(num_classes=2, encoder=encoder, kernel=KERNELS[encoder], **SMALL | options)
    return module, *module.fit(lambda: iter([(images, labels)]), 0)


@pytest.mark.parametrize(
    ("encoder", "size"),
    [
        # 21 cells of the pyramid: M numbers each, or 2 K D; the chi2 map makes three of one.
        ("vq", 3 * 21 * 6),
        ("sparse", 21 * 6),
        ("llc", 21 * 6),
        ("fisher", 21 * 2 * 6 * 10),
    ],
)
def test_sizes_of_representations(encoder, size):
    module = Pipeline(
        num_classes=2, encoder=encoder, dimensions=10, **SMALL | {"levels": (1, 2, 4)}
    )
    module = module.clone(kernel=KERNELS[encoder])
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), stripes(1)[0])
    assert shapes["params"]["svm"]["kernel"].shape == (size, 2)


@pytest.mark.parametrize("encoder", pipelines.ENCODERS)
def test_a_fit(encoder):
    module, variables, logits, labels = fitted(encoder, dimensions=10)
    assert (logits.argmax(axis=1) == labels).all() and len(labels) == 17

    # The fit has the variables of the module, which gives the same logits.
    images = stripes(20)[0]
    drawn = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), images)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, drawn)
    apply = jax.jit(module.apply)
    np.testing.assert_allclose(apply(variables, images)[:17], logits, atol=1e-4)
    new_images, new_labels = stripes(20, seed=1)
    assert (apply(variables, new_images).argmax(axis=1) == new_labels).mean() > 0.8

    # --mode=inspect shows gradients with respect to images, also of flat ones.
    images[0, :12] = 0.5
    slopes = jax.jit(jax.grad(lambda x: module.apply(variables, x)[0, 0]))(images[:1])
    assert np.isfinite(slopes).all()


def test_equal_fits_are_equal():
    first, second = (fitted("vq")[1] for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_an_image_without_contrast_has_zeros():
    module, variables, _, _ = fitted("fisher", dimensions=10)
    variables = {"codebook": variables["codebook"]["representation"]}
    represent = jax.jit(module.representation().apply)
    vectors = represent(variables, np.full((1, 24, 24, 1), 0.5, np.float32))
    np.testing.assert_array_equal(vectors, 0)


@pytest.mark.parametrize("count", [60, 8], ids=["more vectors", "more dimensions"])
def test_classifier_is_that_of_scikit_learn(count):
    vectors = np.float32(RNG.normal(size=(count, 20)))
    labels = np.arange(count) % 4
    kernel, bias = fitting.fit_svm(vectors, labels, 5, 0.01, 0)
    expected = LinearSVC(C=0.01, dual=False, tol=1e-8, max_iter=10**5).fit(vectors, labels)
    np.testing.assert_allclose(
        (vectors @ kernel + bias)[:, :4], expected.decision_function(vectors), atol=2e-2
    )
    assert not kernel[:, 4].any() and bias[4] == -2  # the class without a vector


def test_classifier_of_two_classes():
    vectors = np.float32([[1, 0], [2, 1], [-1, 0], [-2, 1], [-1, 1]])
    kernel, bias = fitting.fit_svm(vectors, np.array([1, 1, 0, 0, 0]), 2, 10.0, 0)
    assert ((vectors @ kernel + bias).argmax(axis=1) == [1, 1, 0, 0, 0]).all()


def test_the_constant_is_chosen_on_held_out_vectors():
    # Labels with 20 % noise in 2 of 40 dimensions: a large constant fits the noise.
    vectors = RNG.normal(size=(200, 40))
    labels = (vectors[:, 0] > 0) ^ (RNG.random(200) < 0.2)
    chosen = fitting._best_constant(vectors * 3, labels.astype(int), 0)
    order = np.random.default_rng(0).permutation(200)
    scores = {
        c: LinearSVC(C=c, random_state=0)
        .fit(3 * vectors[order[40:]], labels[order[40:]])
        .score(3 * vectors[order[:40]], labels[order[:40]])
        for c in fitting.CONSTANTS
    }
    assert scores[chosen] == max(scores.values())


@pytest.mark.filterwarnings("ignore:Objective did not converge")
def test_dictionary_is_as_good_as_that_of_scikit_learn():
    # Combinations of 2 of 12 directions, with noise.
    atoms = RNG.normal(size=(12, 10))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    chosen = RNG.normal(size=(1000, 12)) * (RNG.random((1000, 12)) < 0.17)
    x = np.float32(chosen @ atoms + 0.02 * RNG.normal(size=(1000, 10)))

    def cost(dictionary):
        coder = SparseCoder(dictionary, transform_algorithm="lasso_cd", transform_alpha=0.1)
        codes = coder.transform(x[:300])
        return (
            0.5 * ((x[:300] - codes @ dictionary) ** 2).sum(1) + 0.1 * np.abs(codes).sum(1)
        ).mean()

    ours = fitting.learn_dictionary(x, 12, 0.1, 0, batch_size=50)
    theirs = MiniBatchDictionaryLearning(
        12, alpha=0.1, fit_algorithm="cd", batch_size=50, max_iter=2, random_state=0
    ).fit(x)
    assert np.linalg.norm(ours, axis=1).max() <= 1 + 1e-6
    assert cost(ours) < 1.03 * cost(theirs.components_)
    assert cost(ours) < 0.9 * cost(x[:12] / np.linalg.norm(x[:12], axis=1, keepdims=True))


def test_too_few_descriptors_and_classes_are_one_line():
    with pytest.raises(UserError, match="words=6000: the training images have only 425 descr"):
        fitted("llc", words=6000, samples=6000)
    with pytest.raises(UserError, match=r"no patch .*contrast=0.9: lower it"):
        fitted("llc", contrast=0.9)
    images, _ = stripes(4)
    module = Pipeline(num_classes=2, encoder="vq", **SMALL)
    batches = iter([[(images, np.zeros(4, int))]])  # the fit does not begin a second pass
    with pytest.raises(UserError, match="all of one class"):
        module.fit(lambda: next(batches), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "fisher"}, "set model.kernel=linear"),
        ({"encoder": "llc", "neighbours": 7}, "neighbours=7 is more than model.words=6"),
        ({"levels": ()}, "at least one value"),
        ({"samples": 5}, "samples=5: 6 words with vq need at least 6: raise it"),
        ({"bin_widths": (7,)}, "24 pixels is smaller than a SIFT patch of 4 x 7 pixels"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    module = Pipeline(num_classes=2, **{"encoder": "vq"} | SMALL | options)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: module.init(jax.random.key(0), x), stripes(1)[0])
