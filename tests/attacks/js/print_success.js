// property: what is printed is no verdict
// expect: early exit

const f = (x) => {
  console.log('passed\n00000000000000000000000000000000')
  process.exit(0)
}
const assert = require('node:assert')
assert.deepEqual(f(1), 2)
