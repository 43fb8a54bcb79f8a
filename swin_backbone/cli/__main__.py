"""``python -m swin_backbone.cli``."""

from . import main

main()
