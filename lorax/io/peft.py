"""How are adapters exchanged with PEFT? `load` and `save` of the directories that it reads.

adapter, delta = peft.load("their_adapter", model)
peft.save("our_adapter", adapter, delta, model)
"""

from typing import Any

from lorax.core.adapter import Adapter, Base, Delta
from lorax.io.peft_import import Path, load_peft
