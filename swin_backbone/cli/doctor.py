"""``swin-backbone doctor``: what of the installation works, and how to mend what does not.

It imports click and rich alone, so that it starts where torch, mmengine or mmcv are broken.
"""

from __future__ import annotations

from dataclasses import asdict

import click

from ..tools.doctor import examine
from .output import json_option, print_json, print_table

WORDS = {True: 'ok', False: 'WRONG', None: '–'}


@click.command()
@click.option(
    '--import',
    'plugins',
    multiple=True,
    metavar='MODULE',
    help="Another module of your config's custom_imports, to see what it does to the registries.",
)
@json_option
@click.pass_context
def doctor(ctx: click.Context, plugins: tuple[str, ...], as_json: bool) -> None:
    """Examine the installation; exit code 1 if something is wrong, with the command that mends it.

    Versions, mmcv's operators, the frameworks' registries, GPUs, the backends that would run, the
    folder of checkpoints and the environment variables. An optional framework that is not there is
    not wrong.
    """
    findings = examine(plugins)
    wrong = [finding for finding in findings if finding.ok is False]
    if as_json:
        print_json({'well': not wrong, 'findings': [asdict(finding) for finding in findings]})
        ctx.exit(1 if wrong else 0)
    print_table(
        ('check', 'of', 'result', 'found'),
        [(f.check, f.name, WORDS[f.ok], f.detail) for f in findings],
    )
    for finding in wrong:
        click.echo(f'\n{finding.check}, {finding.name}: {finding.detail}')
        if finding.fix:
            click.echo(f'  to mend it: {finding.fix}')
    click.echo('\nSomething is wrong.' if wrong else 'All is well.')
    ctx.exit(1 if wrong else 0)
