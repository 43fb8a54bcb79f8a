"""The embedded demo: drawn scenes, and a runner that trains and tests on them.

``scenes`` draws and writes the data; ``detection`` and ``segmentation`` are mmdet's and mmseg's
datasets of it, which the ``demo_*`` configs import; ``jobs``, ``pictures`` and ``__main__`` are
the runner, ``python -m swin_backbone.demo``.
"""
