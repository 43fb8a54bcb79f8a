# HTC++, Swin-B from ImageNet-22K, 6x.
_base_ = [
    '_base_/models/htc_swin.py',
    '_base_/datasets/coco_htcpp.py',
    '_base_/schedules/coco_6x.py',
    '_base_/runtime/mmdet.py',
]
