# UPerNet, Swin-B from ImageNet-22K, 640 × 640, 160k iterations.
_base_ = [
    '_base_/models/upernet_swin.py',
    '_base_/datasets/ade20k_640.py',
    '_base_/schedules/ade20k_160k.py',
    '_base_/runtime/mmseg.py',
]

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        arch='base',
        init_cfg=dict(checkpoint={{_base_.weights.base_22k}}),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
