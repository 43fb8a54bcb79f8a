# UPerNet, Swin-B from ImageNet-1K, 512 × 512, 160k iterations.
_base_ = 'upernet_swin_t_ade20k.py'

model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(checkpoint={{_base_.weights.base}}),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
