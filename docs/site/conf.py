"""The settings of Sphinx. docs/site/build.py runs it."""

import hashlib
import pathlib

from docs.site.docstrings import process, shorten

project = "Canon"
author = "the authors of Canon"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "Canon"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_favicon = "static/icon.svg"  # without one, browsers ask for /favicon.ico
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_use_index = html_domain_indices = False  # no page links to them

myst_heading_anchors = 4  # links such as data.md#your-own-images, as on GitHub
smartquotes = False  # would change the hyphens of --config
nb_execution_mode = "off"  # `make notebooks` runs them
nb_output_stderr = "warn"  # as for a deprecated function; training writes to standard output
nb_ipywidgets_js = {}  # no scripts from other sites

add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80


def setup(app):
    """Makes autodoc read the docstrings as this project writes them."""
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-signature", shorten)
    # Sphinx makes all pages anew if this value has changed.
    here = pathlib.Path(__file__).parent
    code = sorted([*here.glob("*.py"), *here.glob("static/*")])
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in code)).hexdigest()
    app.add_config_value("code", digest, "env")
