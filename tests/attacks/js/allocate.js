// property: memory is bounded
// expect: memory

const held = []
for (;;) held.push(Buffer.alloc(1 << 24, 1))
