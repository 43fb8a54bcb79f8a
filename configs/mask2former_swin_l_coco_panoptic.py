# Mask2Former for panoptic segmentation, Swin-L from ImageNet-22K at 384 × 384, 200 queries, 100
# epochs: mmdet's recipe. mmdet needs panopticapi for it.
_base_ = [
    'mmdet::mask2former/mask2former_swin-l-p4-w12-384-in21k_16xb1-lsj-100e_coco-panoptic.py',
    '_base_/models/weights.py',
    '_base_/runtime/swin.py',
]

model = dict(backbone=dict(init_cfg=dict(checkpoint={{_base_.weights.large_22k_384}})))

data_root = '{{$COCO_ROOT:data/coco}}'
data_roots = dict(COCO_ROOT=data_root)  # by the variable, which an error can name then
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = [
    dict(
        type='CocoPanopticMetric',
        ann_file=f'{data_root}/annotations/panoptic_val2017.json',
        seg_prefix=f'{data_root}/annotations/panoptic_val2017/',
    ),
    dict(
        type='CocoMetric',
        ann_file=f'{data_root}/annotations/instances_val2017.json',
        metric=['bbox', 'segm'],
    ),
]
test_evaluator = val_evaluator
