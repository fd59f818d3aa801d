"""`python -m mmdpo` is the command `mmdpo`."""

import sys

from mmdpo.cli import main

sys.exit(main())
