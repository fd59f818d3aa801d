"""What the process that trials are forked from does before the first of them: imports, and drawings of the small world.

A trial that is forked from it finds its objects drawn.
"""

from mmdpo.terminal import leave_out_noise

leave_out_noise()  # before the libraries are imported that make it

from mmdpo.study import study_run as study_run  # noqa: E402 (with all that it imports)
from mmdpo.world import SMALL  # noqa: E402
from mmdpo.world.scenes import draw_ahead  # noqa: E402

draw_ahead(SMALL)
