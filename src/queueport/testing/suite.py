"""`Contract`: all groups of the contract's lines in one class. For an adapter's test file."""

from __future__ import annotations

from queueport.testing.cancelling import Cancelling
from queueport.testing.counting import Counting
from queueport.testing.crashes import Crashes
from queueport.testing.dead import Dead
from queueport.testing.enqueueing import Enqueueing
from queueport.testing.hygiene import Hygiene
from queueport.testing.keeping import Keeping
from queueport.testing.keys import Keys
from queueport.testing.killed import Killed
from queueport.testing.losses import Losses
from queueport.testing.refusing import Refusing
from queueport.testing.results import Results
from queueport.testing.retries import Retries
from queueport.testing.stopping import Stopping
from queueport.testing.timing import Timing
from queueport.testing.workers import Workers

__all__ = ["Contract"]


class Contract(
    Enqueueing,
    Keys,
    Refusing,
    Timing,
    Results,
    Keeping,
    Retries,
    Dead,
    Cancelling,
    Counting,
    Hygiene,
    Workers,
    Stopping,
    Crashes,
    Losses,
    Killed,
):
    """Every line of the contract. Subclass it and give it a `harness` fixture."""
