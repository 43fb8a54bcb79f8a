"""What mkdocs.yml cannot say: files outside docs/ that pages link, and roles in docstrings."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Files of the repository that pages link, as they are linked from docs/.
REPOSITORY_FILES = ('../checkpoints/catalog.yml',)
_RETURNS = re.compile(r'^Returns:\n +', re.MULTILINE)
_ROLE = re.compile(r':(?:class|func|data|meth|mod|attr):`~?\.?([\w.]+)`')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the repository's linked files, under ``files/``."""
    for path in REPOSITORY_FILES:
        source = Path(config.docs_dir, path).resolve()
        files.append(File.generated(config, _on_site(path), abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to the repository's files lead to their copies on the site."""
    for path in REPOSITORY_FILES:
        target = posixpath.relpath(_on_site(path), posixpath.dirname(page.file.src_uri) or '.')
        markdown = markdown.replace(f']({path})', f']({target})')
    return markdown


def _on_site(path: str) -> str:
    return f'files/{posixpath.basename(path)}'


class Docstrings(griffe.Extension):
    """The package's docstrings as griffe and Markdown read them."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites roles and literal blocks, and gives results their annotated type."""
        if not obj.docstring:
            return
        text = _ROLE.sub(lambda role: f'`{role[1].rpartition(".")[2]}`', obj.docstring.value)
        text = re.sub(r'::$', ':', text, flags=re.MULTILINE)
        if isinstance(obj, griffe.Function) and obj.returns is not None:
            # Otherwise what stands before the first colon of the text is taken for the type.
            text = _RETURNS.sub(lambda found: f'{found[0]}{obj.returns}: ', text)
        obj.docstring.value = text
