"""Learning curves of one run, or of several in one plot."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from train_lib.pictures import panels

PANELS = (("top1_error", "top-1 error, %", 100), ("loss", "loss", 1))


def curves(runs: Mapping[str, Sequence[dict]]) -> Figure:
    """Error and loss over the epochs: training dashed, test solid, one colour for each run.

    As He 2015, fig. 6. runs: label -> the records of a run, as `recorder.read` gives them. Values
    that a run has not recorded are left out. The label of a single run may be "".
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, (name, label, scale) in zip(figure.subplots(1, 2), PANELS, strict=True):
        for number, (run, records) in enumerate(runs.items()):
            for part, style, width in (("train", "--", 1), ("test", "-", 1.6)):
                key = f"{part}/{name}"
                points = [(r["epoch"], scale * r[key]) for r in records if key in r]
                if not points:
                    continue
                # A line of few points is hard to see without markers.
                marked = part == "test" and len(points) < 40
                axis.plot(
                    *zip(*points, strict=True),
                    style,
                    color=f"C{number % 10}",
                    linewidth=width,
                    label=f"{run} {part}".strip(),
                    **({"marker": "o", "markersize": 3} if marked else {}),
                )
        axis.set(xlabel="epoch", ylabel=label)
        values = [y for line in axis.get_lines() for y in line.get_ydata()]
        if values and min(values) > 0:
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            # A narrow range may lie between two major ticks.
            is_narrow = max(values) < 4 * min(values)
            axis.yaxis.set_minor_formatter("{x:g}" if is_narrow else NullFormatter())
        axis.grid(alpha=0.3, which="both")
        if axis.get_lines():
            panels.plain_legend(axis.legend(fontsize=8))
    return figure
