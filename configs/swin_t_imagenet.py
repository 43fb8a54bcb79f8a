# Swin-T, ImageNet-1K from scratch, 224 × 224, 300 epochs.
_base_ = [
    'mmpretrain::_base_/models/swin_transformer/tiny_224.py',
    '_base_/datasets/imagenet_224.py',
    '_base_/schedules/imagenet_300e.py',
    '_base_/runtime/mmpretrain.py',
]
