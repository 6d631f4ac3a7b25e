# property: empty files cannot fill the kernel's memory
# expect: output error

import os
number = 0
while True:
    os.close(os.open(str(number), os.O_CREAT))
    number += 1
