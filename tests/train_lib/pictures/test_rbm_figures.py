"""Reconstructions and free energies of restricted Boltzmann machines."""

import numpy as np
import pytest

from configs.rbm import get_config
from models import rbm
from train_lib import experiment
from train_lib.evaluation.trained import Trained
from train_lib.pictures import inspect_figures
from train_lib.pictures import rbm as rbm_figures
from train_lib.pictures.inspect_figures import Subject


def test_reconstructions_stand_below_their_images():
    images = np.zeros((12, 4, 3, 1), np.float32)
    figure = rbm_figures.reconstructions(images, images + np.float32(0.5))
    assert figure.get_suptitle() == "mean squared error of 12 images: 0.2500"
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["image", "rebuilt"]
    sheet = axis.images[0].get_array()
    assert sheet.shape[:2] == (2 * 5 + 1, 10 * 4 + 1)  # tiles of 4x3 with frames of one pixel
    np.testing.assert_array_equal(sheet[1:5, 1:4], 0.0)
    np.testing.assert_array_equal(sheet[6:10, 1:4], 0.5)


def test_free_energies_of_groups_of_images():
    figure = rbm_figures.free_energy_histograms({"training": [-2.0, -4.0], "test": [-1.0]})
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["training, mean -3", "test, mean -1"]


@pytest.mark.parametrize("has_true_labels", [True, False])
def test_an_inspection_compares_training_and_test_images(has_true_labels):
    config = get_config("6")
    config.dataset.name = "digits"
    exp = experiment.resolve(config)
    network = Trained(exp, list("0123456789"), lambda: (0, exp.new_state().variables()))
    views = np.stack([exp.picture(exp.test_split, i) for i in range(7)])
    subject = Subject(network, views, np.zeros(7), ["a"] * 7, 1, "h1", has_true_labels)
    figures = dict(inspect_figures._rbm(subject))
    stack = rbm.machines(network.module, network.params)
    error = np.square(rbm.reconstruct(stack, views / 255) - views / 255).mean()
    title = figures["reconstructions"].get_suptitle()
    assert title == f"mean squared error of 7 images: {error:.4f}"
    assert ("free_energies" in figures) == has_true_labels
    if has_true_labels:
        training = [exp.picture(exp.train_split, i) for i in np.linspace(0, 1441, 7).astype(int)]
        legend = figures["free_energies"].axes[0].get_legend().get_texts()
        for text, images in zip(legend, (np.stack(training), views), strict=True):
            mean = float(np.mean(rbm.free_energies(stack, images / 255)))
            assert float(text.get_text().split()[-1]) == pytest.approx(mean, rel=1e-3)
