"""Build the native kernels into the wheel; without a C++ compiler it is pure Python and says so once."""

import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Kernels(BuildHookInterface):
    """Runs csrc/build.py for wheels, editable ones too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        script = runpy.run_path(str(Path(self.root) / "csrc" / "build.py"))
        try:
            library: Path = script["build"]()
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            script["LIBRARY"].unlink(missing_ok=True)
            print(f"submodel: no native kernels, packed models will run slowly: {error}", file=sys.stderr)
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        build_data["artifacts"].append(library.relative_to(self.root).as_posix())
