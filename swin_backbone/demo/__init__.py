"""The demo: synthetic scenes, and a program that trains and tests models on them.

``scenes`` generates the data. ``detection`` and ``segmentation`` define the datasets of mmdet and
mmseg, which the ``demo_*`` configs import. ``jobs``, ``pictures`` and ``__main__`` are the program,
``python -m swin_backbone.demo``.
"""
