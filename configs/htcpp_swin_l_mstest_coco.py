# HTC++ with Swin-L, tested on test-dev at five scales and flipped, as the headline result was. Its
# annotations are not public: the test writes the file that is submitted, for masks and for boxes.
# On val2017 the same is `htcpp_swin_l_coco.py --tta`, which also trains.
_base_ = 'htcpp_swin_l_coco.py'

model = dict(_delete_=True, **_base_.tta_model, module=_base_.model)
test_dataloader = dict(
    dataset=dict(
        ann_file='annotations/image_info_test-dev2017.json',
        data_prefix=dict(img='test2017/'),
        pipeline=_base_.tta_pipeline,
    )
)
test_evaluator = dict(
    ann_file=f'{_base_.data_root}/annotations/image_info_test-dev2017.json',
    format_only=True,
    outfile_prefix='work_dirs/htcpp_swin_l_mstest_coco/detections_test-dev2017_swin-htcpp_results',
)
