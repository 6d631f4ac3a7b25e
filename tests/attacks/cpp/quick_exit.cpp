// property: _exit(0) is not its end either
// expect: early exit

#include <cassert>
#include <unistd.h>
int f(int x) { _exit(0); }
int main() { assert(f(1) == 2); }
