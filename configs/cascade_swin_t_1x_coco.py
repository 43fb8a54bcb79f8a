# Cascade Mask R-CNN, Swin-T from ImageNet-1K, 1x.
_base_ = [
    '_base_/models/cascade_mask_rcnn_swin.py',
    '_base_/datasets/coco_instance.py',
    '_base_/schedules/coco_1x.py',
    '_base_/runtime/mmdet.py',
]

model = dict(backbone=dict(drop_path_rate=0.0))
