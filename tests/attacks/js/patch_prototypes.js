// property: patched prototypes do not reach the assertion
// expect: wrong error

Object.is = Object.keys = () => true
Array.prototype.every = Array.prototype.includes = () => true
Set.prototype.has = () => true
const f = (x) => 7
const assert = require('node:assert')
assert.deepEqual(f(1), 2)
