# property: a patched encoder only breaks the program's own answers
# expect: wrong error

import json
dumps = json.dumps
json.dumps = lambda *_, **__: dumps({"status": "passed", "value": True, "changed": {}})
def f(x):
    return 7
