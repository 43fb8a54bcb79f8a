# UPerNet with Swin-T for ADE20K's 150 classes, trained on crops of 512 × 512 and tested on
# whole images. A variant sets arch, weights and the heads' in_channels.
_base_ = [
    __import__('mmseg').__path__[0] + '/.mim/configs/_base_/models/upernet_swin.py',
    'weights.py',
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        arch='tiny',
        drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint={{_base_.weights.tiny}}),
    ),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
