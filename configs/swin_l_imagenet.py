# Swin-L from ImageNet-22K, fine-tuned on ImageNet-1K at 224 × 224 for 30 epochs.
_base_ = [
    'mmpretrain::_base_/models/swin_transformer/tiny_224.py',
    '_base_/datasets/imagenet_224.py',
    '_base_/schedules/imagenet_30e.py',
    '_base_/runtime/mmpretrain.py',
]

model = dict(
    backbone=dict(
        arch='large',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='swin_large_in22k'),
    ),
    head=dict(in_channels=1536),
)
