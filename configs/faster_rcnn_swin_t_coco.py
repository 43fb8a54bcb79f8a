# Faster R-CNN, Swin-T from ImageNet-1K, 3x.
_base_ = [
    '_base_/models/faster_rcnn_swin.py',
    '_base_/datasets/coco_detection.py',
    '_base_/schedules/coco_3x.py',
    '_base_/runtime/mmdet.py',
]
