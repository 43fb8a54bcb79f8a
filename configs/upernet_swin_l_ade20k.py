# UPerNet, Swin-L from ImageNet-22K, 640 × 640, 160k iterations.
_base_ = 'upernet_swin_b_22k_ade20k.py'

model = dict(
    backbone=dict(
        arch='large',
        init_cfg=dict(checkpoint={{_base_.weights.large_22k}}),
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)
