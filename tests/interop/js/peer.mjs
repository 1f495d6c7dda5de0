// A foreign peer: js-libp2p, in a process of its own. Talks JSON lines on its standard output; ends with its input.
//
//   peer.mjs relay [unlimited [LISTEN]]   a circuit relay, with its default limits or without; says where it listens
//   peer.mjs listen RELAY        reserves at the relay with this address; says at which circuit address it is reached
//   peer.mjs ping ADDRESS        connects to the address, pings; says how long that took and over which address

import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { circuitRelayServer, circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { identify, identifyPush } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const [role, argument, listenAt] = process.argv.slice(2)

const listen = {
  relay: [listenAt ?? '/ip4/127.0.0.1/tcp/0'],
  listen: [`${argument}/p2p-circuit`],
  ping: []
}[role]

const services = { identify: identify(), identifyPush: identifyPush(), ping: ping() }
if (role === 'relay') {
  services.relay = circuitRelayServer({ reservations: { applyDefaultLimit: argument !== 'unlimited' } })
}

const node = await createLibp2p({
  // A public address counts as its own only when told so: nobody here could confirm it.
  addresses: { listen, announce: listenAt == null ? [] : [listenAt] },
  transports: [tcp(), circuitRelayTransport()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionGater: { denyDialMultiaddr: () => false },
  services
})

function say (fields) {
  process.stdout.write(JSON.stringify(fields) + '\n')
}

async function circuitAddress () {
  for (let turn = 0; turn < 700; turn++) {
    const found = node.getMultiaddrs().find(address => address.toString().includes('/p2p-circuit'))
    if (found != null) {
      return found.toString()
    }
    await new Promise(resolve => setTimeout(resolve, 50))
  }
  throw new Error('no reservation')
}

if (role === 'relay') {
  say({ address: node.getMultiaddrs()[0].toString() })
} else if (role === 'listen') {
  say({ address: await circuitAddress() })
} else {
  const rtt = await node.services.ping.ping(multiaddr(argument))
  const relayed = node.getConnections().find(one => one.remoteAddr.toString().includes('/p2p-circuit'))
  say({ rtt_ms: rtt, over: relayed?.remoteAddr.toString() ?? null, limits: relayed?.limits != null })
}

process.stdin.resume()
process.stdin.on('end', async () => {
  await node.stop()
  process.exit(0)
})
