"""Settings for a course that grades these lessons: nbgrader reads this file where it is called.

Copy it into the course's folder, beside ``source/``.  With nbgrader's own limits, right answers
fail: a lesson's cells compute for minutes and show players of some hundred kilobytes.
"""

import os
import sys
from pathlib import Path

c = get_config()
c.Execute.timeout = 900  # seconds a cell may take; by default 30
c.Execute.iopub_timeout = 60  # seconds until its outputs have to arrive; by default 4

# nbgrader calls alembic by name, which is on the path only where the environment is activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
