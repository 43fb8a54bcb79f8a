"""The folder with the packages of ``requirements/peers.txt``, outside of the environment."""

from __future__ import annotations

import sys
from pathlib import Path

APART = Path(sys.prefix, 'peers')
