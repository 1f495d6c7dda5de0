// A Yjs document in JavaScript: reads an update, says in JSON what its roots hold, and writes into each of them.
//
// In: one update in base64 on stdin. Out: {"read": what was there, "update": the document's whole update in base64}.

import { readFileSync } from 'node:fs'
import * as Y from 'yjs'

const plain = (_, value) => {
  if (typeof value === 'bigint') return `${value}n`
  if (Object.is(value, -0)) return 'minus zero'
  if (Number.isNaN(value)) return 'not a number'
  return value instanceof Uint8Array ? `bytes ${Buffer.from(value).toString('hex')}` : value
}

const doc = new Y.Doc()
Y.applyUpdate(doc, Buffer.from(readFileSync(0, 'ascii'), 'base64'))
const settings = doc.getMap('map:settings')
const layers = doc.getArray('list:layers')
const notes = doc.getText('text:notes')
const read = {
  counter: [...doc.getMap('counter:steps').values()].reduce((sum, value) => sum + value, 0),
  layers: layers.toArray(),
  leader: doc.getMap('register:leader').get('value'),
  members: [...doc.getMap('set:members').values()],
  notes: notes.toString(),
  presence: doc.getMap('own:presence').toJSON(),
  settings: settings.toJSON()
}

doc.transact(() => {
  settings.set('from js', [1, 1.5, -1, 2 ** 53, 2 ** 31, 1e300, -0, 'text', null, undefined, new Uint8Array([1]), { a: 7n }])
  settings.delete('removed')
  layers.insert(1, ['x', { '': true }])
  notes.insert(3, '漢😀')
  doc.getMap('counter:steps').set('js', 5)
  doc.getMap('set:members').set('"js"@js', 'js')
  doc.getMap('own:presence').set('js', {})
  doc.getMap('register:leader').set('value', 'js')
})
const update = Buffer.from(Y.encodeStateAsUpdate(doc)).toString('base64')
console.log(JSON.stringify({ read: JSON.parse(JSON.stringify(read, plain)), update }))
