"""What the process that trials are forked from does before the first of them: imports, and drawings of the small world.

A trial that is forked from it finds its objects drawn.
"""

from mmdpo.study import study_run as study_run  # with all that it imports
from mmdpo.world import SMALL
from mmdpo.world.scenes import draw_ahead

draw_ahead(SMALL)
