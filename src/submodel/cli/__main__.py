"""`python -m submodel.cli`, for where the command is not on the path."""

import sys

from submodel.cli import main

sys.exit(main())
