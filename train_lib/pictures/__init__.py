"""The figures of courses and papers on these networks, as functions.

Each takes parameters, activations or records and returns a Matplotlib Figure without a window. What
a figure shows is computed by a separate function, which returns numbers. --mode=inspect writes
all figures of a run; docs/inspection.md explains them.
"""

from models.receptive_fields import receptive_field
from train_lib.pictures.activation_maps import (
    activation_histograms,
    dead_unit_bars,
    dead_units,
    feature_maps,
)
from train_lib.pictures.dropout import dropout_average, dropout_average_curve, dropout_masks
from train_lib.pictures.evidence import heat_on, occlusion, receptive_field_on, saliency
from train_lib.pictures.gradients import gradient_norm_curves, gradient_norms
from train_lib.pictures.lenet_codes import c3_table, rbf_codes
from train_lib.pictures.max_pooling import max_pool_routing, pool_routes
from train_lib.pictures.rbm import free_energy_histograms, reconstructions
from train_lib.pictures.run_plots import curves
from train_lib.pictures.weights import filters, first_kernel, weight_histograms
