# What every recipe here needs: the backbone, and a Runner that works on any device and checks the
# data's folders before anything else.
custom_imports = dict(imports=['swin_backbone'])
runner_type = 'swin_backbone.engine.check_data.DataCheckingRunner'
