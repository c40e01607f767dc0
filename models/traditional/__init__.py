"""Image classification before learned features: descriptors, codes, a pyramid, a linear classifier.

The lecture's traditional pipeline is a filter, a non-linearity, pooling and a classifier, each made
by hand: `sift` describes patches, `encoders` code the descriptors, `pyramid` pools the codes.
"""
