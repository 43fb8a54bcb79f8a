# Cascade Mask R-CNN, Swin-B from ImageNet-1K, 3x.
_base_ = 'cascade_swin_t_coco.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint={{_base_.weights.base}}),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
