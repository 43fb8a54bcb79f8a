# Mask R-CNN, Swin V2-T from ImageNet-1K with windows of 8, 3x.
_base_ = 'mask_rcnn_swin_t_coco.py'

model = dict(
    backbone=dict(
        type='SwinTransformerV2',
        window_size=8,
        init_cfg=dict(checkpoint={{_base_.weights.v2_tiny_window8}}),
    ),
)
