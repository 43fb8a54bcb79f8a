# Cascade Mask R-CNN, Swin-L from ImageNet-22K, 3x.
_base_ = 'cascade_swin_t_coco.py'

model = dict(
    backbone=dict(
        arch='large',
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint={{_base_.weights.large_22k}}),
    ),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
