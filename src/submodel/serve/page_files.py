"""The files of the page, by the path that each is served at. They hold no data, so no key is asked for them."""

from importlib.resources import files
from pathlib import PurePosixPath

_LIBRARIES = ("markdown-it.min.js", "purify.min.js", "highlight.min.js")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

PAGE = {
    "/": "index.html",
    "/page.css": "page.css",
    "/page.js": "page.js",
    "/markdown.js": "markdown.js",
    **{f"/vendor/{name}": f"vendor/{name}" for name in _LIBRARIES},
}
"""Path -> the file, in the folder page/."""

# text of a model that is taken for a page's own can then load nothing, run nothing and send nothing anywhere else
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
"""The content security policy of every file."""


def read(name: str) -> tuple[bytes, str]:
    """A file of the page and its media type."""
    data = files("submodel.serve").joinpath("page", *name.split("/")).read_bytes()
    return data, _TYPES[PurePosixPath(name).suffix]
