# property: the kernel's settings cannot be written
# expect: passed

def f(x):
    for path in ("/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern"):
        try:
            open(path, "w").write("h")
            return path
        except OSError:
            pass
    return x + 1
