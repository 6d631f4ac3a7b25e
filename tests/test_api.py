"""The public names: all there, and not loaded before they are used."""

import subprocess
import sys
from types import ModuleType

import submodel


def test_every_public_name_is_there():
    assert {*submodel._HOMES, "SubmodelError"} == set(submodel.__all__)
    for name in submodel.__all__:
        assert not isinstance(getattr(submodel, name), ModuleType), name


def test_help_does_not_wait_for_torch():
    script = "import sys; from submodel import cli; cli.parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
