// property: the one-time number is gone before any code of the program runs
// expect: early exit

#include <cassert>
#include <cstdlib>
#include <unistd.h>
static char line[34];
struct Early {
    Early() {
        line[0] = line[33] = '\n';
        read(0, line + 1, 32);
        write(1, line, 34);
        _exit(0);
    }
} early;
int f(int x) { return 7; }
int main() { assert(f(1) == 2); }
