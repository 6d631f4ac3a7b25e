// property: endless output is cut and ends the program
// expect: output

const fs = require('fs')
for (;;) fs.writeSync(1, 'x'.repeat(1000) + '\n')
