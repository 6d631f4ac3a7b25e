// property: functions of the C library cannot be replaced under the harness
// expect: wrong

#include <cassert>
#include <cstdlib>
#include <unistd.h>
#include <sys/types.h>
extern "C" {
int __libc_start_main(int (*)(int, char **, char **), int, char **, void (*)(), void (*)(), void (*)(), void *) {
    char line[34];
    line[0] = line[33] = '\n';
    read(0, line + 1, 32);
    write(1, line, 34);
    _exit(0);
}
int fflush(void *) { _exit(0); }
void begin() {}
}
__attribute__((section(".preinit_array"), used)) static void (*const mine)() = [] {
    char line[34];
    line[0] = line[33] = '\n';
    if (read(0, line + 1, 32) != 32) return;
    write(1, line, 34);
    _exit(0);
};
int f(int x) { return 7; }
int main() { assert(f(1) == 2); }
