"""The folder in which the test suite keeps peers apart (``requirements/peers.txt``)."""

from __future__ import annotations

import sys
from pathlib import Path

APART = Path(sys.prefix, 'peers')
