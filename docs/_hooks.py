"""What pages link to outside this folder: pictures are shown, and of other files the name is given."""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = re.compile(r"(!?)\[([^\]]*)\]\((?:\.\./)+((?:bench|examples)/[^)]*)\)")


def on_files(files, config):
    """Add the records' pictures that pages show."""
    for page in list(files.documentation_pages()):
        for mark, _, path in OUTSIDE.findall(page.content_string):
            if mark and files.get_file_from_path(path) is None:
                files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown, page, config, files):
    """Link to those, and name all else."""
    up = "../" * page.file.src_uri.count("/")

    def replaced(found):
        mark, text, path = found.groups()
        return f"![{text}]({up}{path})" if mark else f"{text} (`{path}`)"

    return OUTSIDE.sub(replaced, markdown)
