# Cascade Mask R-CNN with Swin-T: box heads of four convolutions and one linear layer, which learn
# GIoU, class by class. A variant sets arch, drop path, weights and the neck's in_channels.
_base_ = ['mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py', 'weights.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        arch='tiny',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint={{_base_.weights.tiny}}),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
    roi_head=dict(
        bbox_head=[
            dict(
                type='ConvFCBBoxHead',
                num_shared_convs=4,
                num_shared_fcs=1,
                in_channels=256,
                conv_out_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=80,
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[xy, xy, wh, wh]
                ),
                reg_class_agnostic=False,
                reg_decoded_bbox=True,
                # Without several GPUs it is plain batch norm: mmengine sees to that.
                norm_cfg=dict(type='SyncBN', requires_grad=True),
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type='GIoULoss', loss_weight=10.0),
            )
            for xy, wh in [(0.1, 0.2), (0.05, 0.1), (0.033, 0.067)]
        ]
    ),
)
