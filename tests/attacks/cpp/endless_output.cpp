// property: endless output is cut and ends the program
// expect: output

#include <cassert>
#include <cstdio>
int f(int x) { for (;;) puts("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"); }
int main() { assert(f(1) == 2); }
