// property: a handler at exit cannot undo a failed assertion
// expect: early exit wrong error

process.on('exit', () => process.reallyExit(0))
process.on('uncaughtException', () => process.exit(0))
const f = (x) => 7
const assert = require('node:assert')
assert.deepEqual(f(1), 2)
