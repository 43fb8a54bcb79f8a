"""A pytest plugin that makes mmpretrain importable, before any test is: see peers.py."""

from __future__ import annotations

import sys
import types

import peers

peers.declare_operators()
peers.hide_transformers()
# Needed by a dataset that no test has.
sys.modules['mat4py'] = types.ModuleType('mat4py')
