// property: what the tests assert with cannot be patched
// expect: wrong error

const patched = require('assert')
for (const name of Object.keys(patched)) {
  try {
    patched[name] = () => {}
  } catch {}
}
const f = (x) => 7
const assert = require('node:assert')
assert.deepEqual(f(1), 2)
