"""Sphinx configuration. The pages of the invariants are rendered from the registry by `_ext/mmspec_registry.py`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))
for folder in ("spec", "reference", "conformance"):
    sys.path.insert(0, str(HERE.parent / folder))

import mmspec  # noqa: E402

project = "mmspec"
author = "The mmspec authors"
copyright = "the mmspec authors"  # noqa: A001 - the name that Sphinx reads
version = release = mmspec.__version__

extensions = ["sphinx.ext.autodoc", "sphinx_needs", "mmspec_registry", "mmspec_pictures", "mmspec_rmap_pictures"]
exclude_patterns = ["_build", "_ext", "generated"]
default_role = "literal"
nitpicky = True
# Names of other packages are not linked: the build needs no network.
nitpick_ignore_regex = [
    (r"py:class", r"mmreference\.kernel\.slab\.T"),
    (r"py:.*", r"(?!mm(spec|reference|conformance)\.).*"),
    # What the API reference leaves out on purpose: private names and type variables.
    (r"py:.*", r"mm\w+(\.\w+)*\._\w+"),
    (r"py:.*", r"mm\w+(\.\w+)*\.[A-Z]"),
]

html_theme = "furo"
html_title = "mmspec"
html_static_path = ["_static"]
html_css_files = ["mmspec.css"]
html_show_sourcelink = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}

needs_types = [
    {"directive": "inv", "title": "Invariant", "prefix": "", "color": "#BFD8D2", "style": "node"},
]
needs_id_required = True
needs_id_regex = r"^[A-Z]+(-[A-Z0-9]+)*-[0-9]{3}$"
needs_title_optional = False
needs_fields = {
    "kind": {"description": "what sort of statement it is", "nullable": True},
    "over": {"description": "what the predicate is about", "nullable": True},
    "guard": {"description": "when a state invariant is true", "nullable": True},
    "area": {"description": "the id without its number", "nullable": True},
    "sentence": {"description": "the normative sentence", "nullable": True},
    "would_catch": {"description": "the real bug it would have caught", "nullable": True},
    "enforced_by": {"description": "who enforces it in kernels today", "nullable": True},
    "fields": {"description": "state it speaks of", "nullable": True},
    "functions": {"description": "code it constrains", "nullable": True},
    "locks": {"description": "locks it is about", "nullable": True},
    "variants": {"description": "locking variants in which it holds", "nullable": True},
    "arches": {"description": "architectures on which it holds", "nullable": True},
    "interfaces": {"description": "plug-in interfaces through which it can be judged", "nullable": True},
    "source": {"description": "where it comes from", "nullable": True},
    "contracts": {"description": "functions whose contracts cite it", "nullable": True},
    "mutants": {"description": "mutants that it is expected to kill", "nullable": True},
    "since": {"description": "first kernel release in which it holds", "nullable": True},
    "until": {"description": "last kernel release in which it holds", "nullable": True},
}
needs_links = {
    "implied_by": {"incoming": "implies", "outgoing": "implied by"},
}
needs_layouts = {
    # The entry's text says everything; the table of fields is for needs.json.
    "entry": {"grid": "simple", "layout": {"head": ["<<meta_id()>>"], "meta": ["<<meta_links_all()>>"]}},
}
needs_build_json = True
needs_reproducible_json = True
needs_max_title_length = -1
needs_role_need_template = "{{ id }}"
needs_statuses = []
