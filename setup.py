"""What pyproject.toml cannot say: the configs, which lie beside the package, ship inside it."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=['swin_backbone*']), 'swin_backbone.configs'],
    package_dir={'swin_backbone.configs': 'configs'},
    package_data={'swin_backbone.configs': ['*.py', '_base_/*/*.py']},
)
