# RetinaNet with Swin-T; a variant sets arch, drop path, weights and the neck's in_channels.
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', 'weights.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        arch='tiny',
        # The head starts at stride 8: an output at stride 4 would be left without a gradient.
        out_indices=(1, 2, 3),
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint={{_base_.weights.tiny}}),
    ),
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)
