"""A pytest plugin that makes mmpretrain importable, before any test is: see peers.py.

What tests would spend most of their time on is done once, or not at all.
"""

from __future__ import annotations

import functools
import gc
import sys
import types

import peers
from mmengine.config import Config, config

peers.reach_those_apart()
peers.hide_transformers()
# Needed by a dataset that no test has.
sys.modules['mat4py'] = types.ModuleType('mat4py')

import swin_backbone  # noqa: E402, F401

gc.freeze()  # every dataset collects garbage
Config.pretty_text = property(str)  # a Runner formats it for the log
config._get_external_cfg_path = functools.cache(config._get_external_cfg_path)
