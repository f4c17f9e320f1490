"""What Sphinx is told of the site; ``tools/site.py`` prepares its pages."""

import re
import tomllib
from importlib.metadata import files
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "Audio editing with non-rigid text prompts"
copyright = "the authors; Apache-2.0"
release = PROJECT["version"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_codeautolink",  # a name in a lesson's code leads to the reference
]

# Lessons are shown as they were stored.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # the docstrings say shapes and units, too
napoleon_google_docstring = False
codeautolink_concat_default = True

html_theme = "furo"
html_title = project
html_copy_source = False  # the repository has it
html_static_path = ["static"]
html_css_files = ["site.css"]
html_favicon = "static/icon.svg"
# One file of MathJax that needs no other: all of TeX, drawn with paths, not with fonts.
[_mathjax] = [f for f in files("django-static-mathjax") if f.match("es5/tex-svg-full.js")]
html_static_path += [str(_mathjax.locate())]
mathjax_path = "tex-svg-full.js"


def link_lesson(app, what, name, thing, options, lines):
    """Make a docstring's "Lesson: 02." a link to that lesson."""
    for number, line in enumerate(lines):
        if found := re.fullmatch(r"Lesson: (\d\d)\.", line.strip()):
            [lesson] = Path(app.srcdir).glob(f"notebooks/{found[1]}_*.ipynb")
            link = f"Lesson {found[1]}: :doc:`/notebooks/{lesson.stem}`."
            lines[number : number + 1] = ["", link]  # napoleon's section ends at two empty lines
            return


def setup(app):
    """Connect what happens while docstrings are read."""
    app.connect("autodoc-process-docstring", link_lesson, priority=400)  # before napoleon
