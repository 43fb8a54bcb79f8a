# HTC++, Swin-L from ImageNet-22K, 6x.
_base_ = 'htcpp_swin_b_coco.py'

model = dict(
    backbone=dict(arch='large', init_cfg=dict(checkpoint={{_base_.weights.large_22k}})),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
