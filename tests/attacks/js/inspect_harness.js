// property: the harness cannot be looked into
// expect: error

const { Session } = require('node:inspector')
const session = new Session()
session.connect()
process.exit(0)
