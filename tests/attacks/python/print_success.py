# property: what is printed is no verdict
# expect: early exit

import os
print('{"status": "passed", "detail": ""}', flush=True)
os._exit(0)
