// property: process.exit(0) in the function under test is not its end
// expect: early exit

const f = (x) => process.exit(0)
const assert = require('node:assert')
assert.deepEqual(f(1), 2)
