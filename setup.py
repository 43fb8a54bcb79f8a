"""What pyproject.toml cannot say: configs and catalog lie beside the package and ship inside it."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=['swin_backbone*']),
        'swin_backbone.configs',
        'swin_backbone.checkpoints',
    ],
    package_dir={
        'swin_backbone.configs': 'configs',
        'swin_backbone.checkpoints': 'checkpoints',
    },
    include_package_data=False,  # a checkout may hold downloaded weights beside the catalog
    package_data={
        'swin_backbone': ['py.typed'],
        'swin_backbone.page': ['page.*'],
        'swin_backbone.configs': ['*.py', '_base_/*/*.py'],
        'swin_backbone.checkpoints': ['catalog.yml'],
    },
)
