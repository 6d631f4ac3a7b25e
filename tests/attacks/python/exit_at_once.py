# property: os._exit(0) before the tests is not their end
# expect: early exit

import os
os._exit(0)
