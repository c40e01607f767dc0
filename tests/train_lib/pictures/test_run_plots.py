"""What can be checked of the plots without eyes: no text covers another, ticks, titles, points."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from train_lib.evaluation.metrics import Result
from train_lib.pictures import panels, run_plots

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LONG = tuple(f"household things, vehicles and other objects {number}" for number in range(30))


def drawn(figure):
    """The figure, with everything at its place."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    return figure


def extents(texts):
    """The boxes of the texts that are not empty, in pixels."""
    return [text.get_window_extent() for text in texts if text.get_text()]


def assert_apart(boxes):
    assert len(boxes) > 1
    for one, two in itertools.combinations(boxes, 2):
        assert not one.overlaps(two)


def misclassified(names, count):
    """A result in which all of `count` images are misclassified, and the figure of them."""
    labels = np.arange(count) % len(names)
    classes = (labels[:, None] + 1) % len(names)
    result = Result(1.0, 1.0, 1.0, count, classes, np.ones((count, 1)), labels)
    return run_plots.misclassified(result, names, lambda i: np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("names", [tuple("0123456789"), CIFAR10, LONG[:2], LONG])
def test_names_in_a_confusion_matrix_do_not_overlap(names):
    labels = np.repeat(np.arange(len(names)), 1500)
    figure = drawn(run_plots.confusion_matrix(labels, labels, names))
    axis, bar = figure.axes
    assert bar.get_window_extent().height <= 1.01 * axis.get_window_extent().height
    assert_apart(extents(axis.texts))  # the counts
    assert_apart(extents(axis.get_yticklabels()))
    below = axis.get_xticklabels()
    boxes = extents(below)
    if below[0].get_rotation() == 0:
        assert_apart(boxes)
    else:  # the ends are below their columns, and each line is as far from the next as it is high
        columns = np.diff([box.x1 for box in boxes])
        height = below[0].get_fontsize() * figure.dpi / 72
        assert (columns * np.sin(np.radians(45)) > 1.1 * height).all()
    edge = min(box.x0 for box in extents(axis.get_yticklabels()))
    assert figure.get_suptitle() == f"0 of {len(labels)} images misclassified (0.00%)"
    assert edge >= 0


def test_the_colours_of_two_errors_have_whole_numbers():
    figure = drawn(run_plots.confusion_matrix(np.array([0, 1, 2]), np.array([0, 2, 1]), "abc"))
    bar = figure.axes[1]
    low, high = bar.get_ylim()
    assert [tick for tick in bar.get_yticks() if low <= tick <= high] == [0, 1]


def test_a_confusion_matrix_of_a_thousand_classes_lists_the_most_frequent_pairs():
    names = [f"class {number}" for number in range(1000)]
    labels = np.array([7] * 5 + [900] * 3 + [30])
    predicted = np.array([8] * 5 + [899] * 3 + [30])
    figure = run_plots.confusion_matrix(labels, predicted, names)
    places, pairs = figure.axes[:2]
    points = places.collections[0]
    assert points.get_offsets().tolist() == [[899, 900], [8, 7]]
    assert points.get_array().tolist() == [3, 5]
    shown = [label.get_text() for label in pairs.get_yticklabels()]
    assert shown == ["class 7 -> class 8", "class 900 -> class 899"]
    assert [bar.get_width() for bar in pairs.patches] == [5, 3]
    assert figure.get_suptitle() == "8 of 9 images misclassified (88.89%)"
    ticks = pairs.get_xticks()
    np.testing.assert_array_equal(ticks, ticks.round())


@pytest.mark.parametrize("names", [tuple("0123456789"), CIFAR10, LONG])
def test_captions_of_misclassified_images_do_not_overlap(names):
    figure = drawn(misclassified(names, 40))
    captions = figure.axes[0].texts
    assert_apart(extents(captions))
    assert len(captions) == 40
    lines = captions[1].get_text().split("\n")
    if names is CIFAR10:
        assert lines == ["automobile", "-> bird"]
    elif names is LONG:
        assert lines[0].startswith("household") and lines[0].endswith("…")
    else:
        assert lines == ["1->2"]


def test_captions_of_a_contact_sheet_do_not_overlap_and_keep_the_probability():
    captions = ["7 (98 %)", "cats, bears and other mammals (23 %)", "x" * 300] * 20
    captions[0] = "household things (40 %)"
    figure = drawn(run_plots.contact_sheet(lambda i: np.zeros((9, 16, 3), np.uint8), captions))
    texts = figure.axes[0].texts
    assert_apart(extents(texts))
    assert " ".join(texts[1].get_text().split()) == captions[1]
    assert texts[2].get_text().endswith("…")
    assert texts[0].get_text().split("\n") == ["household things", "(40 %)"]
    assert figure.get_suptitle() == "predicted classes of 60 images"


def test_curves_leave_out_means_over_few_training_steps():
    records = [
        {"step": step, "epoch": step / 100, "train/loss": loss, "train/examples": examples}
        for step, loss, examples in ((100, 2.0, 1600), (175, 1.5, 1200), (200, 1.0, 1600))
    ]
    short = {"step": 208, "epoch": 2.08, "train/loss": 0.1, "train/examples": 128}
    (line,) = run_plots.curves({"": [*records, short]}).axes[1].get_lines()
    assert line.get_ydata().tolist() == [2.0, 1.5, 1.0]
    for record in records:  # of an older run
        del record["train/examples"]
    (line,) = run_plots.curves({"": records}).axes[1].get_lines()
    assert line.get_ydata().tolist() == [2.0, 1.5, 1.0]
    (line,) = run_plots.curves({"": [short]}).axes[1].get_lines()
    assert line.get_marker() == "x"  # a single point is seen


def test_curves_that_reach_0_are_logarithmic_above_it():
    errors = [0.5, 0.1, 0.002, 0.0]
    records = [{"step": i, "epoch": i, "test/top1_error": e} for i, e in enumerate(errors)]
    axis = drawn(run_plots.curves({"": records})).axes[0]
    (line,) = axis.get_lines()
    heights = [y for _, y in axis.transData.transform(line.get_xydata())]
    bottom, top = axis.get_window_extent().intervaly
    assert bottom < heights[3] < heights[2] < heights[1] < heights[0] < top
    # Equal factors are equal distances.
    far, near = heights[0] - heights[1], heights[1] - heights[2]
    assert near / far == pytest.approx(np.log(50) / np.log(5))
    assert {0, 0.5, 1, 2, 5, 10, 20, 50} <= set(axis.get_yticks().tolist())
    records[2]["test/top1_error"] = 0.0006  # ticks between 0 and 0.06 % would cover each other
    ticks = drawn(run_plots.curves({"": records})).axes[0].get_yticks().tolist()
    assert ticks[:3] == pytest.approx([0, 0.1, 0.2])


def test_a_few_panels_fill_their_rows():
    assert [panels.grid(count) for count in (1, 4, 6, 16, 32)] == [
        *((1, 1), (1, 4), (2, 3), (4, 4), (4, 8))
    ]
    assert panels.grid(100) == (8, 13)


def test_texts_are_cut_and_broken_at_a_width():
    assert panels.fitted("dog", 1, 8) == "dog"
    short = panels.fitted("Chesapeake Bay retriever", 1, 8)
    assert short.startswith("Chesapeake") and short.endswith("…")
    assert panels.text_inches(short, 8) <= 1 < panels.text_inches("Chesapeake Bay retriever", 8)
    assert panels.wrapped("Chesapeake Bay retriever", 1, 8, 3) == "Chesapeake Bay\nretriever"
    assert panels.wrapped("a b c d", 0.01, 8, 2).split("\n") == ["…", "…"]
