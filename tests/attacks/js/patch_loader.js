// property: the tests' modules do not come from a patched loader
// expect: wrong error

const Module = require('module')
Module._load = Module.prototype.require = () => ({ deepEqual() {} })
const f = (x) => 7
const assert = require('node:assert')
assert.deepEqual(f(1), 2)
