"""The little data sets of test_training, for the other tests of the configs, too."""

from test_training import ade20k, coco

__all__ = ['ade20k', 'coco']
