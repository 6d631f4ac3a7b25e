# property: the text of the tests is not in the program's process
# expect: wrong
# check: assert f(1) == 2  # MARKER-31337

import gc, sys
def f(x):
    frame = sys._getframe().f_back
    while frame is not None:
        if "73313-REKRAM" in (repr(frame.f_locals) + repr(frame.f_globals))[::-1]:
            return 2
        frame = frame.f_back
    if any(isinstance(value, str) and "73313-REKRAM" in value[::-1] for value in gc.get_objects()):
        return 2
    for line in open("/proc/self/maps"):
        low, high = (int(part, 16) for part in line.split()[0].split("-"))
        if "r" in line.split()[1] and high - low < 64 << 20:
            try:
                with open("/proc/self/mem", "rb") as memory:
                    memory.seek(low)
                    if b"73313-REKRAM" in memory.read(high - low)[::-1]:  # or it would find itself
                        return 2
            except (OSError, ValueError, OverflowError):
                pass
    return 7
