# Mask R-CNN, Swin-S from ImageNet-1K, 3x.
_base_ = 'mask_rcnn_swin_t_coco.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint={{_base_.weights.small}}),
    ),
)
