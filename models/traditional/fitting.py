"""The fit of a traditional pipeline: its codebook, without labels, and its classifier.

k-means, principal components, mixtures and linear SVMs are scikit-learn's. Its dictionary learning
takes 38 ms for each descriptor with 1,024 words (two cores). So the online algorithm of Mairal 2009
is written out here.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from errors import UserError
from models.layers import backend
from models.traditional import encoders

CONSTANTS = (0.1, 1.0, 10.0, 100.0)  # for C of the SVM
_VARIANCE = 1e-6  # added to those of the mixture; descriptors have length 1


def fit(module, batches: Callable[[], Iterator], seed: int):
    """See `Pipeline.fit`. module: a `Pipeline`."""
    labels = np.concatenate([of_images for _, of_images in batches()])
    labels = labels[labels >= 0]
    if len(set(labels.tolist())) < 2:
        raise UserError("the training images are all of one class: an SVM needs two or more")
    representation = module.representation()
    share = -(-module.samples // max(1, len(labels)))
    descriptors = sample(representation, batches, share, seed)[: module.samples]
    codebook = fit_codebook(module, descriptors, seed)
    represent = functools.partial(backend.jit(representation.apply), {"codebook": codebook})
    vectors, end = None, 0
    for images, of_images in batches():
        found = np.asarray(represent(images))[of_images >= 0]
        if vectors is None:  # filled in place: joining parts takes twice the memory
            vectors = np.empty((len(labels), found.shape[1]), found.dtype)
        vectors[end : end + len(found)] = found
        end += len(found)
    kernel, bias = fit_svm(vectors, labels, module.num_classes, module.svm_c, seed)
    variables = {
        "params": {"svm": {"kernel": kernel, "bias": bias}},
        "codebook": {"representation": codebook},
    }
    return variables, vectors @ kernel + bias, labels


@contextlib.contextmanager
def _quiet_and_alone():
    """scikit-learn without warnings that it has not converged, and with one OpenMP thread.

    On busy cores its threads spend their time waiting for each other: k-means of 20,000 descriptors
    took 126 s with two threads and 14 s with one. It takes much less time than the encoding.
    """
    with warnings.catch_warnings(), threadpool_limits(1, user_api="openmp"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def fit_bytes(size: int, examples: int) -> int:
    """What `fit` needs at most for the vectors of the training images. size: of a vector.

    The vectors are float32. The SVM is fitted in float64, to vectors or to coordinates.
    """
    return 4 * size * examples + 16 * min(size, examples) * examples


def sample(representation, batches: Callable[[], Iterator], share: int, seed: int) -> np.ndarray:
    """Descriptors, [n, 128], at random and in a random order: at most `share` of each image."""
    describe = backend.jit(representation.describe)
    rng, chosen = np.random.default_rng(seed), []
    for images, labels in batches():
        described = zip(*map(np.asarray, describe(images)), labels, strict=True)
        for descriptors, used, label in described:
            if label >= 0:  # neither padding nor an image that was skipped
                places = np.flatnonzero(used)
                chosen.append(descriptors[rng.permutation(places)[:share]])
    found = np.concatenate(chosen)
    return found[rng.permutation(len(found))]


def fit_codebook(module, descriptors: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The codebook of a `Pipeline`'s encoder. Raises UserError for fewer descriptors than words."""
    words = module.words
    if not len(descriptors):
        raise UserError(
            f"no patch of the training images has config.model.contrast={module.contrast}: lower"
            " it, unless the images are uniform"
        )
    if len(descriptors) < module.least_samples:
        raise UserError(
            f"config.model.words={words}: the training images have only {len(descriptors):,}"
            " descriptors for the codebook: lower it, or config.model.contrast or .step"
        )
    if module.encoder == "fisher":
        return _mixture(descriptors, words, module.dimensions, seed)
    if module.encoder == "sparse":
        return {"words": learn_dictionary(descriptors, words, module.penalty, seed)}
    with _quiet_and_alone():
        found = KMeans(words, n_init=1, max_iter=100, random_state=seed).fit(descriptors)
    return {"words": np.float32(found.cluster_centers_)}


def _mixture(descriptors: np.ndarray, words: int, dimensions: int, seed: int):
    """Principal components of descriptors, and a mixture of `words` Gaussians of these."""
    components = PCA(dimensions, random_state=seed).fit(descriptors)
    with _quiet_and_alone():
        found = GaussianMixture(
            words, covariance_type="diag", reg_covar=_VARIANCE, random_state=seed
        ).fit(components.transform(descriptors))
    arrays = {
        "mean": components.mean_,
        "basis": components.components_.T,
        "shares": found.weights_,
        "means": found.means_,
        "deviations": np.sqrt(found.covariances_),
    }
    return {name: np.float32(array) for name, array in arrays.items()}


def learn_dictionary(
    descriptors: np.ndarray, words: int, penalty: float, seed: int, batch_size: int = 512
) -> np.ndarray:
    """Words of length 1 at most with which `encoders.sparse` has a low cost: [words, d].

    Online dictionary learning (Mairal 2009, algorithms 1 and 2): one pass over the descriptors, and
    at least 20 batches. The first words are descriptors, and so are those that no code uses.
    """
    encode = backend.jit(lambda x, dictionary: encoders.sparse(x, dictionary, penalty, 50))
    rng, size = np.random.default_rng(seed), min(batch_size, len(descriptors))
    dictionary = descriptors[rng.permutation(len(descriptors))[:words]].copy()
    products, sums = np.zeros((words, words)), np.zeros_like(dictionary, float)
    for number in range(max(20, len(descriptors) // size)):
        x = descriptors[np.arange(number * size, (number + 1) * size) % len(descriptors)]
        codes = np.float64(encode(x, dictionary))
        keep = number / (number + 1)  # earlier codes, of worse words, count less and less
        products = keep * products + codes.T @ codes
        sums = keep * sums + codes.T @ x
        for word in range(words):
            if products[word, word] < 1e-9:
                dictionary[word] = x[rng.integers(size)]
                continue
            step = (sums[word] - products[word] @ dictionary) / products[word, word]
            moved = dictionary[word] + step
            dictionary[word] = moved / max(1, np.linalg.norm(moved))
    return dictionary


def fit_svm(
    vectors: np.ndarray, labels: np.ndarray, num_classes: int, constant: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """One-against-all linear SVMs: weights float32 [d, num_classes] and biases [num_classes].

    constant: C; 0: the best of CONSTANTS on a fifth of the vectors. A class without a vector is
    never predicted. More dimensions than vectors do not take more time: the SVM is fitted to the
    coordinates of the vectors in the space that they span, which have the same products.
    """
    dimension = vectors.shape[1]
    if dimension > len(vectors):
        values, basis = np.linalg.eigh(np.float64(vectors @ vectors.T))
        is_large = values > 1e-6 * values[-1]
        roots = np.sqrt(values[is_large])
        coordinates, back = basis[:, is_large] * roots, basis[:, is_large] / roots
        kernel, bias = fit_svm(coordinates, labels, num_classes, constant, seed)
        return vectors.T @ np.float32(back @ kernel), bias
    svm = _svm(vectors, labels, constant or _best_constant(vectors, labels, seed), seed)
    coefficients, intercepts = svm.coef_, svm.intercept_
    if len(svm.classes_) == 2:  # one SVM for both
        coefficients = np.concatenate([-coefficients, coefficients])
        intercepts = np.concatenate([-intercepts, intercepts])
    kernel = np.zeros((dimension, num_classes), np.float32)
    bias = np.full(num_classes, np.float32(-2))  # others are about -1 for a strange vector
    kernel[:, svm.classes_], bias[svm.classes_] = coefficients.T, intercepts
    return kernel, bias


def _svm(vectors, labels, constant: float, seed: int) -> LinearSVC:
    with _quiet_and_alone():
        return LinearSVC(C=constant, dual="auto", random_state=seed).fit(vectors, labels)


def _best_constant(vectors: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """The constant of CONSTANTS that errs least on a fifth of the vectors."""
    order = np.random.default_rng(seed).permutation(len(labels))
    held_out, rest = np.split(order, [len(order) // 5])
    if len(set(labels[rest].tolist())) < 2 or not len(held_out):
        return CONSTANTS[2]

    def accuracy(constant: float) -> float:
        svm = _svm(vectors[rest], labels[rest], constant, seed)
        return svm.score(vectors[held_out], labels[held_out])

    return max(CONSTANTS, key=accuracy)
