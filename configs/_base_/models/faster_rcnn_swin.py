# Faster R-CNN with Swin-T; a variant sets arch, drop path, weights and the neck's in_channels.
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', 'weights.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        arch='tiny',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint={{_base_.weights.tiny}}),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
