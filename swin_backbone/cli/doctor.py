"""``swin-backbone doctor``: checks the installation, and says how to fix what does not work.

It imports only click and rich, so that it runs where torch, mmengine or mmcv are broken.
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
    help="Another module in your config's custom_imports, to check what it registers.",
)
@json_option
@click.pass_context
def doctor(ctx: click.Context, plugins: tuple[str, ...], as_json: bool) -> None:
    """Check the installation; print how to fix each problem, and exit with 1 if there is one.

    Checks versions, mmcv's operators, the frameworks' registries, GPUs, the backends that are
    selected, the folder of checkpoints, and environment variables. A missing optional framework is
    not a problem.
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
            click.echo(f'  to fix it: {finding.fix}')
    click.echo('\nSomething is wrong.' if wrong else 'All is well.')
    ctx.exit(1 if wrong else 0)
