"""What pyproject.toml cannot say: configs and catalog ship inside the package, a hook beside it."""

from pathlib import Path

from setuptools import Command, find_packages, setup
from setuptools.command.build import build

HOOK = Path('swin_backbone', 'mmcv_ext', 'startup.py')
MODULE = '_swin_backbone_startup'


class BuildHook(Command):
    """Writes the start-up hook beside the packages: a module, and the .pth file that imports it.

    Without it ``mim train mmdet`` imports ``mmcv.ops`` before anything of ours. An editable wheel
    refers to the packages in the checkout, and holds the hook itself.
    """

    description = 'write the start-up hook that finds the operators in place of mmcv._ext'
    user_options = []
    editable_mode = False

    def initialize_options(self):
        self.build_lib = None

    def finalize_options(self):
        self.set_undefined_options('build_py', ('build_lib', 'build_lib'))

    def files(self):
        content = HOOK.read_text(encoding='utf-8')
        return {f'{MODULE}.py': content, 'swin_backbone.pth': f'import {MODULE}\n'}

    def run(self):
        install = self.get_finalized_command('install')
        folder = Path(install.install_lib if self.editable_mode else self.build_lib)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            (folder / name).write_text(content, encoding='utf-8')

    def get_outputs(self):
        return [] if self.editable_mode else [str(Path(self.build_lib, n)) for n in self.files()]

    def get_output_mapping(self):
        return {}

    def get_source_files(self):
        return [str(HOOK)]


class Build(build):
    sub_commands = [*build.sub_commands, ('build_hook', None)]


setup(
    cmdclass={'build': Build, 'build_hook': BuildHook},
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
        'swin_backbone.tools.page': ['page.*'],
        'swin_backbone.tools.pictures': ['*.html', '*.js'],
        'swin_backbone.configs': ['*.py', '_base_/*/*.py'],
        'swin_backbone.checkpoints': ['catalog.yml'],
    },
)
