"""LFM2-VL: tiles of SigLIP 2, and a text decoder with convolutions along the row.

A convolution would reach from one answer into the next, so that its answers do not share rows.
"""

from mmdpo.models.families import Family

FAMILY = Family(("lfm2_vl",))
