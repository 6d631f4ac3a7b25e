// property: processes are bounded, and end at the limit on time
// expect: timeout

#include <cassert>
#include <unistd.h>
int f(int x) { while (fork() >= 0) {} for (;;) pause(); }
int main() { assert(f(1) == 2); }
