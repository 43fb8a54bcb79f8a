# HTC++ (Swin paper, appendix A2.2) with Swin-B: Hybrid Task Cascade, its semantic branch, soft-NMS
# and global attention after the backbone's last stage. What the appendix leaves open is as in
# mmdet's HTC and in the release's Cascade R-CNN: see docs/configs.md. A variant sets arch, weights
# and the neck's in_channels.
_base_ = 'cascade_mask_rcnn_swin.py'

mask_head = dict(
    type='HTCMaskHead',
    num_convs=4,
    in_channels=256,
    conv_out_channels=256,
    num_classes=80,
    loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
)
model = dict(
    type='HybridTaskCascade',
    data_preprocessor=dict(pad_seg=True),
    backbone=dict(
        arch='base',
        drop_path_rate=0.2,
        global_attention=True,
        init_cfg=dict(checkpoint=_base_.weights.base_22k),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
    roi_head=dict(
        type='HybridTaskCascadeRoIHead',
        interleaved=True,
        mask_info_flow=True,
        bbox_head=[dict(head, reg_class_agnostic=True) for head in _base_.model.roi_head.bbox_head],
        # Nothing is handed to the first stage.
        mask_head=[dict(mask_head, with_conv_res=stage > 0) for stage in range(3)],
        semantic_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[8],
        ),
        semantic_head=dict(
            type='FusedSemanticHead',
            num_ins=5,
            fusion_level=1,
            seg_scale_factor=1 / 8,
            num_convs=4,
            in_channels=256,
            conv_out_channels=256,
            num_classes=183,
            loss_seg=dict(type='CrossEntropyLoss', ignore_index=255, loss_weight=0.2),
        ),
    ),
    test_cfg=dict(
        rcnn=dict(score_thr=0.001, nms=dict(_delete_=True, type='soft_nms', iou_threshold=0.5))
    ),
)
