// property: memory is bounded
// expect: memory

#include <cassert>
#include <cstring>
int f(int x) { for (;;) memset(new char[1 << 24], 1, 1 << 24); }
int main() { assert(f(1) == 2); }
