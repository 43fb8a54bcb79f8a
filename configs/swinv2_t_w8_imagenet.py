# Swin V2-T with windows of 8, ImageNet-1K from scratch, 256 × 256, 300 epochs.
_base_ = [
    'mmpretrain::_base_/models/swin_transformer_v2/tiny_256.py',
    '_base_/datasets/imagenet_256.py',
    '_base_/schedules/imagenet_300e.py',
    '_base_/runtime/mmpretrain.py',
]

model = dict(backbone=dict(window_size=8))
