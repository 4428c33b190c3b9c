"""MkDocs hooks: links to files outside docs/, and references in docstrings."""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = re.compile(r"(!?)\[([^\]]*)\]\((?:\.\./)+((?:bench|examples)/[^)]*)\)")
REFERENCE = re.compile(r":(?:class|func|meth|mod|attr|data):<code>~?(?:maml_fast\.)?")  # as Sphinx has them


def on_files(files, config):
    """Add the images outside docs/ that pages show, so that MkDocs copies them to the site."""
    for page in list(files.documentation_pages()):
        for bang, _, path in OUTSIDE.findall(page.content_string):
            if bang and files.get_file_from_path(path) is None:
                files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrite links to bench/ and examples/: images point to their copies, other links become text with the path."""
    up = "../" * page.file.src_uri.count("/")

    def rewrite(match):
        bang, text, path = match.groups()
        return f"![{text}]({up}{path})" if bang else f"{text} (`{path}`)"

    return OUTSIDE.sub(rewrite, markdown)


def on_page_content(html, page, config, files):
    """Show references in docstrings as code; a reader of the source sees what kind of thing each of them names."""
    return REFERENCE.sub("<code>", html)
