"""Local response normalisation and its gradient, between the maps at one position."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from models.layers import alexnet_norm


def lrn_gradient(a: np.ndarray, variant: str = "paper") -> tuple[np.ndarray, np.ndarray]:
    """The normalised values b [n] of maps a [n] at one position, and the derivatives [n, n].

    Both are those of AlexNet's layer, in one reading of `layers.LRN_VARIANTS`. Row i, column j of
    the derivatives is d b_i / d a_j.
    """
    layer = alexnet_norm(variant)

    def normalised(a):
        return layer.apply({}, a[None, None, None])[0, 0, 0]

    a = jnp.asarray(a, jnp.float32)
    return np.asarray(normalised(a)), np.asarray(jax.jacobian(normalised)(a))


def lrn_figure(a: np.ndarray, variant: str = "paper") -> Figure:
    """Values before and after the normalisation, and the derivatives of `lrn_gradient`."""
    a = np.asarray(a, np.float32)
    b, derivatives = lrn_gradient(a, variant)
    k, beta = (getattr(alexnet_norm(variant), name) for name in ("k", "beta"))
    alone = a / k**beta
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    maps = np.arange(len(a))
    left.bar(maps - 0.2, alone, 0.4, color="0.75", label=f"a / {k:g}^{beta:g}")
    left.bar(maps + 0.2, b, 0.4, color="tab:blue", label="b")
    for place, value in zip(maps, a, strict=True):
        left.text(place, alone[place], f"{value:g}", ha="center", va="bottom", fontsize=7)
    left.set(xlabel="map (the numbers: its value a)", xticks=maps, ylabel="normalised b")
    left.set_ylim(0, 1.25 * alone.max())
    left.legend(fontsize=8, loc="upper left")
    limit = np.abs(derivatives).max()
    drawn = right.imshow(derivatives, cmap="RdBu", vmin=-limit, vmax=limit)
    for (row, column), value in np.ndenumerate(derivatives):
        if value:
            shade = "white" if abs(value) > 0.6 * limit else "black"
            text = f"{value:.2f}"
            right.text(column, row, text, ha="center", va="center", fontsize=6, color=shade)
    right.set(xlabel="of map j", ylabel="of map i", xticks=maps, yticks=maps)
    right.set_title("derivative of b of map i by a of map j", fontsize=9)
    figure.colorbar(drawn, ax=right)
    figure.suptitle("local response normalisation at one position", fontsize=10)
    return figure
