# Swin V2-L from ImageNet-22K at 192 × 192 with windows of 12, fine-tuned on ImageNet-1K at
# 256 × 256 with windows of 16, for 30 epochs.
_base_ = [
    'mmpretrain::_base_/models/swin_transformer_v2/tiny_256.py',
    '_base_/datasets/imagenet_256.py',
    '_base_/schedules/imagenet_30e.py',
    '_base_/runtime/mmpretrain.py',
]

model = dict(
    backbone=dict(
        arch='large',
        drop_path_rate=0.2,
        window_size=[16, 16, 16, 8],
        pretrained_window_sizes=[12, 12, 12, 6],
        init_cfg=dict(type='Pretrained', checkpoint='swinv2_large_window12_in22k_192'),
    ),
    head=dict(in_channels=1536),
)
