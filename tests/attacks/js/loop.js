// property: a loop ends at the limit on time
// expect: timeout

for (;;) {}
