"""The figures of courses and papers on these networks, as functions.

Each takes parameters, activations or records and returns a Matplotlib Figure without a window. What
a figure shows is computed by a separate function, which returns numbers. --mode=inspect writes
all figures of a run; docs/inspection.md explains them. `python -m train_lib.pictures.lecture` draws
those that need no run; docs/lecture.md shows them.
"""

from models.receptive_fields import receptive_field
from train_lib.pictures.activation_curves import activation_functions, stacked_sigmoids_figure
from train_lib.pictures.activation_maps import (
    activation_histograms,
    dead_unit_bars,
    dead_units,
    feature_maps,
)
from train_lib.pictures.augmented import many_crops, rows_of_images, ten_crops, training_views
from train_lib.pictures.dropout import (
    annealed_masks,
    dropout_average,
    dropout_average_curve,
    dropout_masks,
    standout_figure,
)
from train_lib.pictures.evidence import heat_on, occlusion, receptive_field_on, saliency
from train_lib.pictures.filtered import filtered_figure
from train_lib.pictures.gradients import gradient_norm_curves, gradient_norms
from train_lib.pictures.lenet_codes import c3_table, rbf_codes
from train_lib.pictures.lrn import lrn_figure
from train_lib.pictures.network_drawing import draw_network
from train_lib.pictures.network_sizes import block_chart, connectivity_chart, size_chart
from train_lib.pictures.pooling import max_pool_routing, pool_routes, pooling_gradients
from train_lib.pictures.rbm import free_energy_histograms, reconstructions
from train_lib.pictures.run_plots import curves
from train_lib.pictures.weights import filters, first_kernel, weight_histograms
