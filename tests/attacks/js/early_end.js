// property: an end that the program announces itself is none
// expect: early exit wrong error

process.emit('beforeExit', 0)
process.exit(0)
