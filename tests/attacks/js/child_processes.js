// property: processes are bounded, and end at the limit on time
// expect: timeout error

const { spawn } = require('child_process')
for (let i = 0; i < 1000; i++) spawn('/bin/sleep', ['60']).on('error', () => {})
setInterval(() => {}, 1000)
