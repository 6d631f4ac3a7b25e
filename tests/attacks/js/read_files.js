// property: our files cannot be read, the system's users neither
// expect: passed

const fs = require('fs')
const f = (x) => (fs.existsSync('/etc/passwd') || fs.existsSync('@SECRET_FILE@') ? 7 : 2)
const assert = require('node:assert')
assert.deepEqual(f(1), 2)
