# property: a file called like a module is not loaded by the tests
# expect: wrong
# check: import json, string
# check: assert f(1) == 2

import sys
for name in ("json", "string", "ast", "numpy", "python_remote"):
    with open(f"{name}.py", "w") as file:
        file.write("import os\nos._exit(0)")
sys.path.insert(0, "/tmp")
def f(x):
    return 7
