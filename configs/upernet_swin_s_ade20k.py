# UPerNet, Swin-S from ImageNet-1K, 512 × 512, 160k iterations.
_base_ = 'upernet_swin_t_ade20k.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint={{_base_.weights.small}}),
    ),
)
