"""What becomes of `python experiments/merge.py`? One line that says how a verb is run.

Python looks for modules beside a file that it runs, so the verb's `from experiments import ...`
then finds this one in place of the package. Nothing else ever imports it.
"""

import pathlib
import sys

sys.exit(
    f"error: run it as python -m experiments.{pathlib.Path(sys.argv[0]).stem} from the folder that "
    "holds experiments/"
)
