# UPerNet, Swin-L from ImageNet-22K, 640 × 640, 160k iterations.
_base_ = [
    '_base_/models/upernet_swin.py',
    '_base_/datasets/ade20k_640.py',
    '_base_/schedules/ade20k_160k.py',
    '_base_/runtime/mmseg.py',
]

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        arch='large',
        init_cfg=dict(checkpoint={{_base_.weights.large_22k}}),
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)
