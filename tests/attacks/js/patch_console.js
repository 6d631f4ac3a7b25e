// property: console.assert cannot be patched, and throws
// expect: wrong

try {
  console.assert = () => {}
} catch {}
try {
  globalThis.console = { assert() {} }
} catch {}
const f = (x) => 7
console.assert(f(1) === 2)
