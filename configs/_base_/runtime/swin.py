# What every recipe here needs: the backbone, and a Runner that works on any device and checks the
# data's folders before anything else. Its import makes mmseg's test script heed runner_type, too.
custom_imports = dict(imports=['swin_backbone', 'swin_backbone.engine.runner'])
runner_type = 'swin_backbone.engine.check_data.DataCheckingRunner'
