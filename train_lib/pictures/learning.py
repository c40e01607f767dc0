"""Learning curves: of one run, or of several in one plot."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

PANELS = (("top1_error", "top-1 error, %", 100), ("loss", "loss", 1))


def curves(runs: Mapping[str, Sequence[dict]]) -> Figure:
    """Error and loss over the passes: training (while it goes) dashed, test solid, a colour a run.

    As He 2015, fig. 6. runs: label -> the records of a run, of `metrics.read`; what a run has not
    recorded is left out. A single run's label may be "".
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, (name, what, scale) in zip(figure.subplots(1, 2), PANELS, strict=True):
        for number, (label, records) in enumerate(runs.items()):
            for part, style in (("train", "--"), ("test", "-")):
                key = f"{part}/{name}"
                points = [(r["epoch"], scale * r[key]) for r in records if key in r]
                if points:
                    # Few points would be a line that is hard to see, or none at all.
                    marker = {"marker": "o", "markersize": 3} if len(points) < 40 else {}
                    axis.plot(
                        *zip(*points, strict=True),
                        style,
                        color=f"C{number % 10}",
                        linewidth=1 if part == "train" else 1.6,
                        label=f"{label} {part}".strip(),
                        **(marker if part == "test" else {}),
                    )
        axis.set(xlabel="epoch", ylabel=what)
        values = [y for line in axis.get_lines() for y in line.get_ydata()]
        if values and min(values) > 0:
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            # Between two of those there may be no other ticks.
            within = max(values) < 4 * min(values)
            axis.yaxis.set_minor_formatter("{x:g}" if within else NullFormatter())
        axis.grid(alpha=0.3, which="both")
        if axis.get_lines():
            legend = axis.legend(fontsize=8)
            for text in legend.get_texts():  # labels are names of folders: no formulas
                text.set_parse_math(False)
    return figure
