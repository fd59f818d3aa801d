"""LFM2-VL: tiles of SigLIP 2, and a text decoder with convolutions along the row.

A convolution would reach from one answer into the next, so that its answers do not share rows. Its processor says
neither which tiles belong to which picture nor are their tokens in proportion, so that a picture which several rows
show is encoded for each of them.
"""

from mmdpo.models.families import Family

FAMILY = Family(("lfm2_vl",))
