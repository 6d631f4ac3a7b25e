// Runs a judged JavaScript program, and tells its own completion from an exit.
//
// Standard input holds a one-time number and then the program. The number is written as the last line of standard
// output only after the program's text has run to its end and nothing is left to wait for. What tests assert with is
// frozen, and is handed out by this file, so that a program cannot put something else in its place.
'use strict'
;(() => {
  const DIGITS = 32
  const NOT_A_PROGRAM = 121
  const fs = require('fs')
  const Module = require('module')
  const vm = require('vm')
  const assert = require('assert')
  const { readFileSync, writeSync } = fs
  const exit = process.reallyExit.bind(process)
  const AssertionError = assert.AssertionError

  const input = readFileSync(0, 'utf8')
  const number = input.slice(0, DIGITS)
  const source = input.slice(DIGITS)

  const frozen = new Set()
  const freeze = (value) => {
    if (value === null || !['object', 'function'].includes(typeof value) || frozen.has(value)) return
    frozen.add(value)
    Object.freeze(value)
    for (const key of Reflect.ownKeys(value)) {
      const { value: inner } = Reflect.getOwnPropertyDescriptor(value, key)
      if (typeof inner === 'function') freeze(inner)
    }
  }
  freeze(assert)
  freeze(AssertionError.prototype)

  const fixed = (object, name, value) =>
    Object.defineProperty(object, name, { value, writable: false, configurable: false, enumerable: true })
  fixed(console, 'assert', (condition, ...message) => {
    if (!condition) throw new AssertionError({ message: `Assertion failed: ${message.join(' ')}` })
  })
  fixed(globalThis, 'console', console)

  // these would show the program this file's variables
  const HIDDEN = new Set(['inspector', 'inspector/promises', 'v8', 'worker_threads'])
  const original = Module.createRequire('/tmp/program.js')
  const strip = (name) => (typeof name === 'string' && name.startsWith('node:') ? name.slice(5) : name)
  const provide = (name) => {
    const plain = strip(name)
    if (plain === 'assert') return assert
    if (plain === 'assert/strict') return assert.strict
    if (HIDDEN.has(plain)) throw new Error(`module ${plain} is not available`)
    return original(name)
  }

  let finished = false
  process.on('beforeExit', () => {
    if (!finished) return
    writeSync(1, `\n${number}\n`)
    exit(0)
  })

  const module = new Module('/tmp/program.js')
  const parameters = ['exports', 'require', 'module', '__filename', '__dirname']
  let body
  try {
    body = vm.compileFunction(source, parameters, { filename: '/tmp/program.js' })
  } catch (error) {
    writeSync(2, `${error.name}: ${error.message}`)
    exit(NOT_A_PROGRAM)
  }
  body.call(module.exports, module.exports, provide, module, '/tmp/program.js', '/tmp')
  finished = true
})()
