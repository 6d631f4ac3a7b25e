"""A filter of system calls that a judged program has no use for, as classic BPF for the kernel's seccomp.

Limits on memory would be void with some of them: memory files, System V segments and file systems mounted in a user
namespace of its own are in no process's resident size. The rest only widen what of the kernel can be attacked.
"""

import errno
import platform
import struct

from submodel.errors import SubmodelError

# name: (x86_64, aarch64)
_DENIED = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "msgget": (68, 186),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "request_key": (249, 218),
    "setns": (308, 268),
    "shmget": (29, 194),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_CLONE = (56, 220)
_CLONE3 = (435, 435)
_NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; low half of the argument


def filter_program() -> bytes:
    """The filter as an array of `struct sock_filter`. SubmodelError on a machine whose call numbers are not known."""
    machine = platform.machine()
    if machine not in _MACHINES:
        raise SubmodelError(
            f"no system-call filter for a {machine} machine: model-written programs can be isolated on "
            f"{' and '.join(_MACHINES)}; pass --unsafe-code to run them without isolation"
        )
    column, arch = _MACHINES[machine]
    refuse, absent = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    code = [
        _op(_LOAD, _ARCH),
        _op(_EQUAL, arch, 1, 0),
        _op(_RETURN, _KILL),  # 32-bit calls have other numbers
        _op(_LOAD, _NUMBER),
        _op(_AT_LEAST, 0x40000000, 0, 1),  # x32 calls likewise
        _op(_RETURN, refuse),
        _op(_EQUAL, _CLONE3[column], 0, 1),  # its flags lie in memory, out of sight; glibc then falls back to clone
        _op(_RETURN, absent),
    ]
    for numbers in _DENIED.values():
        code += [_op(_EQUAL, numbers[column], 0, 1), _op(_RETURN, refuse)]
    code += [
        _op(_EQUAL, _CLONE[column], 0, 3),
        _op(_LOAD, _FIRST_ARGUMENT),
        _op(_ANY_BIT, _NEW_NAMESPACES, 0, 1),
        _op(_RETURN, refuse),
        _op(_RETURN, _ALLOW),
    ]
    return b"".join(code)


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
