// property: the heap is bounded
// expect: memory signal

const held = []
for (;;) held.push(new Array(1 << 16).fill(held.length))
