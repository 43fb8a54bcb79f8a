# Cascade Mask R-CNN, Swin V2-B from ImageNet-1K with windows of 16, 3x.
_base_ = 'cascade_swin_b_coco.py'

model = dict(
    backbone=dict(
        type='SwinTransformerV2',
        window_size=16,
        # On images of 256 pixels, the last stage's map is 8 × 8, and its window shrank to that.
        pretrained_window_sizes=(16, 16, 16, 8),
        init_cfg=dict(checkpoint={{_base_.weights.v2_base_window16}}),
    ),
)
