"""Image classification before learned features: SIFT, a code, a spatial pyramid, a linear SVM.

    python main.py --config=configs/traditional.py:vq_small --workdir=runs/vq
    python main.py --config=configs/traditional.py:fisher --workdir=runs/fisher \\
        --config.dataset.data_dir=CALTECH101 --config.dataset.train_per_class=30 \\
        --config.dataset.test_per_class=30

Arguments: vq (default; histograms of visual words, Lazebnik 2006), sparse (Yang 2009, Boureau
2010), llc (Wang 2010), fisher (improved Fisher vectors, Perronnin 2010), for a folder of
photographs; and vq_small, sparse_small, llc_small, fisher_small for images of about 30 pixels, by
default the digits of scikit-learn. `--config.dataset.name=cifar10` etc. choose another set.

The model is fitted in one step to the whole training set. The settings of optimisers, schedules
and augmentation have no effect. evaluate, predict and export work as for networks. The loss and
the probabilities are those of a softmax of the SVM's outputs, which were not fitted to it.

Published mean accuracy per class on Caltech-101, with 30 training images of each class and the
pyramid of 1x1, 2x2 and 4x4 cells: vq 72.65 +- 0.77 % (600 words, chi2 kernel), llc 76.95 +- 0.39 %
(8,000 words), fisher 77.78 +- 0.56 % (256 components of 80 dimensions; Chatfield 2011, table 2).
The set is not part of Canon, and these were not run. Its folder is CALTECH101/CLASS/*, with the
class of backgrounds. The published figures are means over three random divisions:
`--config.dataset.division=0` to 2. `mean_class_error`, which --mode=evaluate prints, is one minus
the mean accuracy.

Differences from Chatfield 2011: images are cut to their central square, as for the networks; one
SIFT grid of step 4 for all bin widths; the SVM's C is chosen from four values. In sparse: 1,024
words and an l1 penalty of 0.15; the grids of SIFT are those of the others.
"""

from ml_collections import ConfigDict

from configs.common import base, choose

# (kernel, words for photographs, words for small images)
_ENCODERS = {
    "vq": ("chi2", 600, 100),
    "sparse": ("linear", 1024, 256),
    "llc": ("linear", 8000, 256),
    "fisher": ("linear", 256, 16),
}
ARGUMENTS = (*_ENCODERS, *(f"{name}_small" for name in _ENCODERS))


def get_config(argument: str = "vq") -> ConfigDict:
    """The config of one of ARGUMENTS. Raises ValueError for any other."""
    encoder = choose("configs/traditional.py", argument, ARGUMENTS).removesuffix("_small")
    kernel, words, few_words = _ENCODERS[encoder]
    config = base()
    config.model.name = "traditional"

    # Chatfield 2011
    config.model.encoder = encoder
    config.model.kernel = kernel  # chi2, linear
    config.model.words = words
    config.model.dimensions = 80  # principal components of SIFT, for fisher
    config.model.bin_widths = (4, 6, 8, 10)
    config.model.levels = (1, 2, 4)
    config.model.neighbours = 5  # words of a code, for llc

    # Chosen here
    config.model.step = 4
    config.model.contrast = 0.005
    config.model.penalty = 0.15  # of the l1 norm, for sparse
    config.model.svm_c = 0.0  # 0: chosen on a fifth of the training images
    config.model.samples = 100_000

    config.dataset.name = "folder"
    config.view.update({"size": 256, "train": "center"})  # chosen here
    config.evaluate.batch_size = 16
    if argument != encoder:
        # Chosen here, for small images
        config.model.update({"words": few_words, "dimensions": 40, "bin_widths": (2, 3), "step": 2})
        config.model.samples = 20_000

        config.dataset.name = "digits"
        config.view.size = 0  # whole images
        config.evaluate.batch_size = 200
    return config
