// Calls a service with the token that podtoken keeps fresh. It reads the file for each request, and watches the
// DIRECTORY to act on a change: a watch of the file would stay with the old one, because a new one takes its place by a
// rename. Reading costs microseconds: the file is in memory, and complete at any time.
import { readFileSync, watch } from 'node:fs'
import { basename, dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

const { VAULT_TOKEN_FILE: tokenFile, SERVICE_URL: serviceURL, EVERY_SECONDS: everySeconds } = process.env

watch(dirname(tokenFile), (event, name) => {
  if (event === 'rename' && name === basename(tokenFile)) {
    // Sessions that were opened with the old token would be opened again here.
    console.error('the token has changed')
  }
})

while (true) {
  const token = readFileSync(tokenFile, 'ascii')
  try {
    const answer = await fetch(serviceURL, {
      headers: { authorization: `Bearer ${token}` },
      signal: AbortSignal.timeout(10_000)
    })
    console.error('the service answered', answer.status)
    await answer.arrayBuffer()
  } catch (error) {
    console.error('the call failed:', error.message)
  }
  await sleep(Number(everySeconds) * 1000)
}
